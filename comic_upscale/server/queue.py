"""The queue: the table of jobs. A worker claims a job with a lease and a fence, and settles it with that fence.

* A *lease* is a time until which the worker counts as alive; it renews the lease while it works. A job whose lease has
  ended is claimed again, and continues from its ledger.
* A *fence* is a number that grows with each claim. A settlement with an old fence changes nothing, so a worker that
  was stopped for an hour cannot overwrite the work of the next one.

Every function takes the connection of a transaction; `Database.write` provides it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.models.download import without_places
from comic_upscale.server.database.schema import is_over, jobs, now_ms, outbox, queue, users

Lane: TypeAlias = Literal["interactive", "batch"]

LEASE_SECONDS = 30.0
MAX_ATTEMPTS = 3
"""A job that ended its worker this often without any progress is set aside."""
BACKOFF_SECONDS = (15.0, 120.0)
"""Waiting time before the second and the third attempt, with up to a fifth more at random."""
FARTHEST = 1000
"""The most jobs before one whose place in the queue is told."""
_FEW = 2
"""Jobs whose places are counted one by one. For more, the beginning of the queue is read once."""
POSTPONE_SECONDS = 60.0
"""Waiting time while the storage is away."""
_LONGEST_WAIT_MS = max(*BACKOFF_SECONDS, POSTPONE_SECONDS) * 1200
WORKER_ENDED = "worker_ended"
"""The code of a job whose worker died, until the next one claims it."""
PRIORITY: Mapping[Lane, int] = {"interactive": 100, "batch": 0}


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed job. Only its holder may settle it."""

    job_id: str
    fence: int
    attempt: int
    """1 for the first."""
    job: Mapping[str, Any]
    """The row of the job."""
    last_words: str | None = None
    """Of the worker that held the job before, if it died and left some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a job ended."""

    pages_total: int
    pages_done: int
    pages_failed: int
    failures: Sequence[Mapping[str, str]] = ()
    """The first failed pages: source, kind, reason."""
    model: str | None = None
    device: str | None = None
    seconds: float | None = None
    pixels: int = 0
    """Pixels of the outputs."""


class LostLeaseError(Exception):
    """Another worker holds the job, or it was removed. Stop working on it, and write nothing more."""


def claim(
    connection: Connection,
    worker_id: str,
    *,
    jobs_per_user: int,
    lanes: Sequence[Lane] = ("interactive", "batch"),
    besides: Collection[str] = (),
) -> Claim | None:
    """Claim the next job; None if there is none.

    Order: priority, then first come, first served. A user with as many running jobs in a lane as allowed is passed
    over there. Jobs whose lease has ended are claimed like queued ones.

    Args:
        connection: in a transaction that writes.
        worker_id: who claims.
        jobs_per_user: the limit for users without one of their own.
        lanes: which jobs may be claimed.
        besides: jobs that the same worker runs already. After a machine has slept, their leases seem to have ended,
            until the worker renews them.
    """
    # On PostgreSQL this lock puts claims in a row, so that a limit per user holds. SQLite has one writer anyhow.
    paused = connection.scalar(sa.select(queue.c.paused).where(queue.c.id == 1).with_for_update())
    # Also while the queue is paused: workers look for such jobs, and would otherwise find the same ones each time.
    set_aside(connection)
    if paused:
        return None
    next_job = _find_next(connection, _eligible(jobs_per_user, lanes, besides))
    if next_job is None:
        return None
    words = connection.scalar(
        sa.select(jobs.c.error).where(jobs.c.id == next_job, jobs.c.error_code == WORKER_ENDED)
    )
    row = (
        connection.execute(
            sa.update(jobs)
            # It may have been cancelled since.
            .where(jobs.c.id == next_job, jobs.c.status.in_(("queued", "running")), ~jobs.c.cancel_requested)
            .values(
                status="running",
                worker_id=worker_id,
                fence=jobs.c.fence + 1,
                attempts=jobs.c.attempts + 1,
                lease_until=now_ms() + int(LEASE_SECONDS * 1000),
                started_at=sa.func.coalesce(jobs.c.started_at, now_ms()),
                error=None,
                error_code=None,
                # Of the worker before.
                within=None,
                **_touch(),
            )
            .returning(*jobs.c)
        )
        .mappings()
        .first()
    )
    return None if row is None else Claim(row["id"], row["fence"], row["attempts"], dict(row), words)


def has_work(
    connection: Connection,
    *,
    jobs_per_user: int,
    lanes: Sequence[Lane] = ("interactive", "batch"),
    besides: Collection[str] = (),
) -> bool:
    """Return whether a claim would find a job now. Takes no lock."""
    if connection.scalar(sa.select(queue.c.paused).where(queue.c.id == 1)):
        return False
    return _find_next(connection, _eligible(jobs_per_user, lanes, besides)) is not None


def heartbeat(connection: Connection, claimed: Claim, **progress: Any) -> bool:
    """Renew the lease, store the progress, and return whether the job should be cancelled.

    Args:
        connection: in a transaction that writes.
        claimed: the job.
        progress: columns of the job that changed, such as ``pages_done``.

    Raises:
        LostLeaseError: the claim is no longer valid.
    """
    values: dict[str, Any] = {"lease_until": now_ms() + int(LEASE_SECONDS * 1000), **_public(progress)}
    if progress:
        values.update(_touch())
    if "pages_done" in progress:
        # Attempts count from the last progress: a long job may outlive many workers.
        values["attempts"] = sa.case((jobs.c.pages_done < progress["pages_done"], 1), else_=jobs.c.attempts)
    found = connection.execute(
        sa.update(jobs).where(*_held(claimed)).values(values).returning(jobs.c.cancel_requested)
    ).first()
    if found is None:
        raise LostLeaseError(claimed.job_id)
    return bool(found[0])


def check_claim(connection: Connection, claimed: Claim) -> None:
    """Check that a claim is valid, and that it stays so until the end of the transaction.

    Raises:
        LostLeaseError: the claim is no longer valid.
    """
    _lock(connection, claimed)


def complete(connection: Connection, claimed: Claim, result: Result) -> None:
    """Record that a job is done; errors as for `heartbeat`."""
    _settle(connection, claimed, status="completed", finished_at=now_ms(), **_columns(result))


def fail(
    connection: Connection, claimed: Claim, code: str, message: str, result: Result | None = None
) -> None:
    """Record that a job failed for good; errors as for `heartbeat`.

    Args:
        connection: in a transaction that writes.
        claimed: the job.
        code: a short stable word for programs.
        message: a sentence for the user.
        result: the pages, if the job got that far.
    """
    columns = {} if result is None else _columns(result)
    _settle(
        connection, claimed, status="failed", finished_at=now_ms(), error_code=code, error=message, **columns
    )


def cancel_running(connection: Connection, claimed: Claim) -> None:
    """Record that a running job has stopped because of a cancellation; errors as for `heartbeat`."""
    _settle(connection, claimed, status="canceled", finished_at=now_ms())


def retry(connection: Connection, claimed: Claim, code: str, message: str) -> bool:
    """Queue a job again after a failure that may pass, or fail it after the last attempt; return whether it is queued.

    The waiting time is stored with the job, so it survives a restart. A job whose cancellation was requested is
    cancelled instead. Errors as for `heartbeat`.
    """
    held = _lock(connection, claimed)
    if not held.cancel_requested and held.attempts >= MAX_ATTEMPTS:
        fail(connection, claimed, code, f"{message} (attempt {held.attempts} of {MAX_ATTEMPTS})")
        return False
    wait = BACKOFF_SECONDS[min(held.attempts, len(BACKOFF_SECONDS)) - 1] * random.uniform(1.0, 1.2)
    return _requeue(
        connection, claimed, not_before=now_ms() + int(wait * 1000), error_code=code, error=message
    )


def release(connection: Connection, claimed: Claim) -> bool:
    """Give a job back because its worker stops, without counting the attempt; return whether it is queued.

    Errors as for `heartbeat`.
    """
    return _requeue(connection, claimed, attempts=jobs.c.attempts - 1, not_before=0)


def postpone(connection: Connection, claimed: Claim, code: str, message: str) -> bool:
    """Give a job back because something besides the job is away, for as long as that takes.

    The attempt does not count. Returns whether it is queued; errors as for `heartbeat`.
    """
    wait = POSTPONE_SECONDS * random.uniform(1.0, 1.2)
    return _requeue(
        connection, claimed, attempts=jobs.c.attempts - 1, not_before=now_ms() + int(wait * 1000),
        error_code=code, error=message,
    )  # fmt: skip


def end_leases(connection: Connection, worker_id: str, last_words: str | None = None) -> int:
    """End the leases of a worker that is known to be dead, so that its jobs continue at once; return their number.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        last_words: why it died, as far as it is known; the next claim returns them.
    """
    values: dict[str, Any] = {"lease_until": 0}
    if last_words is not None:
        values |= {"error_code": WORKER_ENDED, "error": last_words, **_touch()}
    held = jobs.c.status == "running", jobs.c.worker_id == worker_id
    return connection.execute(sa.update(jobs).where(*held).values(values)).rowcount


def excuse_attempt(connection: Connection, claimed: Claim) -> None:
    """Do not count the attempt before this one: it is known which page ended it, and pages are counted.

    Errors as for `heartbeat`.
    """
    check_claim(connection, claimed)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == claimed.job_id, jobs.c.attempts > 1)
        .values(attempts=jobs.c.attempts - 1)
    )


def request_cancel(connection: Connection, job_id: str) -> str | None:
    """Cancel a queued job, or ask the worker of a running one to stop; return the new status, None if there is none.

    A job that has ended keeps its status.
    """
    # Its worker may give the job back between the two changes. With its row locked, the second one finds it as it is.
    connection.execute(sa.select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
    canceled = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == "queued")
        .values(status="canceled", finished_at=now_ms(), cancel_requested=True, **_touch())
    )
    if canceled.rowcount:
        _announce(connection, jobs.c.id == job_id)
    else:
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.status == "running", ~jobs.c.cancel_requested)
            .values(cancel_requested=True, **_touch())
        )
    return connection.scalar(sa.select(jobs.c.status).where(jobs.c.id == job_id))


def set_aside(connection: Connection) -> int:
    """Settle running jobs whose lease has ended and that are not tried again; return their number.

    These are jobs whose cancellation was requested, and jobs that ended their worker `MAX_ATTEMPTS` times.
    """
    gone: dict[str, Any] = {"finished_at": now_ms(), "lease_until": None, **_touch()}
    canceled = {"status": "canceled", **gone}
    failed = {
        "status": "failed",
        "error_code": "set_aside",
        "error": f"The worker ended {MAX_ATTEMPTS} times while it processed this job, so the job was set aside. "
        "Its pages may need more memory than there is. Requeue it to try again.",
        **gone,
    }
    settled: list[str] = []
    for condition, values in ((jobs.c.cancel_requested, canceled), (jobs.c.attempts >= MAX_ATTEMPTS, failed)):
        settled += connection.scalars(
            sa.update(jobs).where(*_ended(), condition).values(values).returning(jobs.c.id)
        )
    if settled:
        _announce(connection, jobs.c.id.in_(settled))
    return len(settled)


def has_abandoned(connection: Connection) -> bool:
    """Return whether `set_aside` would settle a job now. Takes no lock."""
    given_up = sa.or_(jobs.c.cancel_requested, jobs.c.attempts >= MAX_ATTEMPTS)
    return connection.execute(sa.select(jobs.c.id).where(*_ended(), given_up).limit(1)).first() is not None


def _ended() -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.status == "running", lease_is_over()


def lease_is_over() -> sa.ColumnElement[bool]:
    """Return whether the worker of a running job no longer renews its lease."""
    return is_over(jobs.c.lease_until, LEASE_SECONDS * 1000)


def is_busy(connection: Connection, which: sa.ColumnElement[bool]) -> bool:
    """Return whether one of some jobs is queued or running."""
    busy = sa.select(jobs.c.id).where(which, jobs.c.status.in_(("queued", "running")))
    return connection.execute(busy.limit(1)).first() is not None


def is_paused(connection: Connection) -> bool:
    """Return whether no job is claimed for now."""
    return bool(connection.scalar(sa.select(queue.c.paused).where(queue.c.id == 1)))


def in_maintenance(connection: Connection) -> bool:
    """Return whether new uploads are refused for now."""
    return bool(connection.scalar(sa.select(queue.c.maintenance).where(queue.c.id == 1)))


def set_state(connection: Connection, **flags: bool) -> None:
    """Set ``paused`` or ``maintenance``. Running jobs continue in either state."""
    connection.execute(sa.update(queue).where(queue.c.id == 1).values(**flags, revision=queue.c.revision + 1))


def position(connection: Connection, job: Mapping[str, Any]) -> int | None:
    """Return the place of a queued job in the queue, 1 for the next one.

    None for a job that is not queued, or that has more than `FARTHEST` jobs before it: a list of jobs would otherwise
    count a long queue again for each of its rows.
    """
    if job["status"] != "queued":
        return None
    place = {name: job[column] for name, column in _PLACE.items()}
    before: int = connection.scalar(_BEFORE, place) or 0
    return None if before > FARTHEST else before + 1


def _count_before() -> sa.Select[tuple[int]]:
    """Return the query for the number of queued jobs before a place, as far as `FARTHEST`."""
    higher = jobs.c.priority > sa.bindparam("its_priority")
    earlier = sa.and_(
        jobs.c.priority == sa.bindparam("its_priority"),
        sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(sa.bindparam("its_time"), sa.bindparam("its_id")),
    )
    # Two ranges of one index. As one condition, they would be a scan of the whole queue.
    counts = [
        sa.select(sa.func.count())
        .select_from(
            sa.select(jobs.c.id).where(jobs.c.status == "queued", which).limit(FARTHEST + 1).subquery()
        )
        .scalar_subquery()
        for which in (higher, earlier)
    ]
    return sa.select(counts[0] + counts[1])


_PLACE = {"its_priority": "priority", "its_time": "created_at", "its_id": "id"}
_BEFORE = _count_before()


def positions(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the places of several jobs in the queue by their ids, each like `position`."""
    queued = [row for row in rows if row["status"] == "queued"]
    if len(queued) <= _FEW:
        return {row["id"]: position(connection, row) for row in rows}
    first: list[str] = []
    for priority in _priorities(connection):
        ids = sa.select(jobs.c.id).where(jobs.c.status == "queued", jobs.c.priority == priority)
        first += connection.scalars(
            ids.order_by(jobs.c.created_at, jobs.c.id).limit(FARTHEST + 1 - len(first))
        )
        if len(first) > FARTHEST:
            break
    places = {job_id: number for number, job_id in enumerate(first, 1)}
    return {row["id"]: places.get(row["id"]) for row in rows}


def _find_next(connection: Connection, eligible: Sequence[sa.ColumnElement[bool]]) -> str | None:
    """Return the id of the job that a claim would take; None if there is none.

    Each query reads an index in its order and stops at the first match. One query for all of them would sort the
    whole queue.
    """
    ended = _first(connection, *_ended(), *eligible)
    for priority in _priorities(connection):
        if ended is not None and ended.priority > priority:
            break
        due = (
            jobs.c.status == "queued",
            jobs.c.priority == priority,
            is_over(jobs.c.not_before, _LONGEST_WAIT_MS),
        )
        queued = _first(connection, *due, *eligible)
        if queued is not None:
            places = [
                (-each.priority, each.created_at, each.id) for each in (queued, ended) if each is not None
            ]
            return str(min(places)[2])
    return None if ended is None else str(ended.id)


def _first(connection: Connection, *which: sa.ColumnElement[bool]) -> sa.Row[Any, Any, Any] | None:
    columns = sa.select(jobs.c.id, jobs.c.priority, jobs.c.created_at)
    order = (jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    return connection.execute(columns.where(*which).order_by(*order).limit(1)).first()


def _priorities(connection: Connection) -> Iterator[int]:
    """Yield the priorities of queued jobs, the highest first. Each takes one look into an index."""
    lower: tuple[sa.ColumnElement[bool], ...] = ()
    highest = sa.select(sa.func.max(jobs.c.priority)).where(jobs.c.status == "queued")
    while (priority := connection.scalar(highest.where(*lower))) is not None:
        yield priority
        lower = (jobs.c.priority < priority,)


def _eligible(
    jobs_per_user: int, lanes: Sequence[Lane], besides: Collection[str]
) -> tuple[sa.ColumnElement[bool], ...]:
    other, owner = jobs.alias("other"), users.alias("owner")
    running = (
        sa.select(sa.func.count())
        .select_from(other)
        .where(
            other.c.status == "running",
            ~is_over(other.c.lease_until, LEASE_SECONDS * 1000),
            other.c.owner_id == jobs.c.owner_id,
            # A user whose library keeps the batch lane busy may still open a single page.
            other.c.lane == jobs.c.lane,
        )
        .correlate(jobs)
        .scalar_subquery()
    )
    own_limit = sa.select(owner.c.jobs_at_once).where(owner.c.id == jobs.c.owner_id).correlate(jobs)
    return (
        jobs.c.attempts < MAX_ATTEMPTS,
        ~jobs.c.cancel_requested,
        jobs.c.lane.in_(lanes),
        jobs.c.id.not_in(besides),
        running < sa.func.coalesce(own_limit.scalar_subquery(), jobs_per_user),
    )


def _held(claimed: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        jobs.c.id == claimed.job_id,
        jobs.c.fence == claimed.fence,
        jobs.c.status == "running",
    )


def _lock(connection: Connection, claimed: Claim) -> sa.Row[Any, Any]:
    """Lock the row of a held job until the end of the transaction, and return what others may have changed.

    Raises:
        LostLeaseError: the claim is no longer valid.
    """
    held = sa.select(jobs.c.cancel_requested, jobs.c.attempts).where(*_held(claimed)).with_for_update()
    found = connection.execute(held).first()
    if found is None:
        raise LostLeaseError(claimed.job_id)
    return found


def _requeue(connection: Connection, claimed: Claim, **values: Any) -> bool:
    """Queue a held job again, or cancel it if that was requested: nobody would claim it then."""
    if _lock(connection, claimed).cancel_requested:
        cancel_running(connection, claimed)
        return False
    _settle(connection, claimed, status="queued", **values)
    return True


def _settle(connection: Connection, claimed: Claim, **values: Any) -> None:
    settled = connection.execute(
        sa.update(jobs).where(*_held(claimed)).values(lease_until=None, **_public(values), **_touch())
    )
    if not settled.rowcount:
        raise LostLeaseError(claimed.job_id)
    if "finished_at" in values:
        _announce(connection, jobs.c.id == claimed.job_id)


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns of a job whose error and failures name no folder of the worker. The job's log may name them."""
    public = dict(values)
    if public.get("error"):
        public["error"] = without_places(public["error"])
    if public.get("failures"):
        public["failures"] = [
            {**each, "reason": without_places(each["reason"])} for each in public["failures"]
        ]
    return public


def _announce(connection: Connection, which: sa.ColumnElement[bool]) -> None:
    """Put webhooks and mail about jobs that have just ended into the outbox, in the transaction of their end."""
    columns = ["id", "job_id", "kind", "target", "payload", "created_at"]
    # A job ends once, so its id is the id of its webhook, too, and there is one mail for each job.
    for kind, target, message_id in (
        ("webhook", jobs.c.callback_url, jobs.c.id),
        ("mail", jobs.c.email, sa.func.replace(jobs.c.id, "-", "m")),
    ):
        ended = sa.select(
            message_id, jobs.c.id, sa.literal(kind), target, sa.literal({}, sa.JSON), now_ms()
        ).where(which, target.is_not(None))
        connection.execute(sa.insert(outbox).from_select(columns, ended))


def _columns(result: Result) -> dict[str, Any]:
    return {
        "pages_total": result.pages_total,
        "pages_done": result.pages_done,
        "pages_failed": result.pages_failed,
        "failures": [dict(failure) for failure in result.failures],
        "model": result.model,
        "device": result.device,
        "seconds": result.seconds,
        "pixels": result.pixels,
    }


def _touch() -> dict[str, Any]:
    """Return the columns of every change that others should see."""
    return {"revision": jobs.c.revision + 1, "updated_at": now_ms()}
