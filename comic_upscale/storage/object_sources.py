"""The sources of a job in a bucket.

Everything below the prefix is listed once, in parallel, before the first page. Discovery then asks this list and not
the bucket. A million objects are a thousand requests and about 300 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
import tempfile
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from comic_upscale.errors import InputError, PageError, StorageError
from comic_upscale.settings.places import Place, place_of
from comic_upscale.storage.base import GONE, MAX_SOURCE_BYTES, SourceEntry, StoredObject, check_name
from comic_upscale.storage.buckets import Bucket, Listed
from comic_upscale.storage.ranged import as_os_error, open_ranged

_KEPT_FREE = 1 << 30
"""Bytes of the disk that fetched archives leave free."""


@dataclass(frozen=True, slots=True)
class _Status:
    st_mode: int
    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """An object, or a folder: a common beginning of keys."""

    name: str
    path: str
    listed: Listed | None
    """None for a folder."""

    def is_dir(self) -> bool:
        return self.listed is None

    def is_file(self) -> bool:
        return self.listed is not None

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> _Status:
        if self.listed is None:
            return _Status(stat.S_IFDIR, 0, 0)
        return _Status(stat.S_IFREG, self.listed.size, self.listed.mtime_ns)


_Folders = dict[str, dict[str, Listed | None]]
"""The names in each folder, by its key; None for a folder in it."""


class ObjectSourceStore:
    """A `SourceStore` over a prefix of a bucket, or a single object. Addresses are paths such as ``s3:/bucket/key``.

    Args:
        root: the address of the prefix or of the object.
        executor: runs `read`; None for the default executor of the event loop.
        bucket: the whole bucket; None to open it.
    """

    def __init__(self, root: Path, executor: Executor | None = None, bucket: Bucket | None = None) -> None:
        self.root = root
        place = place_of(root)
        self._prefix = place.prefix
        self._bucket = bucket or Bucket(Place(place.kind, place.bucket, ""))
        self._executor = executor
        self._lock = threading.Lock()
        self._folders: _Folders | None = None
        self._is_single = False

    def is_there(self) -> bool:
        """Whether the bucket answers."""
        try:
            self._bucket.list_folder(self._prefix)
        except (StorageError, FileNotFoundError):
            return False
        return True

    def is_folder(self) -> bool:
        """Whether the input is a prefix and not a single object."""
        self._list()
        return not self._is_single

    def address(self, name: str) -> Path:
        """The address of an object by its name below the prefix, or beside the single object."""
        name = check_name(name, GONE)
        return (self.root if self.is_folder() else self.root.parent) / name

    def list(self, folder: str) -> Sequence[SourceEntry]:
        """The entries of a folder, from the list."""
        names = self._list().get(self._key(Path(folder)))
        if names is None:
            raise FileNotFoundError(2, "no object has a name that begins so")
        return [_Entry(name, f"{folder}/{name}", listed) for name, listed in names.items()]

    def identity(self, folder: str) -> Hashable | None:
        """The address itself: a bucket has no links."""
        return PurePosixPath(folder).as_posix()

    def real_folder(self, path: Path | None = None) -> PurePath:
        """The folder of an object."""
        return PurePosixPath((self.root if path is None else path.parent).as_posix())

    def stat(self, path: Path) -> StoredObject:
        """Size, time and kind of an object, from the list."""
        key = self._key(path)
        if key in self._list():
            return StoredObject(0, 0, "folder")
        listed = self._find(key)
        return StoredObject(listed.size, listed.mtime_ns)

    def exists(self, path: Path) -> bool:
        """Whether an object or a folder is in the list."""
        try:
            self.stat(path)
        except OSError:
            return False
        return True

    def may_read(self, path: Path) -> bool:
        """Whether an object is in the list. Rights show when it is read."""
        return self.exists(path)

    def open(self, path: Path) -> IO[bytes]:
        """Open an object for reading by ranges."""
        return open_ranged(self._bucket, self._find(self._key(path)))

    @contextlib.contextmanager
    def local_path(self, path: Path) -> Iterator[Path]:
        """A copy of an object among the temporary files: libraries that open files by name read all of it."""
        listed = self._find(self._key(path))
        with tempfile.TemporaryDirectory(prefix="comic-upscale-") as folder:
            free = shutil.disk_usage(folder).free - _KEPT_FREE
            if listed.size > free:
                raise OSError(28, f"no room in {folder} to fetch its {listed.size:,} bytes")
            here = Path(folder, path.name)
            try:
                with here.open("wb") as file:
                    self._bucket.fetch(listed, file)
            except StorageError as error:
                raise as_os_error(error) from error
            yield here

    async def read(self, path: Path) -> bytes:
        """The bytes of an object, read on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.read_now, path)

    def read_now(self, path: Path) -> bytes:
        """The bytes of an object."""
        try:
            listed = self._find(self._key(path))
            if listed.size > MAX_SOURCE_BYTES:
                raise PageError(
                    "too-large",
                    f"the object has {listed.size:,} bytes; at most {MAX_SOURCE_BYTES:,} are read",
                )
        except FileNotFoundError:
            raise PageError("vanished", "the object no longer exists") from None
        return read_object(self._bucket, path)

    def _key(self, path: Path) -> str:
        return place_of(path).prefix

    def _find(self, key: str) -> Listed:
        folder, _, name = key.rpartition("/")
        folders = self._list()
        listed = folders.get(folder, {}).get(name)
        if listed is None:
            raise FileNotFoundError(2, "no such object")
        return listed

    def _list(self) -> _Folders:
        """Return the list, which is made once.

        Raises:
            InputError: the bucket cannot be listed.
        """
        with self._lock:
            if self._folders is None:
                try:
                    self._folders = self._make_list()
                except (StorageError, FileNotFoundError) as error:
                    raise InputError(f"{place_of(self.root).address} cannot be listed: {error}") from error
            return self._folders

    def _make_list(self) -> _Folders:
        objects = self._bucket.list_parallel(self._prefix)
        if objects or not self._prefix:
            return _sort_by_folder(objects, self._prefix)
        try:
            self._bucket.head(self._prefix)
        except FileNotFoundError:
            # Listed as nothing: discovery says that it does not exist.
            return {}
        self._is_single = True
        parent, _, _ = self._prefix.rpartition("/")
        _, beside = self._bucket.list_folder(parent)
        return _sort_by_folder(beside, parent)


def read_object(bucket: Bucket, path: Path) -> bytes:
    """Return the bytes of a page.

    Args:
        bucket: the whole bucket.
        path: address of the page.

    Raises:
        PageError: ``vanished`` or ``unreadable``.
    """
    try:
        return bucket.get(place_of(path).prefix)
    except FileNotFoundError:
        raise PageError("vanished", "the object no longer exists") from None
    except StorageError as error:
        raise PageError("unreadable", f"the object cannot be read: {error}") from error


def _sort_by_folder(objects: Sequence[Listed], prefix: str) -> _Folders:
    folders: _Folders = {prefix: {}}
    for listed in objects:
        folder, _, name = listed.key.rpartition("/")
        # An object called like a folder stands for an empty folder; it was made by a program that shows folders.
        if not name or listed.key == prefix or listed.key in folders:
            continue
        folders.setdefault(folder, {})[name] = listed
        while folder != prefix:
            parent, _, name = folder.rpartition("/")
            inside = folders.setdefault(parent, {})
            if inside.get(name, listed) is None:
                break
            inside[name] = None
            folder = parent
    return folders
