"""Where the bytes of uploads and results are: a storage under keys, and the storage in a folder of the local disk.

A key is made by the server from identifiers, never from a name that a client chose, and is written once. A file is
complete or absent. On a local disk it is written beside its place, flushed to the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from comic_upscale.errors import OutputError
from comic_upscale.storage.parts import Part, flush_folder, open_part

_KEY = re.compile(r"[a-z]+(?:/[0-9a-z-]+){1,3}")
_CHUNK = 1 << 20


class DiskFullError(OutputError):
    """The disk has no room for more bytes."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A complete file of the storage."""

    key: str
    size: int
    """Bytes."""
    sha256: str
    """64 lower-case hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a listing of the storage shows it."""

    key: str
    changed_at: float
    """Seconds since 1970."""


class FileWriter(Protocol):
    """A file that is being written. Leaving its ``with`` block without `commit` leaves nothing behind."""

    def write(self, data: bytes) -> None:
        """Append bytes; raises `DiskFullError` or `OutputError`."""

    def commit(self) -> StoredFile:
        """Flush the file and put it in its place; raises `DiskFullError` or `OutputError`."""

    def __enter__(self) -> Self:
        """Return the writer."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file unless it was committed."""


class FileStore(Protocol):
    """A storage of files under keys. All methods block, and may be called from any thread.

    Each method raises `StorageError` if the storage cannot be reached; `delete` logs that instead.
    """

    def create(self, key: str) -> FileWriter:
        """Begin a file. A key is used once."""

    def size(self, key: str) -> int | None:
        """Return the bytes of a file; None if there is none."""

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file in pieces, without holding all of it in memory.

        Args:
            key: of the file.
            start: the first byte.
            end: the byte after the last one; at most the size of the file.

        Raises:
            FileNotFoundError: there is no such file, or it ends before ``end``.
        """

    def local_path(self, key: str) -> Path | None:
        """Return the path of a file on this machine; None if it is elsewhere."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file to a path of this machine, or link it there; raises `FileNotFoundError` or `OutputError`.

        A file that exists at the path is complete, and stays.
        """

    def delete(self, key: str) -> None:
        """Delete a file. One that does not exist is not an error."""

    def list(self) -> Iterator[ListedFile]:
        """Yield all complete files."""

    def free_percent(self) -> float | None:
        """Return the share of the storage that is free, 0 to 100; None if it has no limit."""


class LocalFiles:
    """A `FileStore` in a folder.

    Args:
        folder: is created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, key: str) -> _LocalWriter:
        """Begin a file; see `FileStore.create`."""
        path = self._path(key)
        try:
            try:
                return self._begin(key, path)
            except FileNotFoundError:
                # `delete` removes folders that become empty, such as the one that was just made.
                return self._begin(key, path)
        except OSError as error:
            # Its folder may be there already.
            self.delete(key)
            raise in_words(error) from error

    def size(self, key: str) -> int | None:
        """Return the bytes of a file."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise in_words(error) from error

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file; see `FileStore.read`."""
        with self._path(key).open("rb") as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(_CHUNK, end - start))
                if not piece:
                    raise FileNotFoundError(key)
                start += len(piece)
                yield piece

    def local_path(self, key: str) -> Path:
        """Return the path of a file."""
        return self._path(key)

    def fetch(self, key: str, target: Path) -> None:
        """Link a file to a path, or copy it where links are not possible. A file that exists there is complete."""
        source = self._path(key)
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except FileNotFoundError:
            raise
        except OSError:
            _copy(source, target)

    def delete(self, key: str) -> None:
        """Delete a file, and the folders that become empty."""
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.folder:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def list(self) -> Iterator[ListedFile]:
        """Yield all complete files."""
        for path in self.folder.rglob("*"):
            key = path.relative_to(self.folder).as_posix()
            # A file may be deleted meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if _KEY.fullmatch(key) and path.is_file():
                    yield ListedFile(key, path.stat().st_mtime)

    def free_percent(self) -> float | None:
        """Return the free share of the disk."""
        usage = shutil.disk_usage(self.folder)
        return usage.free / usage.total * 100

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)

    def _begin(self, key: str, path: Path) -> _LocalWriter:
        self._make_folders(path.parent)
        return _LocalWriter(key, path, self.delete)

    def _make_folders(self, folder: Path) -> None:
        for each in reversed((folder, *folder.parents)):
            if each != self.folder and each.is_relative_to(self.folder) and not each.is_dir():
                each.mkdir(exist_ok=True)
                flush_folder(each.parent)


class _LocalWriter:
    def __init__(self, key: str, path: Path, delete: Callable[[str], None]) -> None:
        self._key, self._path, self._delete = key, path, delete
        self._is_complete = False
        self._stack = contextlib.ExitStack()
        self._part: Part = self._stack.enter_context(open_part(path, path.name))
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if not self._is_complete:
            # With the folders that were made for it.
            self._delete(self._key)

    def write(self, data: bytes) -> None:
        try:
            self._part.file.write(data)
        except OSError as error:
            raise in_words(error) from error
        self._digest.update(data)
        self._size += len(data)

    def commit(self) -> StoredFile:
        try:
            self._part.flush()
            self._part.move_to(self._path)
        except OSError as error:
            raise in_words(error) from error
        self._is_complete = True
        return StoredFile(self._key, self._size, self._digest.hexdigest())


def _copy(source: Path, target: Path) -> None:
    """Copy a file, completely or not at all: a worker may be killed meanwhile, and the next one uses the copy."""
    with source.open("rb") as file:
        try:
            with open_part(target, target.name) as part:
                shutil.copyfileobj(file, part.file, _CHUNK)
                part.flush()
                part.move_to(target)
        except OSError as error:
            raise in_words(error) from error


def checked_key(key: str) -> str:
    """Return a key of the storage.

    Raises:
        ValueError: it is none.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a key of the storage: {key!r}")
    return key


def is_key(text: str) -> bool:
    """Return whether a text is a key of the storage."""
    return _KEY.fullmatch(text) is not None


def store_file(store: FileStore, key: str, source: IO[bytes]) -> StoredFile:
    """Copy an open file into the storage.

    Raises:
        DiskFullError, OutputError: it cannot be written; nothing is left behind.
    """
    with store.create(key) as writer:
        while chunk := source.read(_CHUNK):
            writer.write(chunk)
        return writer.commit()


def in_words(error: OSError) -> OutputError:
    """Return the error of a disk of this machine in words; a `DiskFullError` if it has no room."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("the disk of the server is full: free some space, then try again")
    return OutputError(f"the storage cannot be written: {error.strerror or error}")
