"""The size that a page shall have, and the ways to it. Arithmetic alone: no pixels are touched."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.errors import PageError
from comic_upscale.settings.sizes import Bounds, Fit, Height, LongSide, Print, Scale, Size, Width

MAX_FACTOR = 16.0
"""A page that would have to grow more than this is refused: nothing of it would be left to see."""

_MM_PER_INCH = 25.4
_WORTH_TELLING_MM = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """What becomes of a page's size."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    notes: tuple[str, ...] = ()
    """What a person should know, a sentence each: what the printer will cut off, what stays blank."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


def target_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Return the size of a page after upscaling.

    Args:
        width: pixels, at least 1.
        height: pixels, at least 1.
        scale: the factor asked for, above 0.

    Returns:
        (width, height) in pixels: each side times ``scale``, rounded as ``round`` does (a half goes to
        the even neighbour), at least 1.
    """
    return max(1, round(width * scale)), max(1, round(height * scale))


def find_target(width: int, height: int, size: Size) -> Target:
    """Return what becomes of a page, by the size that is asked for.

    Args:
        width: of the page, pixels, at least 1.
        height: of the page, pixels, at least 1.
        size: what is asked for; but for a scale, each page has its own factor, also below 1.

    Raises:
        PageError: ``"too-small"``, where the page would have to grow more than ``MAX_FACTOR`` times.
    """
    if isinstance(size, Scale):
        return Target(*target_size(width, height, size.factor))
    target = _on_paper(width, height, size) if isinstance(size, Print) else _in_pixels(width, height, size)
    if (factor := factor_of((width, height), target.size)) > MAX_FACTOR:
        raise PageError(
            "too-small",
            f"The page has {width} x {height} pixels and would have to grow {factor:.1f} times for {size}; at "
            f"most {MAX_FACTOR:g} is done: ask for a smaller size, or find a larger source.",
        )
    return target


def factor_of(page: tuple[int, int], target: tuple[int, int]) -> float:
    """Return how many times larger a page becomes; of the two sides, the one that tells it more exactly."""
    side = 0 if page[0] >= page[1] else 1
    return target[side] / page[side]


def grows(page: tuple[int, int], target: tuple[int, int]) -> bool:
    """Tell whether a page becomes larger, so that there is work for a network."""
    return target[0] > page[0] or target[1] > page[1]


def is_larger(page: tuple[int, int], bounds: Bounds) -> bool:
    """Tell whether a page does not fit within bounds."""
    return page[0] > bounds.width or page[1] > bounds.height


def describe_growth(page: tuple[int, int], target: tuple[int, int], native_scale: int | None) -> str | None:
    """Say in words how a page comes to its size where the network alone does not bring it there.

    Args:
        page: (width, height) in pixels.
        target: (width, height) in pixels.
        native_scale: the network's own factor; None where the engine makes any size by itself.
    """
    if not grows(page, target):
        same = page == target
        return (
            "large enough: kept at its size" if same else "larger than asked: shrunk by Lanczos, no network"
        )
    factor = factor_of(page, target)
    if native_scale is None or factor <= native_scale:
        return None
    # Not a second pass of the network: that measures worse, see benchmarks/two_passes.py.
    return f"enlarged {factor:.2f} times: the network makes {native_scale}x, the rest is resampling"


def _in_pixels(width: int, height: int, size: Width | Height | LongSide | Fit) -> Target:
    if isinstance(size, Fit):
        return Target(*_within(width, height, size.width, size.height))
    if isinstance(size, LongSide):
        return Target(*_within(width, height, size.pixels, size.pixels))
    if isinstance(size, Width):
        return Target(size.pixels, _in_proportion(height, size.pixels, width))
    return Target(_in_proportion(width, size.pixels, height), size.pixels)


def _on_paper(width: int, height: int, paper: Print) -> Target:
    """The page on its sheet, or across two of them; see ``Print``."""
    across = width > height and paper.width_mm < paper.height_mm
    bleed = paper.bleed_mm or 0.0
    sheet_width = (2 * paper.width_mm if across else paper.width_mm) + 2 * bleed
    columns, rows = (_dots(side, paper.dpi) for side in (sheet_width, paper.height_mm + 2 * bleed))
    notes = ["a double page: across two sheets"] if across else []
    if paper.bleed_mm is None:
        target = _within(width, height, columns, rows)
    else:
        target = _covering(width, height, columns, rows)
    for have, need, side in ((target[0], columns, "width"), (target[1], rows, "height")):
        over = (have - need) / paper.dpi * _MM_PER_INCH
        if over > _WORTH_TELLING_MM:
            notes.append(f"{over:.1f} mm of its {side} is cut off: {over / 2:.1f} mm a side")
        elif over < -_WORTH_TELLING_MM:
            notes.append(f"{-over:.1f} mm short of the paper's {side}: {-over / 2:.1f} mm blank a side")
    return Target(*target, tuple(notes))


def _dots(millimetres: float, dpi: float) -> int:
    return max(1, round(millimetres / _MM_PER_INCH * dpi))


def _within(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """The largest size of that shape that is no wider and no higher; one side fills its bound."""
    if columns * height <= rows * width:
        return columns, _in_proportion(height, columns, width)
    return _in_proportion(width, rows, height), rows


def _covering(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """The smallest size of that shape that is no narrower and no lower; one side fills its bound."""
    if columns * height >= rows * width:
        return columns, _in_proportion(height, columns, width)
    return _in_proportion(width, rows, height), rows


def _in_proportion(length: int, numerator: int, denominator: int) -> int:
    """Return ``length * numerator / denominator`` rounded half up, exactly, at least 1."""
    return max(1, (2 * length * numerator + denominator) // (2 * denominator))
