"""Passwords are stored at argon2's full cost, which the other tests of the server lower."""

from __future__ import annotations

import asyncio

import argon2
import pytest

from comic_upscale.server import passwords


def test_passwords_are_hashed_at_the_full_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "PasswordHasher", argon2.PasswordHasher)
    hasher = passwords.Passwords()
    stored = hasher.hash_now("a password for this test")
    found = argon2.extract_parameters(stored)
    assert found.type is argon2.Type.ID
    assert found.memory_cost >= 64 * 1024 and found.time_cost >= 3
    assert asyncio.run(hasher.verify(stored, "a password for this test"))
    assert not asyncio.run(hasher.verify(stored, "another password"))
    hasher.close()
