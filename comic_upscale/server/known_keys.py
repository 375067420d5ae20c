"""The accounts of keys that were used just now: a client that sends many requests is looked up once a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from comic_upscale.server.accounts import Account
from comic_upscale.server.ids import secret_hash

KNOWN_SECONDS = 1.0
"""How long an account is known. Another process may have revoked its key meanwhile."""
MOST_KNOWN = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    account: Account
    until: float


class KnownKeys:
    """Remembers the accounts of valid keys for a second. May be called from any thread.

    This process forgets all of them with every change of a key or a user, before the change is answered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._changes = 0

    @property
    def changes(self) -> int:
        """How often everything was forgotten."""
        return self._changes

    def find(self, text: str) -> Account | None:
        """Return the account of a key; None if it must be looked up."""
        found = self._known.get(secret_hash(text))
        return None if found is None or time.monotonic() >= found.until else found.account

    def keep(self, text: str, account: Account, *, seconds: float | None, changes: int) -> None:
        """Remember the account of a key, unless something changed since it was looked up.

        Args:
            text: the key.
            account: its account.
            seconds: until the key ends; None for no end.
            changes: the value of `changes` before it was looked up.
        """
        life = KNOWN_SECONDS if seconds is None else min(KNOWN_SECONDS, seconds)
        with self._lock:
            if changes != self._changes:
                return
            if len(self._known) >= MOST_KNOWN:
                self._known = {}
            self._known[secret_hash(text)] = _Known(account, time.monotonic() + life)

    def forget(self) -> None:
        """Forget everything, because a key or a user changed."""
        with self._lock:
            self._changes += 1
            self._known = {}
