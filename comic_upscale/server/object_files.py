"""The storage of files in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure.

Nothing here relies on conditional writes, which some servers ignore: the database decides, and a key is written once.
An object appears when its upload is complete. Large files travel in parts in both directions.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from comic_upscale.errors import StorageError
from comic_upscale.server.files import ListedFile, StoredFile, checked_key, in_words, is_key
from comic_upscale.storage.buckets import (
    PART_BYTES,
    PARTS_IN_FLIGHT,
    READ_BYTES,
    NoRangesError,
    sent,
    translated,
)
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

log = logging.getLogger(__name__)


class ObjectFiles:
    """A `FileStore` in a bucket.

    Args:
        store: the bucket, with the prefix of all keys.
    """

    def __init__(self, store: S3Store | GCSStore | AzureStore) -> None:
        self._store = store

    def create(self, key: str) -> _ObjectWriter:
        """Begin a file; see `FileStore.create`."""
        return _ObjectWriter(self._store, checked_key(key))

    def size(self, key: str) -> int | None:
        """Return the bytes of a file."""
        import obstore

        try:
            return int(translated(lambda: obstore.head(self._store, checked_key(key)))["size"])
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file; see `FileStore.read`. One range after the other is requested."""
        import obstore

        checked_key(key)
        while start < end:
            until = min(start + READ_BYTES, end)
            get = partial(obstore.get_range, self._store, key, start=start, end=until)
            try:
                piece: bytes = translated(get).to_bytes()
            except NoRangesError:
                yield from self._read_on(key, start, end)
                return
            if not piece:
                raise FileNotFoundError(key)
            start += len(piece)
            yield piece

    def _read_on(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file from a server that does not say when its answer is a range: read and skip."""
        import obstore

        found = translated(lambda: obstore.get(self._store, key))
        pieces, position = iter(found.stream(min_chunk_size=READ_BYTES)), 0
        while position < end and (piece := translated(lambda: next(pieces, None))) is not None:
            part = bytes(memoryview(piece)[max(start - position, 0) : end - position])
            position += len(piece)
            if part:
                yield part
        if position < end:
            raise FileNotFoundError(key)

    def local_path(self, key: str) -> None:
        """Return None: no file is on this machine."""
        checked_key(key)

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file to this machine; see `FileStore.fetch`."""
        if target.exists():
            return
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(key)
        try:
            with open_part(target, target.name) as part:
                for piece in self.read(key, 0, size):
                    part.file.write(piece)
                part.flush()
                part.move_to(target)
        except FileNotFoundError:
            raise
        except OSError as error:
            # This disk is at fault. The storage is there, so the job must not wait for it.
            raise in_words(error) from error

    def delete(self, key: str) -> None:
        """Delete a file. If the storage cannot be reached, the janitor deletes the file later."""
        import obstore

        try:
            translated(lambda: obstore.delete(self._store, [checked_key(key)]))
        except FileNotFoundError:
            return
        except StorageError as error:
            log.error("%s cannot be deleted: %s", key, error)

    def list(self) -> Iterator[ListedFile]:
        """Yield all files; objects with other names are not of this server."""
        import obstore

        pages = iter(obstore.list(self._store))
        while (page := translated(lambda: next(pages, None))) is not None:
            for found in page:
                if is_key(found["path"]):
                    yield ListedFile(found["path"], found["last_modified"].timestamp())

    def free_percent(self) -> None:
        """Return None: a bucket has no limit that it reports."""


class _ObjectWriter:
    """Holds a small file until `commit`. A larger one is sent in parts, by a thread that takes pieces as they come."""

    def __init__(self, store: S3Store | GCSStore | AzureStore, key: str) -> None:
        self._store, self._key = store, key
        self._digest = hashlib.sha256()
        self._size = 0
        self._held = bytearray()
        self._upload: _Upload | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upload is not None:
            self._upload.abort()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)
        self._held += data
        if len(self._held) >= PART_BYTES:
            if self._upload is None:
                self._upload = _Upload(self._store, self._key)
            # The piece goes on as it is: a copy would be a sixth of the memory of an upload.
            piece, self._held = self._held, bytearray()
            self._upload.send(piece)

    def commit(self) -> StoredFile:
        import obstore

        data = self._held
        if self._upload is None:
            sent(lambda: obstore.put(self._store, self._key, data, use_multipart=False))
        else:
            self._upload.finish(data)
            self._upload = None
        return StoredFile(self._key, self._size, self._digest.hexdigest())


class _GivenUpError(Exception):
    """The upload was given up."""


class _Upload:
    """An upload in parts, on a thread of its own. Giving it up leaves no object."""

    def __init__(self, store: S3Store | GCSStore | AzureStore, key: str) -> None:
        self._store, self._key = store, key
        self._pieces: queue.Queue[bytearray | None] = queue.Queue(1)
        self._is_aborted = False
        self._done: Future[None] = Future()
        threading.Thread(target=self._run, name="upload", daemon=True).start()

    def send(self, piece: bytearray) -> None:
        while not self._done.done():
            try:
                self._pieces.put(piece, timeout=1)
                return
            except queue.Full:
                continue
        self._done.result()
        raise StorageError("the storage ended the upload early: try again")

    def finish(self, last: bytearray) -> None:
        if last:
            self.send(last)
        self._end()
        self._done.result()

    def abort(self) -> None:
        self._is_aborted = True
        self._end()
        self._done.exception()

    def _end(self) -> None:
        while not self._done.done():
            try:
                self._pieces.put(None, timeout=1)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        import obstore

        try:
            sent(
                lambda: obstore.put(
                    self._store, self._key, self._take(), use_multipart=True, chunk_size=PART_BYTES,
                    max_concurrency=PARTS_IN_FLIGHT,
                )
            )  # fmt: skip
        except BaseException as error:
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    def _take(self) -> Iterator[bytearray]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._is_aborted:
            # An error here lets the library delete the parts that were sent.
            raise _GivenUpError
