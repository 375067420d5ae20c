"""Where the pages of a job come from, and where its outputs go: what a job asks of either, wherever that is.

Everything that a job knows of a place is in these two interfaces. So a job that reads from folders and writes to
folders, and one that reads from object storage, are the same job.
"""

from __future__ import annotations

import contextlib
import hashlib
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
"""What tells one unfinished write from another: the number of a row, or a word. ASCII letters and digits."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store knows of an object without reading it."""

    size: int
    """Bytes; -1 where nothing can be read, as behind a link to nowhere."""
    mtime_ns: int
    """When it was written last, nanoseconds since the epoch."""
    kind: Literal["file", "folder", "other"] = "file"
    """``other`` is what neither can be read nor holds anything: a link to nowhere, a pipe, a device."""


class FileStatus(Protocol):
    """What `SourceEntry.stat` returns: the part of `os.stat_result` that a job asks for."""

    @property
    def st_mode(self) -> int:
        """Its kind, as `os.stat_result` has it."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """When it was written last, nanoseconds since the epoch."""


class SourceEntry(Protocol):
    """An entry of a folder of sources. An `os.DirEntry` is one.

    Links are followed. Each method raises `OSError` where the answer cannot be had.
    """

    @property
    def name(self) -> str:
        """Its name in the folder; bytes that are no Unicode are surrogates, as in `os.fsdecode`."""

    @property
    def path(self) -> str:
        """Its address."""

    def is_dir(self) -> bool:
        """Whether it can be listed in its turn."""

    def is_file(self) -> bool:
        """Whether it can be read."""

    def is_symlink(self) -> bool:
        """Whether it is a link."""

    def stat(self) -> FileStatus:
        """Its size and time."""


class SourceStore(Protocol):
    """A folder of sources, or a single file. Any number of threads may use it.

    An object is named by its *address*, a `Path` that `list` or `address` has given and that means nothing to
    anybody but the store: for a folder on this machine it is the path, for object storage the key.
    """

    root: Path
    """The address of the input itself."""

    def is_there(self) -> bool:
        """Whether the input is to be had at all: its drive is mounted, its server answers."""

    def is_folder(self) -> bool:
        """Whether the input is a folder and not a single file.

        Raises:
            OSError: it cannot be told.
        """

    def address(self, name: str) -> Path:
        """The address of an object by its name.

        Args:
            name: POSIX path relative to the input folder; of an input that is a single file, relative to its folder.

        Raises:
            PageError: `GONE`; the name leads out of the folder.
        """

    def list(self, folder: str) -> Sequence[SourceEntry]:
        """The entries of a folder, in any order.

        Args:
            folder: its address, as text.

        Raises:
            OSError: it cannot be listed.
        """

    def identity(self, folder: str) -> Hashable | None:
        """What tells one real folder from another, also where links lead to it; None if it cannot be found.

        Args:
            folder: its address, as text.
        """

    def real_folder(self, path: Path | None = None) -> PurePath:
        """The folder that an object is really in, links followed; comparable with `OutputStore.real_folder`.

        Args:
            path: address of the object; None for the input folder itself.
        """

    def stat(self, path: Path) -> StoredObject:
        """What is known of an object.

        Raises:
            OSError: nothing is known; `FileNotFoundError` where it is not there.
        """

    def exists(self, path: Path) -> bool:
        """Whether an object is there; False also where it cannot be told."""

    def may_read(self, path: Path) -> bool:
        """Whether an object is there and may be read."""

    def open(self, path: Path) -> IO[bytes]:
        """Open an object for reading at any place; of a remote one, no more is fetched than is read.

        Raises:
            OSError: it cannot be opened; `FileNotFoundError` where it is not there, `PermissionError` where it
                may not be read.
        """

    def local_path(self, path: Path) -> contextlib.AbstractContextManager[Path]:
        """A file of this machine with the object's content, for libraries that open files by name.

        The file is there as long as the context lasts, and must not be changed.

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
    """The place where the outputs of a job go. Any number of threads may use it.

    Objects are named by POSIX paths relative to the store. A name that leads out of it is refused: for reading as
    `GONE`, for writing as a failure of kind ``output``. Writing is whole or not at all: at no instant does anything
    but a whole object stand under a name, whatever is killed when, and what has been put is on the disk.
    There is no renaming: not every store can, and no job needs it.
    """

    def prepare(self) -> None:
        """Prove that the store can be written to, and remember which one it is. Once, before the first output.

        Raises:
            OutputError: it cannot be written to.
        """

    def check(self) -> None:
        """Make sure that the store is still the one that `prepare` found: not moved, not unmounted.

        Every write does it by itself. Without `prepare` there is nothing to compare with.

        Raises:
            OutputError: it is not.
        """

    def stat(self, name: str) -> StoredObject | None:
        """What stands under a name; None where nothing can be seen there.

        A store may answer from a listing that it keeps up to date with its own writes.

        Raises:
            PageError: ``output``: something stands there and cannot be looked at.
        """

    def read(self, name: str) -> bytes:
        """The bytes of an object.

        Raises:
            PageError: `GONE`: it is not there, or cannot be read.
        """

    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading at any place, such as a CBZ; of a remote one, no more is fetched than is read.

        Raises:
            PageError: `GONE`: it is not there, or cannot be read.
        """

    async def put(self, name: str, data: bytes, token: Token) -> None:
        """Write an object; one of this name is replaced.

        A caller that is cancelled meanwhile waits until it is clear what has become of the object.

        Args:
            name: of the object.
            data: all of it.
            token: of the page. `sweep` finds what an unfinished write has left by name and token.

        Raises:
            PageError: ``output``: this one object cannot be written.
            OutputError: none can.
        """

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        """Write an object piece by piece, read it back, and let it stand only if it is right; on the calling thread.

        Args:
            name: of the object; one of this name is replaced.
            token: as for `put`.
            write: writes the content into a file that is empty, open for reading and writing, and seekable.
            check: reads the same file after it was flushed, from wherever it seeks to; raises where it is not
                right. It is the last moment at which what the name had before may be open.

        Returns:
            (bytes, SHA-256 in hexadecimal) of the object.

        Raises:
            PageError: ``output``: this one object cannot be written; or what ``write`` and ``check`` raise.
            OutputError: none can.
        """

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        """Write an object from a file that is read to its end; on the calling thread.

        Args:
            name: of the object; one of this name is replaced.
            reader: open for reading.
            token: as for `put`.

        Returns:
            (bytes, SHA-256 in hexadecimal) of what was copied.

        Raises:
            PageError: ``output``: this one object cannot be read or written.
            OutputError: none can.
        """

    def delete(self, names: Iterable[str], *, below: str) -> None:
        """Delete objects, and the folders that held nothing else; what cannot be deleted stays.

        Args:
            names: of the objects; those that are not below ``below`` stay.
            below: name of a folder; it is the last one to go.
        """

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        """Remove what unfinished writes of a run that died have left; what cannot be removed stays.

        Args:
            unfinished: (name, token) of each write.
        """

    def real_folder(self, name: str | None = None) -> PurePath:
        """The folder that an object is, or would be, really in, links followed.

        It is comparable with `SourceStore.real_folder`: an output that would land among the sources is found by it.

        Args:
            name: of the object; None for the store itself.
        """

    def is_same(self, name: str, path: Path) -> bool:
        """Whether an object is the very one that a source is, and not just equal; False where either is missing.

        Args:
            name: of the object.
            path: address of the source.
        """


def check_name(name: str, kind: str) -> str:
    """Return a name of a store, unless it leads out of it; a ledger that somebody else made may hold any.

    Args:
        name: POSIX path.
        kind: of the error.

    Raises:
        PageError: it is absolute, has a ``..`` in it, or is no name at all.
    """
    path = PurePath(name)
    if not name or "\0" in name or path.is_absolute() or path.drive or path.root or ".." in path.parts:
        raise PageError(kind, "The ledger names a file outside of the job's folders.")
    return name


def sha256_of_file(file: IO[bytes]) -> str:
    """The SHA-256 of a file from where it stands to its end, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
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
    """The bytes of an output; None where there is no file, or none that can be looked at."""
    try:
        found = outputs.stat(name)
    except PageError:
        return None
    return found.size if found is not None and found.kind == "file" else None
