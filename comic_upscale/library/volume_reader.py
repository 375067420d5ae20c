"""Read the members of a job's volumes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from comic_upscale.errors import PageError
from comic_upscale.library.archives import Container, changed, volume_errors
from comic_upscale.library.containers import open_container
from comic_upscale.library.nested import Unpacker
from comic_upscale.library.page import Page
from comic_upscale.library.parts import find_parts, stat_parts
from comic_upscale.library.volume import Volume
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.base import SourceStore, sha256_of_files
from comic_upscale.storage.local import LocalSourceStore

_OPEN_AT_ONCE = 4
_Answer = TypeVar("_Answer")


class _OpenVolume:
    def __init__(self, container: Container, unpacked: Path | None = None) -> None:
        self.container = container
        self.unpacked = unpacked
        """The file of a volume that is inside another archive; None for any other."""
        self.lock = threading.Lock()
        self.closed = False

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.container.close()
            if self.unpacked is not None:
                self.unpacked.unlink(missing_ok=True)


class VolumeCache:
    """Reads members of volumes, and keeps the last few volumes open. Any number of threads may read.

    Args:
        volumes: those of the job.
        rules: as they were listed by.
        store: where they are; None for this machine.
    """

    def __init__(
        self, volumes: Iterable[Volume], rules: VolumeRules, store: SourceStore | None = None
    ) -> None:
        self._store = store or LocalSourceStore(Path())
        self._volumes = {volume.entry.source: volume for volume in volumes}
        self._rules = rules
        self._unpacker = Unpacker(rules, self._store)
        self._open: OrderedDict[str, _OpenVolume] = OrderedDict()
        self._lock = threading.Lock()

    def volume(self, source: str) -> Volume:
        """The volume of this source."""
        return self._volumes[source]

    def in_order(self, source: str) -> bool:
        """Whether the pages of a volume should be read in their order."""
        contents = self._volumes[source].contents
        return contents is not None and contents.in_order

    def read(self, source: str, index: int) -> bytes:
        """The bytes of a member.

        Args:
            source: of the volume.
            index: of the member.

        Raises:
            PageError: ``"changed"`` where the volume is no longer the file that was listed; else as
                `Container.read`.
        """
        return self._asked(source, lambda opened: opened.container.read(index))

    def salvage(self, source: str, index: int) -> bytes:
        """Return all bytes of a member, even if its checksum is wrong.

        Args:
            source: of the volume.
            index: of the member.

        Raises:
            PageError: as `read`.
        """
        return self._asked(source, lambda opened: opened.container.salvage(index))

    def sha256(self, source: str) -> str | None:
        """Return the SHA-256 of a volume, hexadecimal. The parts of an archive count as one file.

        Returns:
            None if it cannot be read, or is no longer the file that was listed.
        """
        entry = self._volumes[source].entry
        try:
            if entry.member is None:
                digest = sha256_of_files(map(self._store.open, find_parts(entry.path, self._store)[1]))
            else:
                digest = self._asked(source, _sha256_of_unpacked)
            self._check_unchanged(entry)
        except (OSError, PageError):
            return None
        return digest

    def _asked(self, source: str, ask: Callable[[_OpenVolume], _Answer]) -> _Answer:
        while True:
            opened = self._opened(source)
            with opened.lock:
                if not opened.closed:
                    with volume_errors("member"):
                        return ask(opened)

    def _opened(self, source: str) -> _OpenVolume:
        with self._lock:
            opened = self._open.get(source)
            if opened is None:
                opened = self._open[source] = self._open_volume(source)
            self._open.move_to_end(source)
            oldest = self._open.popitem(last=False)[1] if len(self._open) > _OPEN_AT_ONCE else None
        if oldest is not None:
            oldest.close()
        return opened

    def _open_volume(self, source: str) -> _OpenVolume:
        entry = self._volumes[source].entry
        self._check_unchanged(entry)
        if entry.member is None:
            return _OpenVolume(open_container(entry.path, self._rules, self._store))
        path = self._unpacker.unpack(entry)
        try:
            return _OpenVolume(open_container(path, self._rules), path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _check_unchanged(self, entry: Page) -> None:
        with volume_errors():
            size, mtime_ns = stat_parts(entry.path, self._store)
        # The size of a volume inside another archive is compared when it is unpacked.
        if mtime_ns != entry.mtime_ns or (entry.member is None and size != entry.size):
            raise changed()

    def close(self) -> None:
        """Close all volumes."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
            self._unpacker.close()


def _sha256_of_unpacked(opened: _OpenVolume) -> str:
    assert opened.unpacked is not None
    return sha256_of_files([opened.unpacked.open("rb")])
