"""The hashes of sources that planning needs, each computed once."""

from __future__ import annotations

from pathlib import Path

from comic_upscale.ledger.records import PageRow
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.source_reader import Source, SourceReader
from comic_upscale.library.volume import Volume
from comic_upscale.storage.base import SourceStore


class SourceHashes:
    """Remembers the hashes of sources for as long as a run is planned.

    Args:
        sources: reads the sources.
    """

    def __init__(self, sources: SourceReader) -> None:
        self._sources = sources
        # Volumes inside one archive have the same path, so the position counts as a whole.
        self._known: dict[tuple[Path, MemberOf | None], str | None] = {}

    @property
    def store(self) -> SourceStore:
        """The store of the sources."""
        return self._sources.store

    def sha256(self, source: Source) -> str | None:
        """The SHA-256 of a source, hexadecimal; None if it cannot be read."""
        key = (source.path, source.member)
        if key not in self._known:
            self._known[key] = self._sources.sha256(source)
        return self._known[key]

    def sha256_of_volume(self, volume: Volume) -> str | None:
        """Return the SHA-256 of a volume, hexadecimal; None if it cannot be read."""
        key = (volume.entry.path, volume.entry.member)
        if key not in self._known:
            self._known[key] = self._sources.volumes.sha256(volume.entry.source)
        return self._known[key]

    def has_content_of(self, row: PageRow, page: Page) -> bool:
        """Return whether a page has the recorded content. It is read only if it has the recorded size."""
        return row.source_size == page.size and row.source_sha256 == self.sha256(page)
