"""The work of the stages on one page, by the settings of the job; runs on the calling thread.

Arguments and results are plain values, so that a worker process can do the same work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.execution.base import sha256_of_source
from comic_upscale.execution.local.quality_gate import QualityGate
from comic_upscale.gate.verdict import Verdict
from comic_upscale.imaging.decode import Header, decode, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, list_omissions, lossy_quality
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import describe_growth, find_target, needs_network, skip_reason
from comic_upscale.settings.job import FormatName, JobSettings
from comic_upscale.settings.sizes import Print


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
        native_scale: the network's own factor; None if the network makes any size.
        gate: judges finished pages.
    """

    def __init__(self, settings: JobSettings, native_scale: int | None, gate: QualityGate) -> None:
        self._settings = settings
        self._native_scale = native_scale
        self._gate = gate

    def read_header(self, data: bytes) -> Header:
        """Read the header of the file of a page.

        Raises:
            PageError: the file is not a readable image.
        """
        return read_header(data)

    def skip_reason(self, size: tuple[int, int]) -> str | None:
        """Return why a page of this size is skipped; None if it is not."""
        return skip_reason(size, self._settings)

    def find_size(self, source: tuple[int, int]) -> PageSize:
        """Return the target size of a page, with notes for the user.

        Raises:
            PageError: the size is not possible.
        """
        target = find_target(*source, self._settings.size)
        notes = target.notes
        # With a scale all pages grow alike, and the header of the run shows it.
        if self._settings.scale is None:
            how = describe_growth(source, target.size, self._native_scale)
            notes += () if how is None else (how,)
        return PageSize(source, target.size, needs_network(source, target.size, self._native_scale), notes)

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

    def decode(self, data: bytes, size: PageSize, sha256: str) -> Decoded:
        """Decode a page, and prepare it for the network, or shrink it if it does not go through that.

        Args:
            data: the file.
            size: by its header.
            sha256: of the file; empty to compute it.

        Raises:
            PageError: it cannot be decoded.
        """
        settings = self._settings
        pixels = decode(
            data,
            max_pixels=settings.max_pixels,
            gray=settings.gray_mode,
            icc=settings.icc,
            animated=settings.animated,
        )
        sha256 = sha256 or sha256_of_source(data)
        if (pixels.width, pixels.height) != size.source:
            # The file gives its orientation only after the pixels.
            size = self.find_size((pixels.width, pixels.height))
        pixels = prepare(pixels, raw=settings.raw)
        return Decoded(pixels if size.needs_network else shrink(pixels, size.target), size, sha256)

    def finish(self, before: Pixels, raw: Handover, target: tuple[int, int], format: FormatName) -> Finished:
        """Post-process a page, judge it, and encode it unless it is suspect.

        Args:
            before: the input of the network.
            raw: the raw output of the engine.
            target: (width, height) of the output, in pixels.
            format: of the file.

        Raises:
            PageError: as in `encode`.
        """
        page, verdict = self._gate.finished(before, raw.take())
        if verdict.is_suspect:
            return Finished(verdict, None, page)
        finished = Handover(page)
        del page
        return Finished(verdict, self.encode(finished, target, format), None)

    def encode(self, page: Handover, target: tuple[int, int], format: FormatName) -> Encoded:
        """Encode a page at its target size, and check the file.

        Args:
            page: the output of the engine, finished or not.
            target: (width, height) of the output, in pixels.
            format: of the file.

        Raises:
            PageError: the page cannot be encoded, or the file cannot be read back.
        """
        pixels = finish(page.take())
        settings = self._settings
        omissions = list_omissions(pixels, format, settings.format)
        data = encode(
            pixels,
            format=format,
            quality=lossy_quality(pixels, format, settings.format, settings.quality),
            dpi=settings.size.dpi if isinstance(settings.size, Print) else None,
            settings=settings,
        )
        # Released before the check decodes a second copy: a large page has over a gigabyte.
        del pixels
        check_encoded(data, target)
        return Encoded(data, hashlib.sha256(data).hexdigest(), omissions)
