"""The requested size of pages: a factor, pixels or a sheet of paper.

A size is checked when it is created. ``imaging/target_size.py`` computes the pixels of a page from it. As text a size
is ``"scale 2.5"``, ``"width 2000"``, ``"height 3000"``, ``"long side 2400"``, ``"fit 1600x2400"`` or
``"print 170x260 mm at 300 dpi, bleed 3 mm"``, or that of a `Screen`; `size_text` writes this text and `parse_size`
reads it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

from comic_upscale.errors import SettingsError
from comic_upscale.settings.screens import Screen, Spreads, find_device

MIN_SCALE, MAX_SCALE, DEFAULT_SCALE = 1.0, 8.0, 2.5
LONGEST_SIDE = 100_000
"""Pixels. A larger number is a typing error."""
DEFAULT_DPI = 300.0

_UNITS = {"mm": 1.0, "cm": 10.0, "in": 25.4}
_NUMBER = r"(\d+(?:\.\d+)?)"
_PIXELS = re.compile(r"(\d+)\s*[xX\u00d7]\s*(\d+)")
_PAPER = re.compile(rf"{_NUMBER}\s*[xX\u00d7]\s*{_NUMBER}\s*(mm|cm|in)")
_LENGTH = re.compile(rf"{_NUMBER}\s*(mm|cm|in)")
_EXACT = r"([0-9.e+-]+)"
_PRINT_TEXT = re.compile(rf"print {_EXACT}x{_EXACT} mm at {_EXACT} dpi(?:, bleed {_EXACT} mm)?")


@dataclass(frozen=True, slots=True)
class Scale:
    """Every page is enlarged by this factor."""

    factor: float
    """1 to 8. At 1, a network that enlarges is not used; a network of 1x restores the page at its size."""

    def __post_init__(self) -> None:
        """Check the factor."""
        _store_float(self, "factor", "--scale")
        _require(
            math.isfinite(self.factor) and MIN_SCALE <= self.factor <= MAX_SCALE,
            f"--scale must be at least {MIN_SCALE:g} and at most {MAX_SCALE:g}, not {self.factor:g}",
        )

    def __str__(self) -> str:
        return f"scale {self.factor:g}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"x{self.factor:g}"


@dataclass(frozen=True, slots=True)
class Width:
    """Every page gets this width."""

    pixels: int

    def __post_init__(self) -> None:
        """Check the number."""
        _check_pixels("--width", self.pixels)

    def __str__(self) -> str:
        return f"width {self.pixels}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"w{self.pixels}"


@dataclass(frozen=True, slots=True)
class Height:
    """Every page gets this height."""

    pixels: int

    def __post_init__(self) -> None:
        """Check the number."""
        _check_pixels("--height", self.pixels)

    def __str__(self) -> str:
        return f"height {self.pixels}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"h{self.pixels}"


@dataclass(frozen=True, slots=True)
class LongSide:
    """The longer side of every page gets this length."""

    pixels: int

    def __post_init__(self) -> None:
        """Check the number."""
        _check_pixels("--long-side", self.pixels)

    def __str__(self) -> str:
        return f"long side {self.pixels}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"long{self.pixels}"


@dataclass(frozen=True, slots=True)
class Fit:
    """Every page becomes as large as fits within these pixels. It keeps its proportions."""

    width: int
    height: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_pixels("--fit", self.width)
        _check_pixels("--fit", self.height)

    def __str__(self) -> str:
        return f"fit {self.width}x{self.height}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"fit{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Print:
    """Every page gets the size of a sheet of paper at this resolution. It keeps its proportions.

    With a bleed, the page covers the sheet and the bleed around it, and the printer cuts off the rest. Without a
    bleed, the whole page fits on the sheet, and the rest of the sheet stays blank.
    """

    width_mm: float
    """Width of the trimmed sheet."""
    height_mm: float
    """Height of the trimmed sheet."""
    dpi: float = DEFAULT_DPI
    """Dots per inch."""
    bleed_mm: float | None = None
    """Margin printed beyond the sheet on each side. 0: the page covers exactly the sheet. None: it fits inside."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        _store_float(self, "width_mm", "--print")
        _store_float(self, "height_mm", "--print")
        _store_float(self, "dpi", "--dpi")
        if self.bleed_mm is not None:
            _store_float(self, "bleed_mm", "--bleed")
        for side in (self.width_mm, self.height_mm):
            _require(5 <= side <= 5000, f"--print takes a sheet with sides of 5 to 5000 mm, not {side:g} mm")
        _require(30 <= self.dpi <= 2400, f"--dpi must be between 30 and 2400, not {self.dpi:g}")
        _require(
            self.bleed_mm is None or 0 <= self.bleed_mm <= min(self.width_mm, self.height_mm) / 2,
            "--bleed must be at least 0 and at most half of the sheet's shorter side",
        )

    def __str__(self) -> str:
        bleed = "" if self.bleed_mm is None else f", bleed {self.bleed_mm:g} mm"
        return f"print {self.width_mm:g}x{self.height_mm:g} mm at {self.dpi:g} dpi{bleed}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return f"print{self.width_mm:g}x{self.height_mm:g}mm-{self.dpi:g}dpi"


Size: TypeAlias = Scale | Width | Height | LongSide | Fit | Print | Screen


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest size, in pixels, of a page that is not skipped."""

    width: int
    height: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_pixels("--skip-larger-than", self.width)
        _check_pixels("--skip-larger-than", self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read ``"2000x3000"``, or ``"3000"`` for the longer side.

        Raises:
            SettingsError: the text is neither.
        """
        if text.strip().isascii() and text.strip().isdigit():
            return cls(int(text), int(text))
        return cls(*_parse_pixels("--skip-larger-than", text, "such as 2000x3000, or 3000 for the long side"))

    @classmethod
    def read(cls, value: object) -> Bounds:
        """Read a longer side that JSON has as a number, such as ``3000``.

        Raises:
            SettingsError: it is not a whole number of pixels.
        """
        _require(
            isinstance(value, int) and not isinstance(value, bool),
            f"--skip-larger-than takes a size such as 2000x3000, or 3000 for the long side, not {value!r}",
        )
        return cls.parse(str(value))


def choose_size(
    *,
    scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    long_side: int | None = None,
    fit: str | None = None,
    paper: str | None = None,
    dpi: float | None = None,
    bleed: str | None = None,
    fit_device: str | None = None,
    spreads: Spreads | None = None,
) -> Size:
    """Return the requested size; scale 2.5 if none is given.

    Args:
        scale: output size divided by input size.
        width: pixels.
        height: pixels.
        long_side: pixels.
        fit: ``"1600x2400"``, pixels.
        paper: ``"170x260mm"`` or ``"6.69x10.24in"``.
        dpi: dots per inch, only with ``paper``; None for 300.
        bleed: ``"3mm"``, only with ``paper``.
        fit_device: the name of an e-reader.
        spreads: what becomes of landscape pages, only with ``fit_device``; None to keep them whole.

    Raises:
        SettingsError: two sizes are given, or a value is impossible.
    """
    given_sizes = {
        "--scale": scale, "--width": width, "--height": height, "--long-side": long_side, "--fit": fit,
        "--print": paper, "--fit-device": fit_device,
    }  # fmt: skip
    named = [name for name, value in given_sizes.items() if value is not None]
    if len(named) > 1:
        hint = " (--fit WxH stays within both)" if named == ["--width", "--height"] else ""
        raise SettingsError(f"{' and '.join(named)} exclude each other: give one of them{hint}")
    if paper is None:
        for name, given in (("--dpi", dpi), ("--bleed", bleed)):
            _require(
                given is None,
                f"{name} needs --print: add --print, such as --print 170x260mm, or leave {name} out",
            )
    _require(
        spreads is None or fit_device is not None,
        "--spreads needs --fit-device: add --fit-device, such as --fit-device kobo-libra-2, or leave --spreads out",
    )
    if fit_device is not None:
        return replace(find_device(fit_device).screen, spreads=spreads or "keep")
    if width is not None:
        return Width(width)
    if height is not None:
        return Height(height)
    if long_side is not None:
        return LongSide(long_side)
    if fit is not None:
        return Fit(*_parse_pixels("--fit", fit, "such as 1600x2400"))
    if paper is not None:
        return _parse_paper(paper, DEFAULT_DPI if dpi is None else dpi, bleed)
    return Scale(DEFAULT_SCALE if scale is None else scale)


def as_float(value: object) -> float | None:
    """Return a number as a float, so that 1 and 1.0 are one value of an option, as are 0.0 and -0.0.

    Returns:
        None if it is no number, or a whole number beyond the range of a float.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) + 0.0
    except OverflowError:
        return None


def number_text(number: float) -> str:
    """Return a number as text: short where that loses nothing, otherwise exact."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def size_text(size: Size) -> str:
    """Return a size as text from which `parse_size` reads exactly the same size. Mostly it equals ``str(size)``."""
    match size:
        case Scale():
            return f"scale {number_text(size.factor)}"
        case Print():
            bleed = "" if size.bleed_mm is None else f", bleed {number_text(size.bleed_mm)} mm"
            sheet = f"{number_text(size.width_mm)}x{number_text(size.height_mm)}"
            return f"print {sheet} mm at {number_text(size.dpi)} dpi{bleed}"
    return str(size)


def parse_size(text: str) -> Size:
    """Read the text of a size.

    Raises:
        SettingsError: the text is not a size.
    """
    name, _, rest = text.strip().rpartition(" ")
    if (screen := Screen.parse(text)) is not None:
        return screen
    try:
        if (match := _PRINT_TEXT.fullmatch(text.strip())) is not None:
            width, height, dpi, bleed = match.groups()
            return Print(float(width), float(height), float(dpi), None if bleed is None else float(bleed))
        match name:
            case "scale":
                return Scale(float(rest))
            case "width":
                return Width(int(rest))
            case "height":
                return Height(int(rest))
            case "long side":
                return LongSide(int(rest))
            case "fit":
                return Fit(*_parse_pixels("--fit", rest, "such as 1600x2400"))
    except ValueError:
        pass
    raise SettingsError(
        "--size must be text such as 'scale 2.5', 'width 2000', 'fit 1600x2400' or 'print 170x260 mm at 300 dpi', "
        f"not {text!r}"
    )


def _parse_pixels(name: str, text: str, such_as: str) -> tuple[int, int]:
    match = _PIXELS.fullmatch(text.strip())
    if match is None:
        raise SettingsError(f"{name} takes a size in pixels {such_as}, not {text!r}")
    return int(match[1]), int(match[2])


def _parse_paper(text: str, dpi: float, bleed: str | None) -> Print:
    match = _PAPER.fullmatch(text.strip().lower())
    if match is None:
        raise SettingsError(f"--print takes a sheet such as 170x260mm or 6.69x10.24in, not {text!r}")
    unit = _UNITS[match[3]]
    return Print(
        float(match[1]) * unit, float(match[2]) * unit, dpi, None if bleed is None else _length(bleed)
    )


def _length(text: str) -> float:
    match = _LENGTH.fullmatch(text.strip().lower())
    if match is None:
        raise SettingsError(f"--bleed takes a length such as 3mm or 0.125in, not {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def _check_pixels(name: str, pixels: int) -> None:
    _require(type(pixels) is int, f"{name} must be a whole number of pixels, not {pixels!r}")
    _require(1 <= pixels <= LONGEST_SIDE, f"{name} must be between 1 and {LONGEST_SIDE} pixels, not {pixels}")


def _store_float(size: Scale | Print, name: str, flag: str) -> None:
    """Store a number of a size as a float.

    Raises:
        SettingsError: it is not a number.
    """
    value = getattr(size, name)
    number = as_float(value)
    if number is None:
        raise SettingsError(f"{flag} must be a number, not {value!r}")
    object.__setattr__(size, name, number)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)
