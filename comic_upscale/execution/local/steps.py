"""The work of the stages on one page, by the settings of the job; runs on the calling thread.

Arguments and results are plain values, so that a worker process can do the same work.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import MappingProxyType

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.engines.registry import fingerprinted_options
from comic_upscale.execution.base import sha256_of_source
from comic_upscale.execution.quality_gate import QualityGate
from comic_upscale.gate.verdict import Verdict
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.codecs.png import LARGE_PAGE
from comic_upscale.imaging.decode import Header, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, list_omissions, lossy_quality
from comic_upscale.imaging.levels import Points
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.screen import to_screen
from comic_upscale.imaging.shape import decode_page
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import describe_growth, find_target, needs_network, skip_reason
from comic_upscale.library.page_rules import (
    FilteredPage,
    Matches,
    Network,
    OwnSettings,
    PageRules,
    as_filtered,
)
from comic_upscale.models.weights import cleans_white
from comic_upscale.settings.job import FormatName, JobSettings
from comic_upscale.settings.sizes import Print

_FIRST_READ_BACK = 16
"""The first files of each format are all read back: they show that the encoder works on this machine."""


@dataclass(frozen=True, slots=True)
class PageSize:
    """The sizes of a page."""

    source: tuple[int, int]
    """(width, height) of the source, upright."""
    target: tuple[int, int]
    """(width, height) of the output."""
    needs_network: bool
    """Whether the page goes through the network."""
    notes: tuple[str, ...]
    """Notes about the sizes for the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded page."""

    pixels: Pixels
    """For the network; at the target size if the page does not go through it."""
    size: PageSize
    sha256: str
    """Of the source."""
    matches: Matches = ()
    """The rules that match the page."""
    network: Network = ("", None)
    """The model and the denoise strength for it."""
    own_settings: str = ""
    """Its `OwnSettings` as JSON."""


@dataclass(slots=True, eq=False)
class Handover:
    """The only reference to the pixels of a page. A step takes them out, so that they live no longer than needed."""

    pixels: Pixels | None

    def take(self) -> Pixels:
        """Return the pixels, and forget them."""
        pixels, self.pixels = self.pixels, None
        assert pixels is not None
        return pixels


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The file of an output."""

    data: bytes
    sha256: str
    """In hexadecimal."""
    notes: tuple[str, ...]
    """What the format leaves out, for the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A page after the network, judged."""

    verdict: Verdict
    encoded: Encoded | None
    """None for a suspect page, which may be upscaled again."""
    pixels: Pixels | None
    """The pixels of a suspect page."""


class PageSteps:
    """Decoding, finishing and encoding with the settings of a job.

    Args:
        settings: of the job.
        native_scales: by model, the factor of its network, None if the network makes any size or is unknown.
        identities: the identity of each network, for the fingerprints of pages.
    """

    def __init__(
        self,
        settings: JobSettings,
        native_scales: Mapping[str, int | None],
        identities: Mapping[Network, str] = MappingProxyType({}),
    ) -> None:
        self._settings = settings
        self._native_scales = dict(native_scales)
        self._rules = PageRules(settings)
        self._identities = dict(identities)
        self._fingerprints: dict[Matches, str] = {}
        self._written: Counter[FormatName] = Counter()

    def read_header(self, data: bytes) -> Header:
        """Read the header of the file of a page.

        Raises:
            PageError: the file is not a readable image.
        """
        return read_header(data)

    def skip_reason(self, size: tuple[int, int]) -> str | None:
        """Return why a page of this size is skipped; None if it is not."""
        return skip_reason(size, self._settings)

    def find_size(self, source: tuple[int, int], model: str = "") -> PageSize:
        """Return the target size of a page, with notes for the user.

        Args:
            source: (width, height), upright.
            model: of the page; empty for that of the job.

        Raises:
            PageError: the size is not possible.
        """
        target = find_target(*source, self._settings.size)
        notes = target.notes
        native_scale = self._native_scales.get(model or self._settings.model)
        # With a scale all pages grow alike, and the header of the run shows it.
        if self._settings.scale is None:
            how = describe_growth(source, target.size, native_scale)
            notes += () if how is None else (how,)
        return PageSize(source, target.size, needs_network(source, target.size, native_scale), notes)

    def pixels_in_flight(self, size: PageSize, format: FormatName) -> int:
        """Return the pixels that a page takes from the budget; 0 if decoding will refuse it.

        Raises:
            PageError: the output format does not allow the target size.
        """
        pixels = size.source[0] * size.source[1]
        if pixels > self._settings.max_pixels:
            return 0
        check_target(*size.target, format)
        return max(size.target[0] * size.target[1], pixels)

    def wants_png_rows(self, format: FormatName, target: tuple[int, int], matches: Matches) -> bool:
        """Return whether a page is written from the filtered rows of a PNG, if a device has made them.

        Args:
            format: of the file.
            target: (width, height) of the output, in pixels.
            matches: the rules that match the page.
        """
        settings = self._rules.settings_for(matches)
        stays = settings.screen is None or settings.screen.levels is None
        return (
            format == "png" and settings.png_level is None and stays and target[0] * target[1] <= LARGE_PAGE
        )

    def decode(
        self,
        data: bytes,
        size: PageSize,
        sha256: str,
        source: str = "",
        points: tuple[int, int] | None = None,
    ) -> Decoded:
        """Decode a page, and prepare it for the network, or shrink it if it does not go through that.

        Args:
            data: the file.
            size: by its header.
            sha256: of the file; empty to compute it.
            source: its path in the input.
            points: as in `PageTask`.

        Raises:
            PageError: it cannot be decoded.
        """
        settings = self._settings
        pixels = decode_page(data, settings)
        sha256 = sha256 or sha256_of_source(data)
        page = as_filtered(pixels, data, source, self._rules, None if points is None else Points(*points))
        pixels, own = page.pixels, page.settings
        if (pixels.width, pixels.height) != size.source or own.model != settings.model:
            # Its margins were cropped, it was rotated, or the file gives its orientation only after the pixels.
            size = self.find_size((pixels.width, pixels.height), own.model)
            if own.model != settings.model:
                pixels = replace(
                    pixels, notes=(*pixels.notes, f"model: {PurePath(own.model).name}, by a rule")
                )
        cleans = cleans_white(own.model, own.denoise)
        pixels = prepare(pixels, raw=settings.raw, cleans_white=cleans)
        return Decoded(
            pixels if size.needs_network else shrink(pixels, size.target),
            size,
            sha256,
            page.matches,
            (own.model, own.denoise),
            self._own_settings(page),
        )

    def _own_settings(self, page: FilteredPage) -> str:
        own = page.settings
        if page.matches not in self._fingerprints:
            identity = self._identities.get((own.model, own.denoise), "")
            self._fingerprints[page.matches] = own.fingerprint(identity, fingerprinted_options(own))
        return OwnSettings(
            fingerprint=self._fingerprints[page.matches],
            gray=page.traits.gray,
            jpeg_quality=page.traits.jpeg_quality,
            neutral_paper=self._settings.neutral_paper,
        ).as_json()

    def finish(
        self,
        before: Pixels,
        raw: Handover,
        target: tuple[int, int],
        format: FormatName,
        gate: QualityGate,
        matches: Matches = (),
    ) -> Finished:
        """Post-process a page, judge it, and encode it unless it is suspect.

        Args:
            before: the input of the network.
            raw: the raw output of the engine.
            target: (width, height) of the output, in pixels.
            format: of the file.
            gate: of the network of the page.
            matches: the rules that match the page.

        Raises:
            PageError: as in `encode`.
        """
        page, verdict = gate.finished(before, raw.take())
        if verdict.is_suspect:
            return Finished(verdict, None, page)
        finished = Handover(page)
        del page
        return Finished(verdict, self.encode(finished, target, format, matches), None)

    def encode(
        self, page: Handover, target: tuple[int, int], format: FormatName, matches: Matches = ()
    ) -> Encoded:
        """Encode a page at its target size, and read the file back to check it where its turn has come.

        Args:
            page: the output of the engine, finished or not.
            target: (width, height) of the output, in pixels.
            format: of the file.
            matches: the rules that match the page.

        Raises:
            PageError: the page cannot be encoded, or the file cannot be read back.
        """
        settings = self._rules.settings_for(matches)
        pixels = to_screen(finish(page.take()), settings, format)
        work = pixels.device_work
        omissions = list_omissions(pixels, format, settings.format)
        data = encode(
            pixels,
            format=format,
            quality=lossy_quality(pixels, format, settings.format, settings.quality),
            dpi=settings.size.dpi if isinstance(settings.size, Print) else None,
            settings=settings,
            png_rows=None if work is None else work.png_rows,
        )
        # Released before the check decodes a second copy: a large page has over a gigabyte.
        del pixels, work
        if self._chooses_next(format):
            check_encoded(data, target)
        return Encoded(data, hashlib.sha256(data).hexdigest(), omissions)

    def _chooses_next(self, format: FormatName) -> bool:
        """Count a file that was written, and return whether to read it back."""
        written = self._written[format]
        # Threads may count a file twice or not at all, which only moves the next one that is read back.
        self._written[format] += 1
        return (
            written < _FIRST_READ_BACK
            or written % FORMATS[format].read_back_every == 0
            # It will take the place of its original.
            or self._settings.replace_sources
        )
