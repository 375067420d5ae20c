"""A file system that behaves as under Windows in what matters to files that are replaced and removed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from comic_upscale.storage import guarded, parts


class Windows:
    """Refuses to replace and to remove files that are read-only or open.

    Args:
        monkeypatch: takes everything back.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals: dict[str, int] = {}
        """How many times a file of this name is still open in another program."""
        self._replace, self._unlink = Path.replace, Path.unlink
        for module in (parts, guarded):
            monkeypatch.setattr(module, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
        monkeypatch.setattr(parts, "_PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(Path, "replace", lambda path, target: self.replace(path, target))
        monkeypatch.setattr(
            Path, "unlink", lambda path, missing_ok=False: self.unlink(path, missing_ok=missing_ok)
        )

    def replace(self, path: Path, target: Path) -> Path:
        """Rename a file over another one."""
        self._refuse_open(path)
        self._refuse(target)
        return self._replace(path, target)

    def unlink(self, path: Path, *, missing_ok: bool) -> None:
        """Remove a file."""
        self._refuse(path)
        self._unlink(path, missing_ok=missing_ok)

    def _refuse(self, path: Path) -> None:
        if path.exists() and not path.stat().st_mode & stat.S_IWRITE:
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        self._refuse_open(path)

    def _refuse_open(self, path: Path) -> None:
        if self.refusals.get(path.name, 0) > 0:
            self.refusals[path.name] -= 1
            raise PermissionError(errno.EACCES, "it is being used by another process", str(path))
