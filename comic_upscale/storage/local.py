"""The stores of this machine: sources and outputs in folders.

An error of one object (no permission, vanished, a name too long) is a `PageError`. An error of every object
(disk full, the device of the output gone) is an `OutputError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from comic_upscale.errors import OutputError, PageError
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import (
    GONE,
    MAX_SOURCE_BYTES,
    SourceEntry,
    StoredObject,
    Token,
    check_name,
    sha256_of_file,
)
from comic_upscale.storage.parts import (
    HITS_EVERY_PAGE,
    Part,
    flush_folder,
    move_over,
    open_part,
    remove,
    sweep_parts,
)
from comic_upscale.storage.special_names import expect_special_names, try_special_name, without_special

T = TypeVar("T")
P = ParamSpec("P")

_CHUNK = 1 << 20
_LEADS_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must not be left half done. A cancellation takes effect when the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class LocalSourceStore:
    """A `SourceStore` over a local folder or a single file. Addresses are paths.

    Args:
        root: the folder or the file; it need not exist.
        executor: runs `read`; None for the default executor of the event loop.
    """

    def __init__(self, root: Path, executor: Executor | None = None) -> None:
        self.root = root
        self._executor = executor

    def is_there(self) -> bool:
        """Whether the input exists."""
        return os.path.exists(self.root)  # noqa: PTH110 - False also where it cannot be told

    def is_folder(self) -> bool:
        """Whether the input is a folder and not a single file."""
        return self.root.is_dir()

    def address(self, name: str) -> Path:
        """The path of a file by its name relative to the folder."""
        name = check_name(name, GONE)
        return (self.root if os.path.isdir(self.root) else self.root.parent) / name  # noqa: PTH112 - never raises

    def list(self, folder: str) -> Sequence[SourceEntry]:
        """The entries of a folder."""
        with os.scandir(folder) as entries:
            return [*entries]

    def identity(self, folder: str) -> Hashable | None:
        """The device and inode numbers of a folder."""
        try:
            status = os.stat(folder)  # noqa: PTH116 - a str here: this runs once for every folder
        except OSError:
            return None
        # Some network and FUSE file systems number nothing: without this all folders would be one.
        return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)

    def real_folder(self, path: Path | None = None) -> Path:
        """The folder of a file, with links resolved."""
        return Path(os.path.realpath(self.root if path is None else path.parent))

    def stat(self, path: Path) -> StoredObject:
        """Size, time and kind of a file, links followed."""
        return _stored(path.stat())

    def exists(self, path: Path) -> bool:
        """Whether a file exists, links followed."""
        return os.path.exists(path)  # noqa: PTH110 - False also where it cannot be told

    def may_read(self, path: Path) -> bool:
        """Whether a file exists and may be read."""
        return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)

    def open(self, path: Path) -> IO[bytes]:
        """Open a file for reading."""
        return path.open("rb")

    def local_path(self, path: Path) -> contextlib.AbstractContextManager[Path]:
        """The file itself."""
        return contextlib.nullcontext(path)

    async def read(self, path: Path) -> bytes:
        """The bytes of a file, read on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.read_now, path)

    def read_now(self, path: Path) -> bytes:
        """The bytes of a file."""
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_SOURCE_BYTES:
                    raise PageError(
                        "too-large", f"the file has {size:,} bytes; at most {MAX_SOURCE_BYTES:,} are read"
                    )
                return file.read()
        except FileNotFoundError:
            raise PageError("vanished", "the file no longer exists, or is a broken link") from None
        except PermissionError:
            raise PageError("permission", "no permission to read the file") from None
        except OSError as error:
            raise PageError("unreadable", f"the file cannot be read: {_words(error)}") from error


class LocalOutputStore:
    """An `OutputStore` over a local folder.

    An output is written under a short hidden name beside its place, flushed to the disk and renamed. Then its folder
    is flushed.

    Args:
        folder: the output folder. `prepare` needs its marker folder.
        executor: runs `put`; None for the default executor of the event loop.
    """

    def __init__(self, folder: Path, executor: Executor | None = None) -> None:
        self._folder = folder
        self._executor = executor
        self._marker: tuple[int, int] | None = None
        self._special_names: bool | None = None
        self._expects_special_names: bool | None = None
        # A folder that is created for an output must not be deleted as empty before that output is in it.
        self._folders = threading.Lock()

    def prepare(self) -> None:
        """Check that the folder is writable, and remember its identity."""
        self._marker = _identity(self._folder / MARKER_FOLDER)
        if self._marker is None:
            raise self._moved_away()
        try:
            with open_part(self._folder / MARKER_FOLDER, "check"):
                pass
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot be written to ({_words(error)}): choose another --output, or change "
                "its permissions"
            ) from error

    def check(self) -> None:
        """Check that the folder was neither moved nor unmounted."""
        if self._marker is not None and _identity(self._folder / MARKER_FOLDER) != self._marker:
            raise self._moved_away()

    def storable_name(self, name: str) -> str:
        """The name without the characters that FAT, exFAT and NTFS refuse, if the folder is on such a file system."""
        safe = without_special(name)
        if safe == name:
            return name
        if self._special_names is None:
            self._special_names = try_special_name(self._folder / MARKER_FOLDER)
        return name if self._special_names else safe

    def expected_name(self, name: str) -> str:
        """The name that `storable_name` returns, as far as the kind of the file system tells."""
        safe = without_special(name)
        if safe == name:
            return name
        if self._expects_special_names is None:
            self._expects_special_names = expect_special_names(self._folder)
        return name if self._expects_special_names else safe

    def _moved_away(self) -> OutputError:
        return OutputError(
            f"{self._folder} was moved, or its drive was removed. Put it back, then run the same command again"
        )

    def stat(self, name: str) -> StoredObject | None:
        """Size, time and kind of an output, links followed."""
        path = f"{self._folder}{os.sep}{check_name(name, 'output')}"
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISLNK(status.st_mode):
            return _stored(status)
        try:
            return _stored(os.stat(path))  # noqa: PTH116 - a str here: planning asks for each page
        except OSError as error:
            if error.errno in _LEADS_NOWHERE:
                return StoredObject(-1, status.st_mtime_ns, "other")
            raise PageError("output", f"the output cannot be read: {_words(error)}") from None

    def read(self, name: str) -> bytes:
        """The bytes of an output."""
        with self.open(name) as file:
            try:
                return file.read()
            except OSError as error:
                raise _gone() from error

    def open(self, name: str) -> IO[bytes]:
        """Open an output for reading."""
        path = self._folder / check_name(name, GONE)
        try:
            return path.open("rb")
        except OSError as error:
            raise _gone() from error

    async def put(self, name: str, data: bytes, token: Token) -> None:
        """Write an output on a thread."""
        await to_the_end(self._in_thread(self._put, name, data, token))

    def _put(self, name: str, data: bytes, token: Token) -> None:
        target = self._target(name)
        try:
            with self._part(target, token) as part:
                part.file.write(data)
                part.flush()
                part.move_to(target)
        except OSError as error:
            raise _place_error(error, target) from error

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        """Write an output piece by piece, flush and check it, then rename it to its place."""
        target = self._target(name)
        try:
            with self._part(target, token) as part:
                write(part.file)
                part.flush()
                part.file.seek(0)
                digest = sha256_of_file(part.file)
                size = part.file.tell()
                part.file.seek(0)
                check(part.file)
                part.move_to(target)
        except OSError as error:
            raise _place_error(error, target) from error
        return size, digest

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        """Copy a file, flush the copy, then rename it to its place."""
        target = self._target(name)
        digest, size = hashlib.sha256(), 0
        try:
            with self._part(target, token) as part:
                while chunk := _read(reader):
                    digest.update(chunk)
                    size += len(chunk)
                    part.file.write(chunk)
                part.flush()
                part.move_to(target)
        except OSError as error:
            if error.errno in HITS_EVERY_PAGE:
                raise _no_more("files", error, target) from error
            raise _not_copied(error) from error
        return size, digest.hexdigest()

    def relocate(self, name: str, to: str) -> None:
        """Rename an output, and remove the folders that become empty."""
        source = self._folder / check_name(name, "output")
        target = self._target(to)
        try:
            with self._folders:
                self._make_folders(target.parent)
                move_over(source, target)
            flush_folder(target.parent)
        except OSError as error:
            if error.errno in HITS_EVERY_PAGE:
                raise _no_more("files", error, target) from error
            raise PageError("output", f"the output cannot be moved: {_words(error)}") from error
        self._remove_empty(source.parents, self._folder)

    def delete(self, names: Iterable[str], *, below: str = "") -> None:
        """Delete outputs, and the folders that become empty."""
        top = self._folder / check_name(below, "output") if below else self._folder
        folders: set[Path] = set()
        for name in names:
            with contextlib.suppress(OSError, PageError):
                path = self._folder / check_name(name, "output")
                if path.is_relative_to(top):
                    folders.update(path.parents)
                    remove(path)
        self._remove_empty(folders, top)

    def _remove_empty(self, folders: Iterable[Path], top: Path) -> None:
        """Remove those of some folders that are empty: at most ``top`` and below, never the store or its marker."""
        kept = (self._folder, self._folder / MARKER_FOLDER)
        inside = {folder for folder in folders if folder.is_relative_to(top) and folder not in kept}
        for folder in sorted(inside, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError), self._folders:
                folder.rmdir()

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        """Remove the unfinished files of a run that was killed."""
        tokens: dict[Path, set[str]] = {}
        for name, token in unfinished:
            with contextlib.suppress(PageError):
                target = self._folder / check_name(name, "output")
                tokens.setdefault(target.parent, set()).add(str(token))
        for folder, of_it in tokens.items():
            sweep_parts(folder, of_it)

    def real_folder(self, name: str | None = None) -> Path:
        """The folder of an output, with links resolved."""
        folder = self._folder if name is None else (self._folder / check_name(name, "output")).parent
        return Path(os.path.realpath(folder))

    def leads_outside(self, name: str) -> bool:
        """Whether an output is, through links, a file outside of the output folder."""
        path = self._folder / check_name(name, "output")
        if not os.path.islink(path):  # noqa: PTH114 - False also for a name that is too long
            return not self.real_folder(name).is_relative_to(self.real_folder())
        return not Path(os.path.realpath(path)).is_relative_to(self.real_folder())

    def is_same(self, name: str, path: Path) -> bool:
        """Whether an output and a source are one file, also through links."""
        try:
            return (self._folder / check_name(name, "output")).samefile(path)
        except OSError:
            return False

    def _target(self, name: str) -> Path:
        """The path of an output that is about to be written."""
        target = self._folder / check_name(name, "output")
        self.check()
        return target

    @contextlib.contextmanager
    def _part(self, target: Path, token: Token) -> Iterator[Part]:
        """An unfinished file beside its place, in a folder that is created if necessary."""
        with contextlib.ExitStack() as stack:
            try:
                part = stack.enter_context(open_part(target, token))
            except FileNotFoundError:
                with self._folders:
                    self._make_folders(target.parent)
                    part = stack.enter_context(open_part(target, token))
            yield part

    def _make_folders(self, folder: Path) -> None:
        """Create a folder and its parents, except the output folder itself: if that is missing, it was moved."""
        if not self._folder.is_dir():
            raise self._moved_away()
        for each in reversed((folder, *folder.parents)):
            if each != self._folder and each.is_relative_to(self._folder) and not each.is_dir():
                each.mkdir(exist_ok=True)
                flush_folder(each.parent)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: function(*args, **kwargs)
        )


def _stored(status: os.stat_result) -> StoredObject:
    kind = status.st_mode
    return StoredObject(
        status.st_size,
        status.st_mtime_ns,
        "file" if stat.S_ISREG(kind) else "folder" if stat.S_ISDIR(kind) else "other",
    )


def _identity(folder: Path) -> tuple[int, int] | None:
    """The device and inode numbers of a folder; None if it does not exist or is a link."""
    try:
        status = folder.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _gone() -> PageError:
    return PageError(GONE, "The output no longer exists")


def _read(reader: IO[bytes]) -> bytes:
    """The next piece of a file that is being copied. An error concerns this file, not the output disk."""
    try:
        return reader.read(_CHUNK)
    except OSError as error:
        raise _not_copied(error) from error


def _not_copied(error: OSError) -> PageError:
    return PageError("output", f"cannot be copied: {_words(error)}")


def _place_error(error: OSError, target: Path) -> OutputError | PageError:
    if error.errno in HITS_EVERY_PAGE:
        return _no_more("pages", error, target)
    return PageError("output", f"the output cannot be written: {_words(error)}")


def _no_more(what: str, error: OSError, target: Path) -> OutputError:
    return OutputError(
        f"no more {what} can be written to {target.parent}: {error.strerror}. All finished pages are recorded. "
        "Free some space, then run the same command again"
    )


def _words(error: OSError) -> str:
    return error.strerror or str(error)
