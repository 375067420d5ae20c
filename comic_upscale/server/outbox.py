"""The outbox: webhooks that are due, written with the end of their job, sent until the receiver accepts them.

The receiver may get a webhook more than once, always with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from standardwebhooks.webhooks import Webhook

from comic_upscale.errors import DatabaseError
from comic_upscale.server.callbacks import CallbackError, Sender
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, now_ms, outbox
from comic_upscale.server.jobs import job_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 6 * 3600.0
GIVE_UP_MS = 86_400_000
"""A webhook is tried for a day."""
TRY_SECONDS = 45.0
"""The most that a try takes, also if no name server answers."""
AT_ONCE = 8
"""Webhooks that are tried at the same time."""
AT_ONCE_FOR_OWNER = 4
AT_ONCE_FOR_RECEIVER = 2
"""Of them, those of one user's jobs and those of one receiver: a slow receiver does not hold back the others."""
_HOLD_MS = 60_000
"""How long one try keeps others from trying the same webhook. It is more than a try can take."""
_LOOKED_AT = 64
"""Due webhooks that are looked at to find some that may be tried now."""
_RECEIVER = re.compile(r"[^/]*//[^/?#]*")


class Outbox:
    """Sends the webhooks of a server.

    Args:
        database: of the server.
        secret: signs webhooks; ``whsec_`` and base64.
        sender: sends them.
    """

    def __init__(self, database: Database, secret: str, sender: Sender) -> None:
        self._database, self._sender = database, sender
        self._webhook = Webhook(secret)
        # Threads of its own: slow receivers must not take those that serve requests.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
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
                if not started:
                    await self._wait()
        finally:
            for task in self._trying:
                task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def send_due(self) -> int:
        """Try webhooks that are due now, wait for the end of these tries, and return their number.

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
        """Begin to try as many webhooks that are due as may be tried now."""
        trying = list(self._trying.values())
        if len(trying) >= AT_ONCE:
            return []
        # Reading first, so that an idle server does not write.
        if not await self._database.read_async(
            lambda connection: connection.execute(_due(trying, outbox.c.id).limit(1)).first()
        ):
            return []
        taken = await self._database.write_async(lambda connection: _take(connection, trying))
        started = []
        for row in taken:
            task = asyncio.create_task(self._try(row))
            self._trying[task] = row
            task.add_done_callback(self._trying.pop)
            started.append(task)
        return started

    async def _try(self, row: Mapping[str, Any]) -> None:
        problem = await self._send(row)
        try:
            await self._database.write_async(lambda connection: _record(connection, row, problem))
        except DatabaseError as error:
            # It is tried again when nobody holds it any more.
            log.error("%s", error)

    async def _send(self, row: Mapping[str, Any]) -> str | None:
        """Send a webhook, and return what went wrong."""
        try:
            body = json.dumps(row["body"], ensure_ascii=False).encode()
            now = datetime.now(UTC)
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "comic-upscale",
                "webhook-id": row["id"],
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": self._webhook.sign(row["id"], now, body.decode()),
            }
            sending = asyncio.get_running_loop().run_in_executor(
                self._threads, self._sender.send, row["target"], body, headers
            )
            await asyncio.wait_for(sending, TRY_SECONDS)
        except CallbackError as error:
            return str(error)
        except TimeoutError:
            return f"the try took longer than {TRY_SECONDS:g} seconds"
        except Exception:
            log.exception("webhook %s", row["id"])
            return "unexpected error; the log of the server has the details"
        return None


def _due(trying: Sequence[Mapping[str, Any]], *columns: Any) -> sa.Select[Any]:
    """Select webhooks that are due, without those of users and receivers with enough tries at the moment."""
    owners, receivers = _count(trying)
    conditions = [outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None), outbox.c.not_before <= now_ms()]
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
    """Return scheme, host and port of a URL, as it is written."""
    found = _RECEIVER.match(target)
    return target if found is None else found[0]


def _take(connection: Connection, trying: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Reserve some webhooks for this process, and return them with their bodies."""
    rows = connection.execute(
        _due(trying, outbox, jobs).limit(_LOOKED_AT).with_for_update(of=outbox, skip_locked=True)
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
        content = {
            "type": f"job.{job['status']}",
            "timestamp": datetime.fromtimestamp(mapping[outbox.c.created_at] / 1000, UTC).isoformat(),
            "data": job_json(connection, job),
        }
        taken.append(
            {
                "id": mapping[outbox.c.id], "target": mapping[outbox.c.target], "attempts": mapping[outbox.c.attempts],
                "created_at": mapping[outbox.c.created_at], "body": content, "owner_id": owner,
            }
        )  # fmt: skip
        if len(trying) + len(taken) >= AT_ONCE:
            break
    connection.execute(
        sa.update(outbox)
        .where(outbox.c.id.in_([row["id"] for row in taken]))
        .values(not_before=now_ms() + _HOLD_MS, attempts=outbox.c.attempts + 1)
    )
    return taken


def _record(connection: Connection, row: Mapping[str, Any], problem: str | None) -> None:
    values: dict[str, Any] = {"last_error": problem}
    if problem is None:
        values["done_at"] = now_ms()
    else:
        wait = min(FIRST_WAIT_SECONDS * 3 ** row["attempts"], LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.2)
        values["not_before"] = now_ms() + int(wait * 1000)
        values["failed_at"] = sa.case((now_ms() - row["created_at"] > GIVE_UP_MS, now_ms()), else_=None)
        log.warning("webhook %s, try %s: %s", row["id"], row["attempts"] + 1, problem)
    connection.execute(sa.update(outbox).where(outbox.c.id == row["id"]).values(values))
