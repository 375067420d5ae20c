"""Passwords: hashed by argon2 in a small pool, so that a flood of logins costs refusals, not memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from comic_upscale.errors import ComicUpscaleError, SettingsError

T = TypeVar("T")

SHORTEST, LONGEST = 10, 256
"""Characters of a password."""
AT_ONCE = 2
"""Hashes at the same time; each takes 64 MiB."""
MOST_WAITING = 16

# Passwords from published documents, and the most common ones that are long enough.
_KNOWN = frozenset(
    (
        "administrator", "change-me-now", "changeme123", "change_me_please", "comic-upscale", "comicupscale",
        "correct horse battery staple", "letmein1234", "password123", "password1234", "passwordpassword", "1234567890",
        "0123456789", "12345678910", "qwertyuiop", "adminadmin", "admin12345", "admin123456", "secretsecret",
        "supersecret", "welcome123",
    )
)  # fmt: skip


class BusyError(ComicUpscaleError):
    """Too many passwords wait to be checked."""


def check_password(password: str, name: str = "") -> str:
    """Return a password if it may be used.

    Raises:
        SettingsError: it is too short, too long, well known, or the user's name.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise SettingsError(f"a password has {SHORTEST} to {LONGEST} characters")
    plain = password.casefold().strip()
    if plain in _KNOWN or len(set(plain)) < 4 or (name and plain == name.casefold()):
        raise SettingsError("this password is too easy to guess: choose another one")
    return password


class Passwords:
    """Hashes and verifies passwords. Close it at the end."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        self._lock = threading.Lock()
        # A login of a name that does not exist takes as long as any other.
        self._nobody = self._pool.submit(self._hasher.hash, "nobody has this password")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def hash_now(self, password: str) -> str:
        """Return the hash of a password. Blocks; for commands."""
        return self._hasher.hash(password)

    async def hash(self, password: str) -> str:
        """Return the hash of a password.

        Raises:
            BusyError: too many passwords wait.
        """
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Return whether a password is right. Takes the same time for a user that does not exist.

        Args:
            stored: the hash; None for a user without a password, or none at all.
            password: as the client sent it.

        Raises:
            BusyError: too many passwords wait.
        """

        def check() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody.result(), password) and stored is not None
            except (VerificationError, InvalidHashError):
                return False

        return len(password) <= LONGEST and await self._run(check)

    async def _run(self, call: Callable[[], T]) -> T:
        with self._lock:
            if self._waiting >= MOST_WAITING:
                raise BusyError("too many logins at the moment: try again in a few seconds")
            self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            with self._lock:
                self._waiting -= 1
