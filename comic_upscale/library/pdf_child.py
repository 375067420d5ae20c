"""The child process that reads PDFs. PDFium parses untrusted files and has no limits on time or memory.

Where the system supports it, the process also limits itself, so it ends even if its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comic_upscale.errors import PageError
from comic_upscale.library.archives import damaged, encrypted, volume_errors
from comic_upscale.library.helper_process import read_message, write_message
from comic_upscale.library.pdf_images import ImageDictionaries
from comic_upscale.settings.job import VolumeRules

_OPEN_AT_ONCE = 4
_LATER = 10
"""Seconds after which the system ends a request that the parent should have ended before."""


def main() -> None:
    """Answer requests until there are none."""
    # Output that PDFium prints must not get into the answers.
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        documents = _Documents()
        while (message := read_message(requests)) is not None:
            words, data = _answer(documents, message[0])
            try:
                write_message(answers, words, data)
            except OSError:
                return


def _answer(documents: _Documents, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        with volume_errors("page" if request["do"] == "read" else "volume"):
            _limit_time(request["seconds"])
            _limit_memory(request["reading"])
            if request["do"] == "close":
                documents.close(request["path"])
                return {}, b""
            document = documents.get(request["path"], again=request["do"] == "open")
            if request["do"] == "open":
                return document.facts(), b""
            rules = VolumeRules(pdf_dpi=request["pdf_dpi"], max_pixels=request["max_pixels"])
            return {}, document.read(request["index"], rules, request["drawing"], request["per_pixel"])
    except PageError as error:
        return {"kind": error.kind, "reason": error.reason}, b""


class _Documents:
    """The open PDFs: the most recent ones, by path."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Document] = OrderedDict()

    def get(self, path: str, *, again: bool) -> _Document:
        """Open a PDF, unless it is open; ``again`` opens it in any case."""
        if again:
            self.close(path)
        if path not in self._open:
            self._open[path] = _Document(Path(path))
        self._open.move_to_end(path)
        while len(self._open) > _OPEN_AT_ONCE:
            self._open.popitem(last=False)[1].close()
        return self._open[path]

    def close(self, path: str) -> None:
        """Close a PDF that may be open."""
        document = self._open.pop(path, None)
        if document is not None:
            document.close()


class _Document:
    """An open PDF."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pdf = _open(path)
        self._dictionaries: ImageDictionaries | None = None
        self._has_looked = False

    def facts(self) -> dict[str, Any]:
        """Return the number of pages and of attached files, and the reading direction."""
        from pypdfium2 import raw

        return {
            "pages": len(self._pdf), "attached": raw.FPDFDoc_GetAttachmentCount(self._pdf),
            "right_to_left": self._preference(b"Direction") == b"R2L",
        }  # fmt: skip

    def read(self, index: int, rules: VolumeRules, memory: int, per_pixel: int) -> bytes:
        """Return a page as an image file.

        Args:
            index: of the page.
            rules: how it is rendered.
            memory: the most bytes for rendering, in addition to those for its pixels.
            per_pixel: bytes for each pixel.
        """
        from pypdfium2 import PdfiumError

        from comic_upscale.library.pdf_page import PdfPage

        try:
            page = PdfPage(self._pdf, index, self._images, rules)
        except PdfiumError as error:
            raise damaged("page", error) from None
        try:
            return page.content(lambda pixels: _limit_memory(memory + per_pixel * pixels))
        finally:
            page.close()

    def close(self) -> None:
        """Close the file."""
        if self._dictionaries is not None:
            self._dictionaries.close()
        self._pdf.close()

    def _images(self) -> ImageDictionaries | None:
        from pypdfium2 import raw

        if not self._has_looked:
            self._has_looked = True
            with contextlib.suppress(OSError, ValueError):
                is_encrypted = raw.FPDF_GetSecurityHandlerRevision(self._pdf) != -1
                self._dictionaries = ImageDictionaries(self._path, is_encrypted=is_encrypted)
        return self._dictionaries

    def _preference(self, name: bytes) -> bytes:
        from pypdfium2 import raw

        buffer = ctypes.create_string_buffer(16)
        raw.FPDF_VIEWERREF_GetName(self._pdf, name, buffer, len(buffer))
        return buffer.value


def _open(path: Path) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise PageError(
            "library", "PDF is read by pypdfium2, which is missing: pip install pypdfium2"
        ) from None
    with path.open("rb"):
        # This raises the system's own error if the file is missing or not readable.
        pass
    try:
        document = pypdfium2.PdfDocument(path)
        # Before any page is loaded: otherwise the fields of a form are not drawn.
        with contextlib.suppress(pypdfium2.PdfiumError):
            document.init_forms()
        return document
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise encrypted() from None
        raise damaged("volume", error) from None


def _limit_time(seconds: float) -> None:
    """Have the system end this process after more processor time than a request may take."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime + seconds + _LATER)
    _set_limit(resource, resource.RLIMIT_CPU, until)
    _set_limit(resource, resource.RLIMIT_CORE, 0)


def _limit_memory(size: int) -> None:
    """Have the system refuse this process more memory than it has now and ``size`` bytes."""
    try:
        import resource

        # On other systems the limit has no effect or includes memory that is only reserved. The parent checks there.
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (ImportError, OSError, ValueError):
        return
    _set_limit(resource, resource.RLIMIT_AS, pages * resource.getpagesize() + size)


def _set_limit(resource: Any, kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))
