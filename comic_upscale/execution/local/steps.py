"""The work of the stages on one page, by the settings of the job; runs on the calling thread."""

from __future__ import annotations

import hashlib

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.execution.base import sha256_of_source
from comic_upscale.execution.local.page import PageInFlight
from comic_upscale.imaging.decode import Header, decode, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, list_omissions, lossy_quality
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import describe_growth, find_target, grows, skip_reason
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Print


class PageSteps:
    """Decoding and encoding with the settings of a job.

    Args:
        settings: of the job.
        native_scale: the network's own factor, for notes about sizes; None if the network makes any size.
    """

    def __init__(self, settings: JobSettings, native_scale: int | None) -> None:
        self._settings = settings
        self._native_scale = native_scale

    def read_header(self, data: bytes) -> Header:
        """Read the header of the file of a page.

        Raises:
            PageError: the file is not a readable image.
        """
        return read_header(data)

    def skip_reason(self, size: tuple[int, int]) -> str | None:
        """Return why a page of this size is skipped; None if it is not."""
        return skip_reason(size, self._settings)

    def set_target(self, page: PageInFlight) -> None:
        """Set the target size of a page, with notes for the user.

        Raises:
            PageError: the size is not possible.
        """
        target = find_target(*page.size, self._settings.size)
        page.target, page.notes = target.size, target.notes
        # With a scale all pages grow alike, and the header of the run shows it.
        if self._settings.scale is None:
            how = describe_growth(page.size, page.target, self._native_scale)
            page.notes += () if how is None else (how,)

    def pixels_in_flight(self, page: PageInFlight) -> int:
        """Return the pixels that a page takes from the budget; 0 if decoding will refuse it.

        Raises:
            PageError: the output format does not allow the target size.
        """
        if page.input_pixels > self._settings.max_pixels:
            return 0
        check_target(*page.target, page.task.format)
        return max(page.target[0] * page.target[1], page.input_pixels)

    def decode(self, page: PageInFlight, data: bytes) -> Pixels:
        """Decode a page, and prepare it for the network, or shrink it if it need not grow.

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
        page.sha256 = page.task.sha256 or sha256_of_source(data)
        if (pixels.width, pixels.height) != page.size:
            # The file gives its orientation only after the pixels.
            page.size = (pixels.width, pixels.height)
            self.set_target(page)
        pixels = prepare(pixels)
        return pixels if grows(page.size, page.target) else shrink(pixels, page.target)

    def encode(self, page: PageInFlight) -> tuple[bytes, str]:
        """Encode a page at its target size, and check the file.

        Returns:
            The output, and its SHA-256 in hexadecimal.

        Raises:
            PageError: the page cannot be encoded, or the file cannot be read back.
        """
        pixels, page.pixels = page.pixels, None
        assert pixels is not None
        pixels = finish(pixels)
        settings, format = self._settings, page.task.format
        page.notes = (*page.notes, *list_omissions(pixels, format, settings.format))
        data = encode(
            pixels,
            format=format,
            quality=lossy_quality(pixels, format, settings.format, settings.quality),
            dpi=settings.size.dpi if isinstance(settings.size, Print) else None,
            settings=settings,
        )
        # Released before the check decodes a second copy: a large page has over a gigabyte.
        del pixels
        check_encoded(data, page.target)
        return data, hashlib.sha256(data).hexdigest()
