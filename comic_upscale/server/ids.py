"""Identifiers: UUIDs of version 7, which sort by time, and random secrets."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid


def new_id() -> str:
    """Return a UUID of version 7: 48 bits of time in milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def new_secret() -> str:
    """Return 256 random bits as text for URLs and headers."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """Return the hash under which a random secret is stored.

    A plain hash suffices for 256 random bits. Passwords are hashed with argon2 instead.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
