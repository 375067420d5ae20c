"""The queue, on each database: order, limits, leases, fences, and what survives whom."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server import accounts, queue
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, now_ms, users
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import list_jobs
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings
from tests.conftest import LONG
from tests.server.running import PATIENCE, wait_for

RESULT = queue.Result(pages_total=1, pages_done=1, pages_failed=0)


def add(database: Database, owner: str = "somebody", lane: queue.Lane = "batch", **values: Any) -> str:
    job_id = new_id()

    def work(connection: Connection) -> None:
        row = {
            "id": job_id, "owner_id": accounts.ensure_user(connection, owner, "user"), "lane": lane, "status": "queued",
            "priority": queue.PRIORITY[lane], "params": {}, "created_at": now_ms(), "updated_at": now_ms(), **values,
        }  # fmt: skip
        connection.execute(sa.insert(jobs).values(row))

    database.write(work)
    return job_id


def claim(database: Database, worker: str = "w1", limit: int = 100) -> queue.Claim | None:
    return database.write(lambda connection: queue.claim(connection, worker, jobs_per_user=limit))


def taken(database: Database, worker: str = "w1", limit: int = 100) -> queue.Claim:
    found = claim(database, worker, limit)
    assert found is not None
    return found


def change(database: Database, job_id: str, **values: Any) -> None:
    database.write(
        lambda connection: connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))
    )


def job(database: Database, job_id: str) -> dict[str, Any]:
    row = database.read(
        lambda connection: connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().one()
    )
    return dict(row)


def test_a_reason_that_no_database_can_hold_still_ends_the_job(database: Database) -> None:
    """A name of a file may have halves of characters, and a driver may write NUL."""
    odd = "page\0 \udcff.png"
    result = queue.Result(
        pages_total=1,
        pages_done=0,
        pages_failed=1,
        device=odd,
        failures=[{"source": odd, "kind": "x", "reason": odd}],
    )
    job_id = add(database)
    held = taken(database)
    database.write(lambda c: queue.fail(c, held, "no_page", odd, result))
    found = job(database, job_id)
    assert (found["status"], found["error"]) == ("failed", "page\ufffd \ufffd.png")
    assert found["device"] == "page\ufffd \ufffd.png" and found["failures"][0]["kind"] == "x"


def lose_lease(database: Database, job_id: str) -> None:
    change(database, job_id, lease_until=0)


def test_priority_then_first_come_first_served(database: Database) -> None:
    first, second = add(database), add(database)
    quick = add(database, lane="interactive")
    assert [taken(database).job_id for _ in range(3)] == [quick, first, second]
    assert claim(database) is None


def test_a_lane_may_be_left_to_others(database: Database) -> None:
    add(database)
    quick = add(database, lane="interactive")

    def work(connection: Connection) -> queue.Claim | None:
        return queue.claim(connection, "w", jobs_per_user=9, lanes=("interactive",))

    found = database.write(work)
    assert found is not None and found.job_id == quick
    assert database.write(work) is None


def test_a_user_with_enough_running_jobs_is_passed_over(database: Database) -> None:
    mine = [add(database, "me") for _ in range(3)]
    theirs = add(database, "them")
    first = taken(database, limit=1)
    assert first.job_id == mine[0]
    assert taken(database, limit=1).job_id == theirs
    assert claim(database, limit=1) is None
    assert not database.read(lambda connection: queue.has_work(connection, jobs_per_user=1))
    database.write(lambda connection: queue.complete(connection, first, RESULT))
    assert database.read(lambda connection: queue.has_work(connection, jobs_per_user=1))
    assert taken(database, limit=1).job_id == mine[1]


def test_a_user_may_have_a_limit_of_their_own(database: Database) -> None:
    for _ in range(3):
        add(database, "me")
    database.write(lambda connection: connection.execute(sa.update(users).values(jobs_at_once=2)))
    assert [claim(database, limit=1) is not None for _ in range(3)] == [True, True, False]


def test_claims_at_the_same_time_get_different_jobs_within_the_limits(
    database: Database, settings: ServerSettings
) -> None:
    for number in range(12):
        add(database, f"user{number % 2}")
    others = [open_database(settings, migrating=False) for _ in range(3)]
    try:
        with ThreadPoolExecutor(12) as threads:
            futures = [
                threads.submit(claim, each, f"w{number}", 3)
                for number in range(4)
                for each in (database, *others)
            ]
            found = [claimed for future in futures if (claimed := future.result(60)) is not None]
    finally:
        for each in others:
            each.close()
    assert len({claimed.job_id for claimed in found}) == len(found) == 6
    assert Counter(claimed.job["owner_id"] for claimed in found).most_common(1)[0][1] == 3


def test_a_lost_lease_is_claimed_again_and_the_old_fence_settles_nothing(database: Database) -> None:
    job_id = add(database)
    old = taken(database, "w1")
    lose_lease(database, job_id)
    new = taken(database, "w2")
    assert (new.job_id, new.fence, new.attempt) == (job_id, old.fence + 1, 2)
    settlements: list[Callable[[Connection], object]] = [
        lambda connection: queue.heartbeat(connection, old, pages_done=9),
        lambda connection: queue.complete(connection, old, RESULT),
        lambda connection: queue.fail(connection, old, "x", "x"),
        lambda connection: queue.retry(connection, old, "x", "x"),
        lambda connection: queue.release(connection, old),
        lambda connection: queue.cancel_running(connection, old),
    ]
    for settle in settlements:
        with pytest.raises(queue.LostLeaseError):
            database.write(settle)
    assert (job(database, job_id)["status"], job(database, job_id)["pages_done"]) == ("running", 0)
    database.write(lambda connection: queue.complete(connection, new, RESULT))
    assert job(database, job_id)["status"] == "completed"


def test_a_worker_that_was_only_slow_keeps_its_job(database: Database) -> None:
    job_id = add(database)
    held = taken(database)
    lose_lease(database, job_id)
    assert database.write(lambda connection: queue.heartbeat(connection, held)) is False
    assert claim(database, "w2") is None


def test_a_job_that_ends_three_workers_is_set_aside(database: Database) -> None:
    job_id = add(database)
    for attempt in (1, 2, 3):
        assert not database.read(queue.has_abandoned)
        assert taken(database).attempt == attempt
        lose_lease(database, job_id)
    # Nobody would claim it, so somebody must be told to look: it was once left running for ever.
    assert not database.read(lambda connection: queue.has_work(connection, jobs_per_user=9))
    assert database.read(queue.has_abandoned)
    assert claim(database) is None
    assert not database.read(queue.has_abandoned)
    found = job(database, job_id)
    assert (found["status"], found["error_code"]) == ("failed", "set_aside")


def test_a_job_with_progress_outlives_any_number_of_workers(database: Database) -> None:
    job_id = add(database)
    for pages in range(1, 9):
        held = taken(database)
        database.write(
            lambda connection, held=held, pages=pages: queue.heartbeat(connection, held, pages_done=pages)
        )
        lose_lease(database, job_id)
    assert taken(database).job_id == job_id


def test_a_released_job_does_not_count_the_attempt(database: Database) -> None:
    job_id = add(database)
    for _ in range(5):
        held = taken(database)
        assert held.attempt == 1
        database.write(lambda connection, held=held: queue.release(connection, held))
    assert job(database, job_id)["status"] == "queued"


def test_a_failure_that_may_pass_is_tried_later_and_finally_fails(database: Database) -> None:
    job_id = add(database)
    for attempt in (1, 2):
        held = taken(database)
        assert database.write(
            lambda connection, held=held: queue.retry(connection, held, "disk", "The disk is full.")
        )
        waiting = job(database, job_id)
        assert (waiting["status"], waiting["error"]) == ("queued", "The disk is full.")
        wait = (waiting["not_before"] - waiting["updated_at"]) / 1000
        assert wait == pytest.approx(queue.BACKOFF_SECONDS[attempt - 1] * 1.1, rel=0.12)
        assert claim(database) is None
        change(database, job_id, not_before=0)
    held = taken(database)
    assert not database.write(lambda connection: queue.retry(connection, held, "disk", "The disk is full."))
    assert job(database, job_id)["status"] == "failed"


def test_the_queue_can_be_paused(database: Database) -> None:
    add(database)
    database.write(lambda connection: queue.set_state(connection, paused=True))
    assert claim(database) is None
    assert not database.read(lambda connection: queue.has_work(connection, jobs_per_user=9))
    database.write(lambda connection: queue.set_state(connection, paused=False))
    assert claim(database) is not None


def test_cancel_while_queued_and_while_running(database: Database) -> None:
    waiting = add(database)
    assert database.write(lambda connection: queue.request_cancel(connection, waiting)) == "canceled"
    running = add(database)
    held = taken(database)
    assert held.job_id == running
    assert database.write(lambda connection: queue.request_cancel(connection, running)) == "running"
    assert database.write(lambda connection: queue.heartbeat(connection, held)) is True
    database.write(lambda connection: queue.cancel_running(connection, held))
    assert job(database, running)["status"] == "canceled"
    assert database.write(lambda connection: queue.request_cancel(connection, "none")) is None


def test_a_canceled_job_of_a_dead_worker_is_not_run_again(database: Database) -> None:
    job_id = add(database)
    taken(database)
    database.write(lambda connection: queue.request_cancel(connection, job_id))
    lose_lease(database, job_id)
    assert claim(database) is None
    assert job(database, job_id)["status"] == "canceled"


GIVE_BACK: dict[str, Callable[[Connection, queue.Claim], bool]] = {
    "retry": lambda connection, held: queue.retry(connection, held, "disk", "The disk is full."),
    "release": queue.release,
    "postpone": lambda connection, held: queue.postpone(connection, held, "storage", "The storage is away."),
}


@pytest.mark.parametrize("how", GIVE_BACK)
@pytest.mark.parametrize("attempt", [1, queue.MAX_ATTEMPTS])
def test_a_canceled_job_that_is_given_back_does_not_stay_queued(
    database: Database, how: str, attempt: int
) -> None:
    job_id = add(database, attempts=attempt - 1)
    held = taken(database)
    assert database.write(lambda connection: queue.request_cancel(connection, job_id)) == "running"
    assert database.write(lambda connection: GIVE_BACK[how](connection, held)) is False
    found = job(database, job_id)
    assert (found["status"], found["finished_at"] is not None) == ("canceled", True)


@pytest.mark.parametrize("how", GIVE_BACK)
def test_a_cancellation_while_a_job_is_given_back_is_not_lost(
    database: Database, settings: ServerSettings, how: str
) -> None:
    job_id = add(database)
    held = taken(database)
    given_back, may_commit = threading.Event(), threading.Event()

    def give_back(connection: Connection) -> None:
        GIVE_BACK[how](connection, held)
        given_back.set()
        assert may_commit.wait(PATIENCE)

    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    other = open_database(settings, migrating=False)
    try:
        with ThreadPoolExecutor(2) as threads:
            giving = threads.submit(database.write, give_back)
            assert given_back.wait(PATIENCE)
            canceling = threads.submit(
                other.write, lambda connection: queue.request_cancel(connection, job_id)
            )
            if not database.is_sqlite:
                # On SQLite, the second change begins when the first one is done.
                wait_for(lambda: database.read(lambda connection: connection.scalar(waiting)))
            may_commit.set()
            giving.result(PATIENCE)
            assert canceling.result(PATIENCE) == "canceled"
    finally:
        may_commit.set()
        other.close()
    assert job(database, job_id)["status"] == "canceled"


def test_attempts_before_the_last_progress_do_not_count(database: Database) -> None:
    job_id = add(database, attempts=queue.MAX_ATTEMPTS - 1)
    held = taken(database)
    assert held.attempt == queue.MAX_ATTEMPTS
    database.write(lambda connection: queue.heartbeat(connection, held, pages_done=1))
    assert database.write(lambda connection: queue.retry(connection, held, "disk", "The disk is full."))
    waiting = job(database, job_id)
    assert waiting["status"] == "queued"
    wait = (waiting["not_before"] - waiting["updated_at"]) / 1000
    assert wait == pytest.approx(queue.BACKOFF_SECONDS[0] * 1.1, rel=0.12)


def test_a_paused_queue_settles_the_jobs_of_dead_workers(database: Database) -> None:
    canceled, crashing = add(database), add(database, attempts=queue.MAX_ATTEMPTS - 1)
    for job_id in (canceled, crashing):
        assert taken(database).job_id == job_id
    database.write(lambda connection: queue.request_cancel(connection, canceled))
    database.write(lambda connection: queue.set_state(connection, paused=True))
    for job_id in (canceled, crashing):
        lose_lease(database, job_id)
    assert database.read(queue.has_abandoned)
    assert claim(database) is None
    # An idle worker would otherwise find work each time, and take the lock of the database.
    assert not database.read(queue.has_abandoned)
    assert [job(database, job_id)["status"] for job_id in (canceled, crashing)] == ["canceled", "failed"]


def test_a_dead_worker_gives_its_jobs_back_at_once(database: Database) -> None:
    job_id = add(database)
    taken(database, "dead")
    assert claim(database, "w2") is None
    assert database.write(lambda connection: queue.end_leases(connection, "dead")) == 1
    assert taken(database, "w2").job_id == job_id


def test_a_place_far_behind_is_not_counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "FARTHEST", 2)
    ids = [add(database, created_at=number) for number in range(5)]
    places = database.read(lambda c: [queue.position(c, job(database, job_id)) for job_id in ids])
    assert places == [1, 2, 3, None, None]
    urgent = add(database, lane="interactive", created_at=9)
    assert database.read(lambda c: queue.position(c, job(database, urgent))) == 1
    assert database.read(lambda c: queue.position(c, job(database, ids[2]))) is None


@pytest.mark.parametrize("status", [None, "completed", "queued"])
@pytest.mark.parametrize("everyone", [True, False])
def test_lists_and_places_are_read_from_an_index(
    database: Database, status: str | None, everyone: bool
) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by statistics, which a small table does not have")
    last = job(database, add(database, created_at=5))
    account = accounts.Account(
        user_id=last["owner_id"], name="x", role="admin", scopes=frozenset(), address="192.0.2.1"
    )

    def plans(connection: Connection) -> list[str]:
        seen: list[tuple[str, Any]] = []
        sa.event.listen(
            connection, "before_cursor_execute",
            lambda _c, _cursor, text, values, *_: seen.append((text, values)),
        )  # fmt: skip
        list_jobs(connection, account, status=status, before=(9, "x"), everyone=everyone)
        queue.position(connection, last)
        return [
            str(row[-1])
            for text, values in list(seen)
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
        ]

    found = database.read(plans)
    assert any("jobs" in step for step in found)
    assert [step for step in found if "TEMP B-TREE" in step or step.startswith("SCAN jobs")] == []


def test_positions_in_the_queue(database: Database) -> None:
    ids = [add(database), add(database), add(database, lane="interactive")]

    def positions(connection: Connection) -> list[int | None]:
        rows = {row["id"]: row for row in connection.execute(sa.select(jobs)).mappings()}
        return [queue.position(connection, rows[job_id]) for job_id in ids]

    assert database.read(positions) == [2, 3, 1]
    taken(database)
    assert database.read(positions) == [1, 2, None]


@pytest.mark.parametrize("seed", range(3 if LONG else 1))
def test_no_order_of_events_loses_or_doubles_a_job(database: Database, seed: int) -> None:
    """Workers that claim, die, stop, fail and settle late, at random: each job ends once, by its last holder."""
    dice = random.Random(seed)
    wanted = {add(database, f"user{number % 3}") for number in range(12)}
    held: list[queue.Claim] = []
    settled: Counter[str] = Counter()
    for _ in range(400):
        action = dice.choice(["claim", "claim", "complete", "die", "release", "late"])
        if action == "claim":
            found = claim(database, f"w{dice.randrange(4)}", limit=2)
            held += [found] if found else []
        elif held:
            each = held[dice.randrange(len(held))]
            if action == "die":
                lose_lease(database, each.job_id)
                change(database, each.job_id, attempts=1)
            elif action == "release":
                with contextlib.suppress(queue.LostLeaseError):
                    database.write(lambda connection, each=each: queue.release(connection, each))
            else:
                try:
                    database.write(lambda connection, each=each: queue.complete(connection, each, RESULT))
                    settled[each.job_id] += 1
                except queue.LostLeaseError:
                    pass
    while (found := claim(database, limit=100)) is not None:
        database.write(lambda connection, found=found: queue.complete(connection, found, RESULT))
        settled[found.job_id] += 1
    for each in held:
        try:
            database.write(lambda connection, each=each: queue.complete(connection, each, RESULT))
            settled[each.job_id] += 1
        except queue.LostLeaseError:
            pass
    assert settled == Counter(wanted)
