"""Read the pages of a PDF: the unchanged image if a page is one, otherwise the rendered page.

PDFium runs in a child process with limits on time and memory, because a PDF of two kilobytes can need any
amount of both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comic_upscale.errors import PageError
from comic_upscale.library.archives import Entry, Tally, closing_on_error, volume_errors
from comic_upscale.library.helper_process import Helper, HelperLostError, Limits
from comic_upscale.settings.job import VolumeRules

SECONDS = 120.0
"""Seconds of processor time for a page."""
_WALL_SECONDS = 1200.0
_READING_MEMORY = 1 << 30
"""Bytes of memory for inspecting a page."""
_DRAWING_MEMORY = 1 << 30
"""Bytes of memory for rendering a page, in addition to its pixels and the images on it."""
_BYTES_PER_PIXEL = 24
_MOST_OVER_LIMITS = 3
"""When this many pages of a PDF exceeded the limits, its other pages are not tried."""

HELPER = Helper("comic_upscale.library.pdf_child")


class PdfContainer:
    """A PDF whose members are its pages.

    A page that is only one JPEG is returned as that file, byte for byte, with an EXIF orientation if the PDF rotates
    it. Invisible text over it, which scanners add for searching, does not count. Any other page is rendered: a page
    that is one image at the size of that image, a page with images at the resolution of the finest one, but at least
    at ``rules.pdf_dpi``, and a page without images at ``rules.pdf_dpi``.

    Args:
        path: a file on this machine.
        rules: the limits.
        held: closed with the container, even if an error is raised here.

    Raises:
        PageError: it cannot be opened.
    """

    in_order = True
    comment = b""
    notes: Sequence[str]
    """What was left out."""
    right_to_left: bool
    """Whether the PDF is read from right to left."""

    def __init__(self, path: Path, rules: VolumeRules, held: contextlib.ExitStack | None = None) -> None:
        self._path, self._rules = path, rules
        self._held = held or contextlib.ExitStack()
        self._over_limits = 0
        with closing_on_error(self._held):
            facts = self._ask("volume", do="open")[0]
        self._count = int(facts["pages"])
        self.right_to_left = bool(facts["right_to_left"])
        attached = int(facts["attached"])
        self.notes = (f"{attached} file(s) attached to the PDF were left out",) if attached > 0 else ()

    def entries(self) -> list[Entry]:
        """Return an entry for each page, such as ``0001.png``. The real format is known only when a page is read."""
        with volume_errors():
            tally = Tally(self._path.stat().st_size, self._rules)
        for _ in range(self._count):
            tally.add(0)
        digits = max(4, len(str(self._count)))
        return [Entry(f"{number:0{digits}d}.png", 0) for number in range(1, self._count + 1)]

    def read(self, index: int) -> bytes:
        """Return a page as a JPEG, or rendered as a PPM or PGM."""
        rules = self._rules
        if self._over_limits >= _MOST_OVER_LIMITS:
            raise PageError(
                "bomb",
                f"{self._over_limits} pages of this PDF exceeded the limits, so its other pages are not tried",
            )
        return self._ask(
            "page", do="read", index=index, pdf_dpi=rules.pdf_dpi, max_pixels=rules.max_pixels
        )[1]  # fmt: skip

    def salvage(self, index: int) -> bytes:
        """Return the same as `read`, because a PDF has no checksums."""
        return self.read(index)

    def close(self) -> None:
        """Close the file."""
        if HELPER.runs:
            with contextlib.suppress(PageError):
                self._ask("volume", do="close")
        self._held.close()

    def _ask(self, what: str, **request: Any) -> tuple[dict[str, Any], bytes]:
        # The child also limits itself to what the page needs, if the system supports that.
        most = max(_READING_MEMORY, _DRAWING_MEMORY) + 2 * _BYTES_PER_PIXEL * self._rules.max_pixels
        limits = {
            "seconds": SECONDS, "reading": _READING_MEMORY, "drawing": _DRAWING_MEMORY,
            "per_pixel": _BYTES_PER_PIXEL,
        }  # fmt: skip
        path = os.path.abspath(self._path)  # noqa: PTH100 - keeps links
        try:
            words, data = HELPER.ask(
                {**request, **limits, "path": path}, Limits(SECONDS, _WALL_SECONDS, most)
            )
        except HelperLostError as error:
            self._over_limits += 1
            raise PageError(
                "bomb",
                f"The {what} needs more memory or time than is allowed, or crashes PDFium (which {error.reason}). "
                "Convert it to images with another program",
            ) from None
        except OSError as error:
            raise PageError(
                "unreadable",
                f"The {what} cannot be read, because the process for PDFium does not start ({error.strerror})",
            ) from None
        if "kind" in words:
            if words["kind"] == "out-of-memory":
                self._over_limits += 1
            raise PageError(str(words["kind"]), str(words["reason"]))
        return words, data
