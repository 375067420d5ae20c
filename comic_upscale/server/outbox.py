"""The outbox: webhooks that are due, written with the end of their job, sent until the receiver accepts them.

The receiver may get a webhook more than once, always with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Mapping
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
_HOLD_MS = 60_000
"""How long one try keeps others from trying the same webhook. It is more than a try can take."""
_AT_ONCE = 8


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

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            try:
                sent = await self.send_due()
            except DatabaseError as error:
                log.error("%s", error)
                sent = 0
            if not sent:
                await asyncio.sleep(LOOK_SECONDS)

    async def send_due(self) -> int:
        """Try the webhooks that are due now, and return their number.

        Raises:
            DatabaseError: the database cannot be used.
        """
        # Reading first, so that an idle server does not write.
        if not await self._database.read_async(
            lambda connection: connection.execute(_due().limit(1)).first()
        ):
            return 0
        taken = await self._database.write_async(_take)
        await asyncio.gather(*(self._try(row) for row in taken))
        return len(taken)

    async def _try(self, row: Mapping[str, Any]) -> None:
        body = json.dumps(row["body"], ensure_ascii=False).encode()
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "comic-upscale",
            "webhook-id": row["id"],
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(row["id"], now, body.decode()),
        }
        problem = None
        try:
            await asyncio.to_thread(self._sender.send, row["target"], body, headers)
        except CallbackError as error:
            problem = str(error)
        await self._database.write_async(lambda connection: _record(connection, row, problem))


def _due() -> sa.Select[Any]:
    return sa.select(outbox.c.id).where(
        outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None), outbox.c.not_before <= now_ms()
    )


def _take(connection: Connection) -> list[dict[str, Any]]:
    """Reserve some webhooks for this process, and return them with their bodies."""
    rows = connection.execute(
        sa.select(outbox, jobs)
        .join(jobs, jobs.c.id == outbox.c.job_id)
        .where(outbox.c.id.in_(_due().order_by(outbox.c.not_before).limit(_AT_ONCE)))
        .with_for_update(of=outbox, skip_locked=True)
    ).all()
    taken = []
    for row in rows:
        mapping = row._mapping
        job = {column.name: mapping[column] for column in jobs.c}
        content = {
            "type": f"job.{job['status']}",
            "timestamp": datetime.fromtimestamp(mapping[outbox.c.created_at] / 1000, UTC).isoformat(),
            "data": job_json(connection, job),
        }
        taken.append(
            {
                "id": mapping[outbox.c.id], "target": mapping[outbox.c.target], "attempts": mapping[outbox.c.attempts],
                "created_at": mapping[outbox.c.created_at], "body": content,
            }
        )  # fmt: skip
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
