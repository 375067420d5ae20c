"""Stores that are no folders: everything in memory, nothing that a path of this machine leads to.

They are what object storage will be to a job: sources that are listed under a prefix, read by ranges and named by
keys, and outputs that stand whole under their names or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from comic_upscale.errors import OutputError, PageError
from comic_upscale.storage.base import GONE, MAX_SOURCE_BYTES, SourceEntry, StoredObject, Token, check_name


@dataclass(frozen=True)
class Status:
    st_mode: int
    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class Entry:
    """An entry of a folder that is but a prefix."""

    name: str
    path: str
    size: int | None
    mtime_ns: int

    def is_dir(self) -> bool:
        return self.size is None

    def is_file(self) -> bool:
        return self.size is not None

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Status:
        return Status(stat.S_IFDIR if self.size is None else stat.S_IFREG, self.size or 0, self.mtime_ns)


class Counted(io.BytesIO):
    """An object that is read by ranges, and counts what was fetched."""

    def __init__(self, data: bytes, count: Callable[[int], None]) -> None:
        super().__init__(data)
        self._count = count

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._count(len(data))
        return data


class MemorySourceStore:
    """Objects by keys; the input is all of them below a prefix."""

    def __init__(self, objects: dict[str, bytes], prefix: str = "bucket") -> None:
        self.root = Path(prefix)
        self._objects: dict[str, bytes] = {}
        self._times: dict[str, int] = {}
        for name, data in objects.items():
            self.change(name, data)
        self.fetched = 0
        """Bytes that were read."""
        self.answers = True

    def change(self, name: str, data: bytes) -> None:
        """Put another object in the place of one, as somebody else may at any time."""
        key = f"{self.root.as_posix()}/{name}"
        self._objects[key], self._times[key] = data, time.time_ns()

    def _key(self, path: Path) -> str:
        return path.as_posix()

    def _get(self, path: Path) -> bytes:
        try:
            return self._objects[self._key(path)]
        except KeyError:
            raise FileNotFoundError(2, "No such object") from None

    def _count(self, size: int) -> None:
        self.fetched += size

    def is_there(self) -> bool:
        return self.answers

    def is_folder(self) -> bool:
        return True

    def address(self, name: str) -> Path:
        return self.root / check_name(name, GONE)

    def list(self, folder: str) -> Sequence[SourceEntry]:
        found: dict[str, Entry] = {}
        prefix = f"{PurePosixPath(folder)}/"
        for key, data in self._objects.items():
            if key.startswith(prefix):
                name, deeper, _ = key[len(prefix) :].partition("/")
                found[name] = Entry(name, f"{prefix}{name}", None if deeper else len(data), self._times[key])
        return [*found.values()]

    def identity(self, folder: str) -> Hashable | None:
        return f"memory:{folder}"

    def real_folder(self, path: Path | None = None) -> PurePath:
        return PurePosixPath("memory:") / (self.root if path is None else path.parent)

    def stat(self, path: Path) -> StoredObject:
        if any(key.startswith(f"{self._key(path)}/") for key in self._objects):
            return StoredObject(0, 0, "folder")
        return StoredObject(len(self._get(path)), self._times[self._key(path)])

    def exists(self, path: Path) -> bool:
        return self._key(path) in self._objects

    def may_read(self, path: Path) -> bool:
        return self.exists(path)

    def open(self, path: Path) -> IO[bytes]:
        return Counted(self._get(path), self._count)

    @contextlib.contextmanager
    def local_path(self, path: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / path.name
            here.write_bytes(self._get(path))
            yield here

    async def read(self, path: Path) -> bytes:
        return await asyncio.to_thread(self.read_now, path)

    def read_now(self, path: Path) -> bytes:
        try:
            data = self._get(path)
        except FileNotFoundError:
            raise PageError("vanished", "the object is no longer there") from None
        if len(data) > MAX_SOURCE_BYTES:
            raise PageError("too-large", "the object is too large")
        self._count(len(data))
        return data


class MemoryOutputStore:
    """Objects by names. A write is one step: the object is there at its end."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._lock = threading.Lock()
        self.full = False
        """Whether no object can be written any more."""

    @property
    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._objects)

    def prepare(self) -> None:
        self.check()

    def expected_name(self, name: str) -> str:
        return self.storable_name(name)

    def storable_name(self, name: str) -> str:
        return name

    def check(self) -> None:
        if self.full:
            raise OutputError(
                "no more pages can be written to the store. Free some space, then run the same command again"
            )

    def stat(self, name: str) -> StoredObject | None:
        with self._lock:
            found = self._objects.get(check_name(name, "output"))
            if found is not None:
                return StoredObject(len(found[0]), found[1])
            below = any(other.startswith(f"{name}/") for other in self._objects)
        return StoredObject(0, 0, "folder") if below else None

    def read(self, name: str) -> bytes:
        with self._lock:
            found = self._objects.get(check_name(name, GONE))
        if found is None:
            raise PageError(GONE, "The output no longer exists")
        return found[0]

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.read(name))

    async def put(self, name: str, data: bytes, token: Token) -> None:
        await asyncio.to_thread(self._put, name, data)

    def _put(self, name: str, data: bytes) -> None:
        check_name(name, "output")
        self.check()
        with self._lock:
            self._objects[name] = bytes(data), time.time_ns()

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        check_name(name, "output")
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            check(file)
            file.seek(0)
            data = file.read()
        self._put(name, data)
        return len(data), hashlib.sha256(data).hexdigest()

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        try:
            data = reader.read()
        except OSError as error:
            raise PageError("output", f"cannot be copied: {error.strerror}") from error
        self._put(name, data)
        return len(data), hashlib.sha256(data).hexdigest()

    def relocate(self, name: str, to: str) -> None:
        check_name(to, "output")
        self.check()
        with self._lock:
            found = self._objects.get(check_name(name, "output"))
            if found is None:
                raise PageError("output", "the output cannot be moved: there is no such object")
            # As in object storage: copied first, then deleted.
            self._objects[to] = found
            if to != name:
                del self._objects[name]

    def delete(self, names: Iterable[str], *, below: str = "") -> None:
        for name in names:
            with contextlib.suppress(PageError), self._lock:
                if not below or check_name(name, "output").startswith(f"{below}/"):
                    self._objects.pop(check_name(name, "output"), None)

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        for _ in unfinished:
            pass

    def real_folder(self, name: str | None = None) -> PurePath:
        folder = PurePosixPath() if name is None else PurePosixPath(check_name(name, "output")).parent
        return PurePosixPath("memory:outputs") / folder

    def leads_outside(self, name: str) -> bool:
        check_name(name, "output")
        return False

    def is_same(self, name: str, path: Path) -> bool:
        check_name(name, "output")
        return False
