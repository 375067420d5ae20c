"""The stores of a job: the interface to its sources, and the interface to its outputs.

A job reads and writes through these two interfaces only. It does not know whether they stand for folders or for
object storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Literal, Protocol, TypeAlias

from comic_upscale.errors import PageError

GONE = "gone"
"""The kind of a source or an output that is no longer where the ledger has it."""

MAX_SOURCE_BYTES = 1 << 30
"""The most bytes of a source that are read: they are held in memory."""

_CHUNK = 1 << 20

Token: TypeAlias = int | str
"""Identifies an unfinished write: the number of a row, or a word of ASCII letters and digits."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The metadata of an object."""

    size: int
    """Bytes; -1 for a link that leads nowhere."""
    mtime_ns: int
    """Time of the last change, nanoseconds since the epoch."""
    kind: Literal["file", "folder", "other"] = "file"
    """``other`` is neither a file nor a folder: a link that leads nowhere, a pipe, a device."""


class FileStatus(Protocol):
    """The result of `SourceEntry.stat`: the part of `os.stat_result` that discovery uses."""

    @property
    def st_mode(self) -> int:
        """Its kind, as in `os.stat_result`."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """Time of the last change, nanoseconds since the epoch."""


class SourceEntry(Protocol):
    """An entry of a folder of sources. `os.DirEntry` has this interface.

    Links are followed. Each method raises `OSError` if the entry cannot be looked at.
    """

    @property
    def name(self) -> str:
        """Its name in the folder. Bytes that are not Unicode become surrogates, as in `os.fsdecode`."""

    @property
    def path(self) -> str:
        """Its address."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def is_file(self) -> bool:
        """Whether it is a regular file."""

    def is_symlink(self) -> bool:
        """Whether it is a link."""

    def stat(self) -> FileStatus:
        """Its size and time."""


class SourceStore(Protocol):
    """A folder of sources, or a single file. Any number of threads may use it.

    An object has an *address*, a `Path` that comes from `list` or `address`. Only the store interprets it: the local
    store as a path, object storage as a key.
    """

    root: Path
    """The address of the input itself."""

    def is_there(self) -> bool:
        """Whether the input can be reached: its drive is mounted, its server answers."""

    def is_folder(self) -> bool:
        """Whether the input is a folder and not a single file.

        Raises:
            OSError: the input cannot be looked at.
        """

    def address(self, name: str) -> Path:
        """The address of an object by its name.

        Args:
            name: POSIX path relative to the input folder. If the input is a single file, relative to the folder of
                that file.

        Raises:
            PageError: `GONE`: the name leads out of the folder.
        """

    def list(self, folder: str) -> Sequence[SourceEntry]:
        """The entries of a folder, in any order.

        Args:
            folder: its address, as text.

        Raises:
            OSError: it cannot be listed.
        """

    def identity(self, folder: str) -> Hashable | None:
        """A value that is equal for two addresses of one real folder; None if it cannot be found.

        Args:
            folder: its address, as text.
        """

    def real_folder(self, path: Path | None = None) -> PurePath:
        """The folder of an object with links resolved; comparable with `OutputStore.real_folder`.

        Args:
            path: address of the object; None for the input folder itself.
        """

    def stat(self, path: Path) -> StoredObject:
        """The metadata of an object.

        Raises:
            OSError: the object cannot be looked at; `FileNotFoundError` if it does not exist.
        """

    def exists(self, path: Path) -> bool:
        """Whether an object exists; False if it cannot be looked at."""

    def may_read(self, path: Path) -> bool:
        """Whether an object exists and may be read."""

    def open(self, path: Path) -> IO[bytes]:
        """Open an object for reading; the file is seekable. A remote store fetches only the ranges that are read.

        Raises:
            OSError: the object cannot be opened; `FileNotFoundError` if it does not exist, `PermissionError` if
                it may not be read.
        """

    def local_path(self, path: Path) -> contextlib.AbstractContextManager[Path]:
        """A local file with the content of an object, for libraries that open files by name.

        The file exists until the context ends. It must not be changed.

        Raises:
            OSError: as `open`.
        """

    async def read(self, path: Path) -> bytes:
        """The bytes of an object.

        Raises:
            PageError: ``vanished``, ``permission``, ``too-large`` (more than `MAX_SOURCE_BYTES`) or ``unreadable``.
        """

    def read_now(self, path: Path) -> bytes:
        """As `read`, on the calling thread."""


class OutputStore(Protocol):
    """The destination of the outputs of a job. Any number of threads may use it.

    Objects are named by POSIX paths relative to the store. A name that leads out of the store is refused with a
    `PageError`, of kind `GONE` for reading and of kind ``output`` for everything else.

    Writes are atomic and durable. A name never stands for a partial object, even if the process is killed. When
    a write returns, the object is on the disk.
    """

    def prepare(self) -> None:
        """Check that the store is writable, and remember its identity for `check`. Called once, before the first write.

        Raises:
            OutputError: the store cannot be written to.
        """

    def check(self) -> None:
        """Check that the store is still the one that `prepare` found: not moved, not unmounted.

        Every write includes this check. Before `prepare` there is nothing to compare with, and the check passes.

        Raises:
            OutputError: the store is another one, or gone.
        """

    def storable_name(self, name: str) -> str:
        """The name itself if the store can hold an object of this name, otherwise a similar name that it can hold.

        Two names may lead to the same one. May be called before `prepare`.

        Args:
            name: POSIX path.
        """

    def expected_name(self, name: str) -> str:
        """The name that `storable_name` will return, as far as that can be known without writing.

        Args:
            name: POSIX path.
        """

    def stat(self, name: str) -> StoredObject | None:
        """The metadata of an object; None if there is none.

        A store may answer from a listing that it updates with its own writes.

        Raises:
            PageError: ``output``: the object exists and cannot be looked at.
        """

    def read(self, name: str) -> bytes:
        """The bytes of an object.

        Raises:
            PageError: `GONE`: the object does not exist or cannot be read.
        """

    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading; the file is seekable. A remote store fetches only the ranges that are read.

        Raises:
            PageError: `GONE`: the object does not exist or cannot be read.
        """

    async def put(self, name: str, data: bytes, token: Token) -> None:
        """Write an object, or replace the one of this name.

        A caller that is cancelled still waits until the write has ended.

        Args:
            name: of the object.
            data: all of it.
            token: identifies this write. `sweep` finds an unfinished write by name and token.

        Raises:
            PageError: ``output``: this object cannot be written.
            OutputError: no object can be written.
        """

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        """Write an object piece by piece and check it before it appears; on the calling thread.

        Args:
            name: of the object; an earlier one of this name is replaced.
            token: as for `put`.
            write: writes the content into an empty file, which is readable, writable and seekable.
            check: reads the flushed file, from its beginning; raises if the content is wrong. It closes the earlier
                object of this name, if ``write`` has read that.

        Returns:
            (bytes, SHA-256 in hexadecimal) of the object.

        Raises:
            PageError: ``output``: this object cannot be written; or the error of ``write`` or ``check``.
            OutputError: no object can be written.
        """

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        """Write an object from a file, which is read to its end; on the calling thread.

        Args:
            name: of the object; an earlier one of this name is replaced.
            reader: open for reading.
            token: as for `put`.

        Returns:
            (bytes, SHA-256 in hexadecimal) of the object.

        Raises:
            PageError: ``output``: this file cannot be read, or this object cannot be written.
            OutputError: no object can be written.
        """

    def relocate(self, name: str, to: str) -> None:
        """Give an object another name, and delete the folders that become empty.

        A store without renaming copies the object and then deletes it. A kill in between leaves both.

        Args:
            name: of the object.
            to: its new name; an object of this name is replaced.

        Raises:
            PageError: ``output``: this object cannot be moved. It keeps its name.
            OutputError: no object can be written.
        """

    def delete(self, names: Iterable[str], *, below: str = "") -> None:
        """Delete objects, and the folders that become empty. Objects that cannot be deleted stay.

        Args:
            names: of the objects. Objects outside ``below`` stay.
            below: name of a folder. It is deleted too if it becomes empty; folders above it are not. Empty for the
                whole store, which itself is never deleted.
        """

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        """Remove the remains of unfinished writes. Remains that cannot be removed stay.

        Args:
            unfinished: (name, token) of each write.
        """

    def real_folder(self, name: str | None = None) -> PurePath:
        """The folder of an object with links resolved, whether the object exists or not.

        It is comparable with `SourceStore.real_folder`. The comparison finds outputs that would land among sources.

        Args:
            name: of the object; None for the store itself.
        """

    def leads_outside(self, name: str) -> bool:
        """Whether an object is, through links, a file outside of the store; False if it does not exist.

        Args:
            name: of the object.
        """

    def is_same(self, name: str, path: Path) -> bool:
        """Whether an object and a source are one and the same; False if either does not exist.

        Args:
            name: of the object.
            path: address of the source.
        """


def check_name(name: str, kind: str) -> str:
    """Return a name if it stays inside the store. Names come from ledgers, and a ledger may come from a stranger.

    Args:
        name: POSIX path.
        kind: of the error.

    Raises:
        PageError: the name is empty or absolute, or contains ``..``.
    """
    if os.name == "posix":
        # The same as below, in a tenth of the time: planning asks for each page.
        leads_out = not name or name[0] == "/" or ".." in name.split("/")
    else:
        path = PurePath(name)
        leads_out = not name or bool(path.anchor) or ".." in path.parts
    if leads_out or "\0" in name:
        raise PageError(kind, "The ledger names a file outside of the job's folders")
    return name


def sha256_of_file(file: IO[bytes]) -> str:
    """The SHA-256 of a file from its current position to its end, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_files(files: Iterable[IO[bytes]]) -> str:
    """The SHA-256 of files as if they were one, hexadecimal. Each is closed when it has been read.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        with file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_of(outputs: OutputStore, name: str) -> str | None:
    """The SHA-256 of an output, hexadecimal; None if it cannot be read."""
    try:
        with outputs.open(name) as file:
            return sha256_of_file(file)
    except (PageError, OSError):
        return None


def size_of(outputs: OutputStore, name: str) -> int | None:
    """The bytes of an output; None if there is no such file or it cannot be looked at."""
    try:
        found = outputs.stat(name)
    except PageError:
        return None
    return found.size if found is not None and found.kind == "file" else None
