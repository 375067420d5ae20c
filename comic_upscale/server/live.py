"""What administrators change while the server runs, as this process knows it: at most a second old."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError
from comic_upscale.server import queue
from comic_upscale.server.database.engine import Database
from comic_upscale.server.offered import BUILT_IN, Offered, read_offered
from comic_upscale.server.overrides import effective
from comic_upscale.server.settings import ServerSettings

FRESH_SECONDS = 1.0
"""How old the state may be. Another server on the same database may have changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class _State:
    settings: ServerSettings
    offered: Offered
    in_maintenance: bool = False


class Live:
    """The settings in force, and what requests may choose from. Used on the event loop.

    Args:
        started: the settings of the start.
        database: of the server.
    """

    def __init__(self, started: ServerSettings, database: Database) -> None:
        self.started = started
        self._database = database
        self._state = _State(started, BUILT_IN)
        self._read_at = float("-inf")
        self._reads_begun = self._read_shown = 0

    @property
    def settings(self) -> ServerSettings:
        """The settings in force."""
        return self._state.settings

    @property
    def offered(self) -> Offered:
        """The presets and models."""
        return self._state.offered

    @property
    def in_maintenance(self) -> bool:
        """Whether uploads are refused for now."""
        return self._state.in_maintenance

    async def refresh(self, *, now: bool = False) -> None:
        """Read the state again, unless it is fresh. Without a database, the last one stays.

        Args:
            now: in any case, because this process has just changed it.
        """
        if not now and time.monotonic() - self._read_at < FRESH_SECONDS:
            return
        # Other requests need not read it as well.
        self._read_at = time.monotonic()
        self._reads_begun += 1
        this_read = self._reads_begun
        try:
            state = await self._database.read_async(self._read)
        except DatabaseError:
            self._read_at = float("-inf")
            return
        # A read that began before a change may end after the read that follows the change.
        if this_read > self._read_shown:
            self._state, self._read_shown = state, this_read

    def read_now(self) -> None:
        """Read the state, blocking, before the first request."""
        self._state = self._database.read(self._read)

    def _read(self, connection: Connection) -> _State:
        return _State(
            effective(connection, self.started),
            read_offered(connection).on(self.started),
            queue.in_maintenance(connection),
        )
