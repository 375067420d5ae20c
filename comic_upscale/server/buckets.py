"""Jobs over buckets: only what is below an allowed root, fetched to the worker's disk, and results put back.

A worker fetches the pages of a job into its folder: each object once, also if the job is continued there. The names of
objects come from strangers, so a name that would lead out of the folder is refused.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comic_upscale.errors import OutputError, PageError, SettingsError
from comic_upscale.server.files import in_words
from comic_upscale.server.roots import OUTPUT
from comic_upscale.server.storage import open_bucket
from comic_upscale.settings.places import Place, parse_place
from comic_upscale.storage.base import check_name
from comic_upscale.storage.buckets import PART_BYTES, PARTS_IN_FLIGHT, READ_BYTES, translated
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    from comic_upscale.server.settings import ServerSettings

MOST_OBJECTS = 100_000
"""Objects of one job."""


class FetchStoppedError(Exception):
    """A stop was requested while the pages of a job were being fetched."""


def find_in_bucket(roots: Sequence[str], text: str) -> Place:
    """Return a place below an allowed root.

    Args:
        roots: addresses of buckets.
        text: an address.

    Raises:
        SettingsError: no root allows it.
    """
    place = parse_place(text)
    if not any(parse_place(root).contains(place) for root in roots):
        raise SettingsError(f"{text[:200]} is not below a bucket that the server was started with (--root)")
    return place


def output_in_place(source: Place) -> Place:
    """Return where the pages of a place are upscaled by default: below it."""
    return source.below(OUTPUT)


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    """Relative to the place."""
    size: int
    changed_ns: int


class BucketFolder:
    """The objects of a place. All methods block.

    Args:
        settings: of the server, with the keys of the bucket.
        place: below an allowed root.

    Raises:
        SettingsError: the library for buckets is not installed.
    """

    def __init__(self, settings: ServerSettings, place: Place) -> None:
        self._settings, self.place = settings, place
        self._store = open_bucket(settings, place.address)

    def fetch(self, folder: Path, *, without: Sequence[Place], should_stop: Callable[[], bool]) -> None:
        """Copy all objects into a folder, except those that are there already.

        Args:
            folder: of the job on this machine.
            without: objects below these places are left out: results of earlier jobs.
            should_stop: asked before each object.

        Raises:
            SettingsError: there is no object, there are too many, or a name leads out of the folder.
            OutputError: the disk has no room for them.
            StorageError: the bucket cannot be reached.
            FetchStoppedError: a stop was requested.
        """
        store = self._store
        found = [each for each in self._list() if not self._is_below(without, each.name)]
        if not found:
            store, found = self._single()
        missing = [each for each in found if not _is_there(folder / _checked(each.name), each)]
        self._check_room(folder, sum(each.size for each in missing))
        for each in missing:
            if should_stop():
                raise FetchStoppedError
            # Another program may delete an object meanwhile. It is no page then.
            with contextlib.suppress(FileNotFoundError):
                _fetch(store, each, folder / each.name)

    def is_empty(self) -> bool:
        """Return whether the place has no objects.

        Raises:
            StorageError: the bucket cannot be reached.
        """
        import obstore

        pages = iter(obstore.list(self._store, chunk_size=1))
        return not translated(lambda: next(pages, None))

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files into the bucket. A file that is there with as many bytes is replaced.

        Args:
            folder: the output folder of a run.
            names: POSIX paths relative to it.

        Raises:
            SettingsError: an object of that name has another size, so it is not a result of this job.
            StorageError: the bucket cannot be reached.
            OSError: a file cannot be read.
        """
        import obstore

        for name in names:
            size = self._size(name)
            if size is not None and size != (folder / name).stat().st_size:
                raise SettingsError(
                    f"{self.place.below(name).address} exists and is not of this job: choose another output"
                )
        for name in names:
            with (folder / name).open("rb") as file:
                put = partial(
                    obstore.put,
                    self._store,
                    name,
                    file,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_IN_FLIGHT,
                )
                translated(put)

    def _list(self) -> list[_Object]:
        import obstore

        found: list[_Object] = []
        pages = iter(obstore.list(self._store))
        while (page := translated(lambda: next(pages, None))) is not None:
            # A prefix as a folder, as some programs store it.
            found += [_described(each) for each in page if each["size"] or not each["path"].endswith("/")]
            if len(found) > MOST_OBJECTS:
                raise SettingsError(
                    f"{self.place.address} has more than {MOST_OBJECTS} objects: give one of its parts"
                )
        return found

    def _single(self) -> tuple[Any, list[_Object]]:
        """Return the store and the object if the place is an object itself."""
        import obstore

        parent, _, name = self.place.prefix.rpartition("/")
        if name:
            store = open_bucket(self._settings, Place(self.place.kind, self.place.bucket, parent).address)
            with contextlib.suppress(FileNotFoundError):
                return store, [_described(translated(lambda: obstore.head(store, name)))]
        raise SettingsError(f"{self.place.address} has no objects")

    def _size(self, name: str) -> int | None:
        import obstore

        try:
            return int(translated(lambda: obstore.head(self._store, name))["size"])
        except FileNotFoundError:
            return None

    def _is_below(self, places: Sequence[Place], name: str) -> bool:
        return any(place.contains(self.place.below(name)) for place in places)

    def _check_room(self, folder: Path, need: int) -> None:
        usage = shutil.disk_usage(folder)
        room = int(usage.free - usage.total * self._settings.min_free_disk / 100)
        if need > room:
            raise OutputError(
                f"the pages of {self.place.address} need {need:,} bytes, and the disk of the worker has room for "
                f"{max(room, 0):,}: free some space, or give a part of them"
            )


def _described(found: Any) -> _Object:
    changed: datetime = found["last_modified"]
    return _Object(str(found["path"]), int(found["size"]), int(changed.timestamp() * 1000) * 1_000_000)


def _checked(name: str) -> str:
    try:
        return check_name(name, "input")
    except PageError:
        raise SettingsError(
            f"the bucket has an object {name[:200]!r}, whose name leads out of a folder"
        ) from None


def _is_there(path: Path, wanted: _Object) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (wanted.size, wanted.changed_ns)


def _fetch(store: Any, wanted: _Object, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_part(target, target.name) as part:
            for piece in _pieces(store, wanted.name):
                part.file.write(piece)
            part.flush()
            part.move_to(target)
        # The ledger recognises a source by its time, on every machine.
        os.utime(target, ns=(wanted.changed_ns,) * 2)
    except FileNotFoundError:
        raise
    except OSError as error:
        # This disk is at fault, not the bucket.
        raise in_words(error) from error


def _pieces(store: Any, name: str) -> Iterator[bytes]:
    import obstore

    pieces = iter(translated(lambda: obstore.get(store, name)).stream(min_chunk_size=READ_BYTES))
    while (piece := translated(lambda: next(pieces, None))) is not None:
        yield bytes(memoryview(piece))
