"""What the stages do with one page, by the settings: the work itself, on whatever thread it is called."""

from __future__ import annotations

import hashlib

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.execution.base import sha256_of_source
from comic_upscale.execution.local.page import PageInFlight
from comic_upscale.imaging.decode import Header, decode, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, left_out, lossy_quality
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import describe_growth, find_target, grows, is_larger
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Print


class PageSteps:
    """Decoding and encoding, as a job wants them.

    Args:
        settings: of the job.
        native_scale: the network's own factor, for what is told of a page's size; None where it makes any size.
    """

    def __init__(self, settings: JobSettings, native_scale: int | None) -> None:
        self._settings = settings
        self._native_scale = native_scale

    def read_header(self, data: bytes) -> Header:
        """Read what the first bytes of a page's file say.

        Raises:
            PageError: it is no image that can be read.
        """
        return read_header(data)

    def why_left(self, size: tuple[int, int]) -> str | None:
        """Say why a page of this size is left as it is; None where it is to be done."""
        bounds = self._settings.skip_larger_than
        if bounds is None or not is_larger(size, bounds):
            return None
        return f"larger than {bounds}: {size[0]}x{size[1]} already"

    def set_target(self, page: PageInFlight) -> None:
        """Settle what size a page gets, and note what a person should know of it.

        Raises:
            PageError: it cannot have that size.
        """
        target = find_target(*page.size, self._settings.size)
        page.target, page.notes = target.size, target.notes
        # By a scale all pages grow alike, and the header of the run says how.
        if self._settings.scale is None:
            how = describe_growth(page.size, page.target, self._native_scale)
            page.notes += () if how is None else (how,)

    def pixels_in_flight(self, page: PageInFlight) -> int:
        """Return what a page takes of the budget: 0 where decoding will refuse it.

        Raises:
            PageError: its format cannot hold the output.
        """
        if page.input_pixels > self._settings.max_pixels:
            return 0
        check_target(*page.target, page.task.format)
        return max(page.target[0] * page.target[1], page.input_pixels)

    def decode(self, page: PageInFlight, data: bytes) -> Pixels:
        """Decode a page, and prepare it for the network, or shrink it where it need not grow.

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
            # A file that says only behind its pixels how they lie.
            page.size = (pixels.width, pixels.height)
            self.set_target(page)
        pixels = prepare(pixels)
        return pixels if grows(page.size, page.target) else shrink(pixels, page.target)

    def encode(self, page: PageInFlight) -> tuple[bytes, str]:
        """Encode a page that a network or `decode` has left at its target size, and check the file.

        Returns:
            The output, and its SHA-256 in hexadecimal.

        Raises:
            PageError: it cannot be encoded, or cannot be read back.
        """
        pixels, page.pixels = page.pixels, None
        assert pixels is not None
        pixels = finish(pixels)
        settings, format = self._settings, page.task.format
        page.notes = (*page.notes, *left_out(pixels, format, settings.format))
        data = encode(
            pixels,
            format=format,
            quality=lossy_quality(pixels, format, settings.format, settings.quality),
            png_level=settings.png_level,
            dpi=settings.size.dpi if isinstance(settings.size, Print) else None,
        )
        # Gone before the check decodes a second copy: a large page has over a gigabyte.
        del pixels
        check_encoded(data, page.target)
        return data, hashlib.sha256(data).hexdigest()
