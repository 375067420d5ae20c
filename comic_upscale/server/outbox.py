"""The outbox: webhooks and mail that are due, written with the end of their job, sent until they are accepted.

The receiver may get a message more than once, always with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from standardwebhooks.webhooks import Webhook

from comic_upscale.errors import DatabaseError
from comic_upscale.server.callbacks import CallbackError, RefusedError, Sender
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import is_over, jobs, now_ms, outbox, users
from comic_upscale.server.jobs import job_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 6 * 3600.0
GIVE_UP_MS = 86_400_000
"""A message is tried for a day."""
TRY_SECONDS = 45.0
"""The most that a try takes, also if no name server answers."""
AT_ONCE = 8
"""Messages that are tried at the same time."""
AT_ONCE_FOR_OWNER = 4
AT_ONCE_FOR_RECEIVER = 2
"""Of them, those of one user's jobs and those of one receiver: a slow receiver does not hold back the others."""
_HOLD_MS = 60_000
"""How long one try keeps others from trying the same message. It is more than a try can take."""
_LOOKED_AT = 64
"""Due messages that are looked at to find some that may be tried now."""
_RECEIVER = re.compile(r"[^/]*//[^/?#]*")


Deliver: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Sends one message, blocking. Raises `CallbackError` if another try may succeed, `RefusedError` if none will."""


class Webhooks:
    """Sends webhooks, signed.

    Args:
        secret: signs webhooks; ``whsec_`` and base64.
        sender: sends them.
    """

    def __init__(self, secret: str, sender: Sender) -> None:
        self._webhook, self._sender = Webhook(secret), sender

    def send(self, row: Mapping[str, Any]) -> None:
        """Send a webhook; a `Deliver`."""
        content = {
            "type": f"job.{row['job']['status']}",
            "timestamp": datetime.fromtimestamp(row["created_at"] / 1000, UTC).isoformat(),
            "data": row["data"],
        }
        body = json.dumps(content, ensure_ascii=False).encode()
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "comic-upscale",
            "webhook-id": row["id"],
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(row["id"], now, body.decode()),
        }
        self._sender.send(row["target"], body, headers)


class Outbox:
    """Sends the webhooks and the mail of a server.

    Args:
        database: of the server.
        deliver: sends a message, by its kind: ``webhook`` or ``mail``. Messages of other kinds wait.
    """

    def __init__(self, database: Database, deliver: Mapping[str, Deliver]) -> None:
        self._database, self._deliver = database, dict(deliver)
        # Threads of its own: slow receivers must not take those that serve requests.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="outbox")
        self._trying: dict[asyncio.Task[None], Mapping[str, Any]] = {}

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        try:
            while True:
                try:
                    started = await self._start_due()
                except DatabaseError as error:
                    log.error("%s", error)
                    started = []
                except Exception:
                    # The server goes on, which would end with this task.
                    log.exception("messages: an unexpected error")
                    started = []
                if not started:
                    await self._wait()
        finally:
            for task in self._trying:
                task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def send_due(self) -> int:
        """Try messages that are due now, wait for the end of these tries, and return their number.

        Raises:
            DatabaseError: the database cannot be used.
        """
        started = await self._start_due()
        await asyncio.gather(*started)
        return len(started)

    async def _wait(self) -> None:
        """Wait until a try ends, or for a while."""
        if self._trying:
            await asyncio.wait(self._trying, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(LOOK_SECONDS)

    async def _start_due(self) -> list[asyncio.Task[None]]:
        """Begin to try as many messages that are due as may be tried now."""
        trying, kinds = list(self._trying.values()), sorted(self._deliver)
        if len(trying) >= AT_ONCE:
            return []
        # Reading first, so that an idle server does not write.
        if not await self._database.read_async(
            lambda connection: connection.execute(_due(trying, kinds, outbox.c.id).limit(1)).first()
        ):
            return []
        taken = await self._database.write_async(lambda connection: _take(connection, trying, kinds))
        started = []
        for row in taken:
            task = asyncio.create_task(self._try(row))
            self._trying[task] = row
            task.add_done_callback(self._trying.pop)
            started.append(task)
        return started

    async def _try(self, row: Mapping[str, Any]) -> None:
        problem, is_final = await self._send(row)
        try:
            await self._database.write_async(
                lambda connection: _record(connection, row, problem, is_final=is_final)
            )
        except DatabaseError as error:
            # It is tried again when nobody holds it any more.
            log.error("%s", error)
        except Exception:
            log.exception("%s %s cannot be recorded", row["kind"], row["id"])

    async def _send(self, row: Mapping[str, Any]) -> tuple[str | None, bool]:
        """Send a message, and return what went wrong, and whether no other try would succeed."""
        try:
            sending = asyncio.get_running_loop().run_in_executor(
                self._threads, self._deliver[row["kind"]], row
            )
            await asyncio.wait_for(sending, TRY_SECONDS)
        except RefusedError as error:
            return str(error), True
        except CallbackError as error:
            return str(error), False
        except TimeoutError:
            return f"the try took longer than {TRY_SECONDS:g} seconds", False
        except Exception:
            log.exception("%s %s", row["kind"], row["id"], extra={"job_id": row["job"]["id"]})
            return "unexpected error; the log of the server has the details", False
        return None, False


def _due(trying: Sequence[Mapping[str, Any]], kinds: Sequence[str], *columns: Any) -> sa.Select[Any]:
    """Select messages of some kinds that are due, without users and receivers that have enough tries now."""
    owners, receivers = _count(trying)
    conditions = [
        outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None),
        is_over(outbox.c.not_before, LONGEST_WAIT_SECONDS * 1200),
        outbox.c.kind.in_(kinds),
    ]  # fmt: skip
    full = [owner for owner, count in owners.items() if count >= AT_ONCE_FOR_OWNER]
    if full:
        conditions.append(jobs.c.owner_id.not_in(full))
    for receiver, count in receivers.items():
        if count >= AT_ONCE_FOR_RECEIVER:
            conditions += [
                outbox.c.target != receiver,
                *(~outbox.c.target.startswith(f"{receiver}{end}", autoescape=True) for end in "/?#"),
            ]
    return (
        sa.select(*columns)
        .join_from(outbox, jobs, jobs.c.id == outbox.c.job_id)
        .where(*conditions)
        .order_by(outbox.c.not_before)
    )


def _count(trying: Iterable[Mapping[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Count tries by user and by receiver."""
    rows = list(trying)
    return Counter(row["owner_id"] for row in rows), Counter(_receiver(row["target"]) for row in rows)


def _receiver(target: str) -> str:
    """Return scheme, host and port of a URL, as it is written, or an address of mail."""
    found = _RECEIVER.match(target)
    return target if found is None else found[0]


def _take(
    connection: Connection, trying: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ("webhook", "mail")
) -> list[dict[str, Any]]:
    """Reserve some messages for this process, and return them with their jobs."""
    due = _due(trying, kinds, outbox, jobs, users.c.role)
    rows = connection.execute(
        due.join(users, users.c.id == jobs.c.owner_id)
        .limit(_LOOKED_AT)
        .with_for_update(of=outbox, skip_locked=True)
    ).all()
    owners, receivers = _count(trying)
    taken: list[dict[str, Any]] = []
    for row in rows:
        mapping = row._mapping
        job = {column.name: mapping[column] for column in jobs.c}
        owner, receiver = job["owner_id"], _receiver(mapping[outbox.c.target])
        if owners[owner] >= AT_ONCE_FOR_OWNER or receivers[receiver] >= AT_ONCE_FOR_RECEIVER:
            continue
        owners[owner] += 1
        receivers[receiver] += 1
        message = {
            name: mapping[outbox.c[name]] for name in ("id", "kind", "target", "attempts", "created_at")
        }
        job["owner_role"] = mapping[users.c.role]
        taken.append({**message, "job": job, "data": job_json(connection, job), "owner_id": owner})
        if len(trying) + len(taken) >= AT_ONCE:
            break
    connection.execute(
        sa.update(outbox)
        .where(outbox.c.id.in_([row["id"] for row in taken]))
        .values(not_before=now_ms() + _HOLD_MS, attempts=outbox.c.attempts + 1)
    )
    return taken


def _record(
    connection: Connection, row: Mapping[str, Any], problem: str | None, *, is_final: bool = False
) -> None:
    values: dict[str, Any] = {"last_error": problem}
    if problem is None:
        values["done_at"] = now_ms()
    else:
        wait = min(FIRST_WAIT_SECONDS * 3 ** row["attempts"], LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.2)
        values["not_before"] = now_ms() + int(wait * 1000)
        late = sa.or_(sa.literal(is_final), now_ms() - row["created_at"] > GIVE_UP_MS)
        values["failed_at"] = sa.case((late, now_ms()), else_=None)
        log.warning(
            "%s %s, try %s: %s", row["kind"], row["id"], row["attempts"] + 1, problem,
            extra={"job_id": row["job"]["id"]},
        )  # fmt: skip
    connection.execute(sa.update(outbox).where(outbox.c.id == row["id"]).values(values))
