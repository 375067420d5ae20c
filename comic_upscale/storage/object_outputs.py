"""The outputs of a job in a bucket: each object appears when its upload is complete, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from comic_upscale.errors import OutputError, PageError, StorageError
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.settings.places import Place, place_of
from comic_upscale.storage.base import GONE, StoredObject, Token, check_name, sha256_of_file
from comic_upscale.storage.buckets import LONGEST_KEY, MARK, Bucket
from comic_upscale.storage.local import to_the_end
from comic_upscale.storage.ranged import open_ranged

_CHUNK = 1 << 20
_MARKS = {MARK: "output"}
_CONTROL = dict.fromkeys((*range(32), 127), "_")
"""Characters that no key may contain."""


class ObjectOutputStore:
    """An `OutputStore` below a prefix of a bucket.

    The objects are listed once, before the first is looked at. This list then follows the store's own writes.

    Args:
        root: the address of the prefix, as a path.
        executor: runs `put`; None for the default executor of the event loop.
        bucket: the whole bucket; None to open it.
    """

    def __init__(self, root: Path, executor: Executor | None = None, bucket: Bucket | None = None) -> None:
        place = place_of(root)
        self._address, self._prefix = place.address, place.prefix
        self._root = PurePosixPath(root.as_posix())
        self._bucket = bucket or Bucket(Place(place.kind, place.bucket, ""))
        self._executor = executor
        self._lock = threading.Lock()
        self._objects: dict[str, StoredObject] | None = None

    def prepare(self) -> None:
        """Check that an object can be written and deleted."""
        key = self._key(f"{MARKER_FOLDER}/check")
        with self._writing("pages"):
            self._bucket.put(key, b"comic-upscale")
            self._bucket.delete([key])

    def check(self) -> None:
        """Do nothing: the address is always that of the same bucket, and each write tells whether it can be reached."""

    def storable_name(self, name: str) -> str:
        """The name without control characters, which no key may contain."""
        return name.translate(_CONTROL)

    def expected_name(self, name: str) -> str:
        """The same as `storable_name`."""
        return self.storable_name(name)

    def stat(self, name: str) -> StoredObject | None:
        """Size and time of an object, from the list."""
        return self._listed().get(check_name(name, "output"))

    def is_marked(self, name: str) -> bool:
        """Whether an object was written by this package, as its metadata says; False if the service keeps none."""
        try:
            return MARK in self._bucket.marks(self._key(check_name(name, "output")))
        except (FileNotFoundError, StorageError):
            return False

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        key = self._key(check_name(name, GONE))
        try:
            return self._bucket.get(key)
        except (FileNotFoundError, StorageError) as error:
            raise _gone() from error

    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading by ranges."""
        key = self._key(check_name(name, GONE))
        try:
            return open_ranged(self._bucket, self._bucket.head(key))
        except (FileNotFoundError, StorageError) as error:
            raise _gone() from error

    async def put(self, name: str, data: bytes, token: Token) -> None:
        """Write an object on a thread."""
        loop = asyncio.get_running_loop()

        async def put() -> None:
            await loop.run_in_executor(self._executor, partial(self._put, name, data))

        await to_the_end(put())

    def _put(self, name: str, data: bytes | IO[bytes], what: str = "pages") -> None:
        key = self._writable_key(name)
        with self._writing(what):
            listed = self._bucket.put(key, data, _MARKS)
        self._note(name, listed.size)

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        """Write an object into a temporary file, check it, then upload it."""
        self._writable_key(name)
        with _temporary() as file:
            write(file)
            file.flush()
            file.seek(0)
            digest = sha256_of_file(file)
            size = file.tell()
            file.seek(0)
            check(file)
            self._put(name, file)
        return size, digest

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        """Write an object from a file."""
        self._writable_key(name)
        digest, size = hashlib.sha256(), 0
        with _temporary() as file:
            try:
                while chunk := reader.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
            except OSError as error:
                raise PageError("output", f"cannot be copied: {error.strerror or error}") from error
            self._put(name, file, "files")
        return size, digest.hexdigest()

    def relocate(self, name: str, to: str) -> None:
        """Copy an object inside the bucket, then delete the one of the old name."""
        source, target = self._key(check_name(name, "output")), self._writable_key(to)
        found = self.stat(name)
        try:
            with self._writing("files"):
                if source != target:
                    self._bucket.copy(source, target)
                    self._bucket.delete([source])
                size = self._bucket.head(target).size if found is None else found.size
        except FileNotFoundError:
            raise PageError("output", "the output cannot be moved: it no longer exists") from None
        self._forget(name)
        self._note(to, size)

    def delete(self, names: Iterable[str], *, below: str = "") -> None:
        """Delete objects. Those that cannot be deleted stay."""
        for name in names:
            with contextlib.suppress(PageError, StorageError):
                if not below or check_name(name, "output").startswith(f"{below}/"):
                    self._bucket.delete([self._key(check_name(name, "output"))])
                    self._forget(name)

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        """Do nothing: an upload that was not completed left no object."""

    def real_folder(self, name: str | None = None) -> PurePath:
        """The folder of an object."""
        return self._root if name is None else (self._root / check_name(name, "output")).parent

    def leads_outside(self, name: str) -> bool:
        """Return False: a bucket has no links."""
        check_name(name, "output")
        return False

    def is_same(self, name: str, path: Path) -> bool:
        """Whether an object and a source are one and the same."""
        return (self._root / check_name(name, "output")).as_posix() == path.as_posix()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _writable_key(self, name: str) -> str:
        key = self._key(check_name(name, "output"))
        if len(key.encode(errors="replace")) > LONGEST_KEY:
            raise PageError(
                "output", f"the name of the output is too long for a bucket: more than {LONGEST_KEY:,} bytes"
            )
        return key

    def _note(self, name: str, size: int) -> None:
        with self._lock:
            if self._objects is not None:
                self._objects[name] = StoredObject(size, time.time_ns())

    def _forget(self, name: str) -> None:
        with self._lock:
            if self._objects is not None:
                self._objects.pop(name, None)

    def _listed(self) -> dict[str, StoredObject]:
        with self._lock:
            if self._objects is None:
                start = len(self._prefix) + 1 if self._prefix else 0
                with self._writing("pages"):
                    found = self._bucket.list_parallel(self._prefix)
                self._objects = {
                    listed.key[start:]: StoredObject(listed.size, listed.mtime_ns)
                    for listed in found
                    if listed.key != self._prefix
                }
            return self._objects

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            raise OutputError(
                f"no more {what} can be written to {self._address}: {error}. All finished pages are recorded. Once it "
                "is back, run the same command again"
            ) from error


@contextlib.contextmanager
def _temporary() -> Iterator[IO[bytes]]:
    """An object that is being made. A full temporary folder concerns every other one, too.

    Raises:
        OutputError: the temporary folder is full.
    """
    try:
        with tempfile.TemporaryFile(prefix="comic-upscale-") as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"no volume can be made in {tempfile.gettempdir()}: {error.strerror or error}. Free some space, or set "
            "TMPDIR to another folder, then run the same command again"
        ) from error


def _gone() -> PageError:
    return PageError(GONE, "The output no longer exists")
