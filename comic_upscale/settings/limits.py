"""Limits of a job: how volumes are read, which volumes are refused, and how many pages may fail."""

from __future__ import annotations

import re
from dataclasses import dataclass

from comic_upscale.errors import SettingsError

DEFAULT_MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs: a 256 MiB RGB image."""

DEFAULT_PDF_DPI = 150
"""At this resolution a page of 17 x 26 cm has about 1000 x 1540 pixels."""

DEFAULT_MAX_MEMBERS = 20_000
DEFAULT_MAX_UNPACKED = 16 << 30
DEFAULT_MAX_RATIO = 200.0


@dataclass(frozen=True, slots=True)
class VolumeRules:
    """How volumes are read, and which are refused as decompression bombs."""

    max_members: int = DEFAULT_MAX_MEMBERS
    """The most files in a volume."""
    max_unpacked: int = DEFAULT_MAX_UNPACKED
    """The most bytes of all files of a volume together, unpacked."""
    max_ratio: float = DEFAULT_MAX_RATIO
    """The highest ratio of unpacked bytes to the volume's size. Not checked below 64 MiB unpacked."""
    pdf_dpi: int = DEFAULT_PDF_DPI
    """Lowest resolution in dots per inch for PDF pages that are not images alone."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """The most pixels with which a PDF page is rendered."""


def parse_bytes(text: str, option: str) -> int:
    """Read ``"500M"``, ``"16G"`` or ``"1073741824"``; the letters are powers of 1024.

    Raises:
        SettingsError: the text is anything else.
    """
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise SettingsError(f"{option} takes a number of bytes, such as 500M or 16G, not {text!r}")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


def bytes_text(size: int) -> str:
    """Return a positive number of bytes as `parse_bytes` reads it, as short as it is exact: ``2G``, ``1536M``."""
    power = next(power for power in (4, 3, 2, 1, 0) if size % (1 << 10 * power) == 0)
    return f"{size >> 10 * power}{' KMGT'[power].strip()}"


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """The number of pages that may fail before a run stops: a count, or a share of the job's pages."""

    count: int | None = None
    share: float | None = None
    """0 to 1."""

    @classmethod
    def parse(cls, text: str) -> FailureLimit:
        """Read ``"25"`` or ``"5%"``.

        Raises:
            SettingsError: the text is anything else, a negative number, or more than 100 %.
        """
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if not 0 <= share <= 1:
                    raise ValueError
                return cls(share=share)
            count = int(text)
            if count < 0:
                raise ValueError
            return cls(count=count)
        except ValueError:
            raise SettingsError(
                f"--max-failures takes a number or a percentage, such as 25 or 5%, not {text!r}"
            ) from None

    @classmethod
    def read(cls, value: object) -> FailureLimit:
        """Read a count that JSON has as a number, such as ``25``.

        Raises:
            SettingsError: it is not a whole number, or is negative.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return cls.parse(str(value))
        raise SettingsError(f"--max-failures takes a number or a percentage, such as 25 or 5%, not {value!r}")

    def is_exceeded(self, failed: int, total: int) -> bool:
        """Return whether ``failed`` of ``total`` pages is more than allowed."""
        allowed = self.count if self.count is not None else (self.share or 0.0) * total
        return failed > allowed

    def __str__(self) -> str:
        if self.count is not None:
            return f"{self.count}"
        share = self.share or 0.0
        short = f"{share * 100:g}"
        return f"{short if float(short) / 100 == share else repr(share * 100)}%"
