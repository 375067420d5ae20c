"""Modules that believe that they run on Windows."""

from __future__ import annotations

import os
from types import ModuleType

import pytest


def as_on_windows(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Let ``os.name`` be ``nt`` in some modules. Everywhere else, pathlib would make paths that do not work here."""
    windows = ModuleType("os")
    vars(windows).update({**vars(os), "name": "nt"})
    for module in modules:
        monkeypatch.setattr(module, "os", windows)
