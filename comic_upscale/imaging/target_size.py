"""Calculate the size of an output page. This is arithmetic only; no pixels are changed."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.errors import PageError
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.screens import Screen
from comic_upscale.settings.sizes import Bounds, Fit, Height, LongSide, Print, Scale, Size, Width

MAX_FACTOR = 16.0
"""The largest factor. A page that needs more is refused, because its content would be unrecognisable."""

RESTORES = 1
"""The own factor of a network that cleans pages and does not enlarge them."""
LANDSCAPE = 1.1
"""A page that is this many times as wide as high, or more, is a landscape page."""
WIDEST_SPREAD = 2.4
"""A wider page is no double page: its halves would be landscape pages themselves, as those of a banner."""
STRIP = 2.5
"""A page that is this many times as high as wide, or more, is a strip of a webtoon."""

_MM_PER_INCH = 25.4
_WORTH_TELLING_MM = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """The result for a page's size."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each: how much the printer cuts off or leaves blank."""

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
    """Return the target of a page for the requested size.

    Args:
        width: of the page, pixels, at least 1.
        height: of the page, pixels, at least 1.
        size: the requested size. Except with a scale, each page has its own factor, which may be below 1.

    Raises:
        PageError: ``"too-small"``: the page would have to grow more than ``MAX_FACTOR`` times.
    """
    if isinstance(size, Scale):
        return Target(*target_size(width, height, size.factor))
    if isinstance(size, Print):
        target = _target_on_paper(width, height, size)
    elif isinstance(size, Screen):
        target = _target_on_screen(width, height, size)
    else:
        target = _target_in_pixels(width, height, size)
    if (factor := factor_of((width, height), target.size)) > MAX_FACTOR:
        raise PageError(
            "too-small",
            f"The page has {width} x {height} pixels and would have to grow {factor:.1f} times for {size}, more "
            f"than the limit of {MAX_FACTOR:g}: choose a smaller size, or find a larger source",
        )
    return target


def is_landscape(width: int, height: int) -> bool:
    """Return whether a page is clearly wider than high."""
    return width >= LANDSCAPE * height


def is_spread(width: int, height: int) -> bool:
    """Return whether a page has the shape of two pages side by side."""
    return is_landscape(width, height) and width <= WIDEST_SPREAD * height


def is_strip(width: int, height: int, screen: Screen) -> bool:
    """Return whether a page is a strip, which is read from top to bottom and has no height of its own."""
    return height >= max(STRIP * width, 1.25 * width * screen.height / screen.width)


def turns(width: int, height: int, size: Size) -> bool:
    """Return whether a page of this size is rotated by a quarter before it is upscaled."""
    return isinstance(size, Screen) and size.spreads == "rotate" and is_landscape(width, height)


def turned(page: tuple[int, int], size: Size) -> tuple[int, int]:
    """Return the (width, height) of a page once it is rotated, if it is rotated at all."""
    return page[::-1] if turns(*page, size) else page


def factor_of(page: tuple[int, int], target: tuple[int, int]) -> float:
    """Return the factor by which a page grows, from the side that gives it more exactly."""
    side = 0 if page[0] >= page[1] else 1
    return target[side] / page[side]


def grows(page: tuple[int, int], target: tuple[int, int]) -> bool:
    """Return whether a page becomes larger."""
    return target[0] > page[0] or target[1] > page[1]


def needs_network(page: tuple[int, int], target: tuple[int, int], native_scale: int | None) -> bool:
    """Return whether a page goes through the network: it becomes larger, or the network restores pages of any size.

    Args:
        page: (width, height) in pixels.
        target: (width, height) in pixels.
        native_scale: the network's own factor; None if the engine makes any size.
    """
    return native_scale == RESTORES or grows(page, target)


def is_larger(page: tuple[int, int], bounds: Bounds) -> bool:
    """Return whether a page is larger than bounds."""
    return page[0] > bounds.width or page[1] > bounds.height


def skip_reason(page: tuple[int, int], settings: ProcessingSettings) -> str | None:
    """Return why the settings skip a page of this size; None if they do not.

    Runs, plans, previews and the search for duplicates all ask this function.

    Args:
        page: (width, height) in pixels.
        settings: of the job.
    """
    bounds = settings.skip_larger_than
    if bounds is None or not is_larger(page, bounds):
        return None
    return f"already larger than {bounds}: {page[0]}x{page[1]}"


def describe_growth(page: tuple[int, int], target: tuple[int, int], native_scale: int | None) -> str | None:
    """Describe how a page gets its size, unless the network alone makes it.

    Args:
        page: (width, height) in pixels.
        target: (width, height) in pixels.
        native_scale: the network's own factor; None if the engine makes any size.
    """
    if native_scale == RESTORES:
        how = "enlarged" if grows(page, target) else "shrunk"
        return None if page == target else f"restored by the network, then {how} by Lanczos"
    if not grows(page, target):
        same = page == target
        return (
            "large enough: kept at its size" if same else "larger than asked: shrunk by Lanczos, no network"
        )
    factor = factor_of(page, target)
    if native_scale is None or factor <= native_scale:
        return None
    # A second pass of the network measures worse: see benchmarks/two_passes.py.
    return f"enlarged {factor:.2f} times: the network makes {native_scale}x, the rest is resampling"


def _target_in_pixels(width: int, height: int, size: Width | Height | LongSide | Fit) -> Target:
    if isinstance(size, Fit):
        return Target(*_fit_within(width, height, size.width, size.height))
    if isinstance(size, LongSide):
        return Target(*_fit_within(width, height, size.pixels, size.pixels))
    if isinstance(size, Width):
        return Target(size.pixels, _scale_length(height, size.pixels, width))
    return Target(_scale_length(width, size.pixels, height), size.pixels)


def _target_on_screen(width: int, height: int, screen: Screen) -> Target:
    """Place the page on a screen. A strip gets the width of the screen, and a double page to be split gets twice it."""
    if is_strip(width, height, screen):
        return Target(screen.width, _scale_length(height, screen.width, width), ("a strip",))
    if turns(width, height, screen):
        return Target(*_fit_within(height, width, screen.width, screen.height), ("rotated",))
    if screen.cuts_spreads and is_spread(width, height):
        return Target(
            *_fit_within(width, height, 2 * screen.width, screen.height),
            ("a double page: its halves fit the screen",),
        )
    return Target(*_fit_within(width, height, screen.width, screen.height))


def _target_on_paper(width: int, height: int, paper: Print) -> Target:
    """Place the page on its sheet, or across two sheets; see ``Print``."""
    across = width > height and paper.width_mm < paper.height_mm
    bleed = paper.bleed_mm or 0.0
    sheet_width = (2 * paper.width_mm if across else paper.width_mm) + 2 * bleed
    columns, rows = (_to_dots(side, paper.dpi) for side in (sheet_width, paper.height_mm + 2 * bleed))
    notes = ["a double page: across two sheets"] if across else []
    if paper.bleed_mm is None:
        target = _fit_within(width, height, columns, rows)
    else:
        target = _cover(width, height, columns, rows)
    for have, need, side in ((target[0], columns, "width"), (target[1], rows, "height")):
        over = (have - need) / paper.dpi * _MM_PER_INCH
        if over > _WORTH_TELLING_MM:
            notes.append(f"{over:.1f} mm of its {side} is cut off: {over / 2:.1f} mm a side")
        elif over < -_WORTH_TELLING_MM:
            notes.append(f"{-over:.1f} mm short of the paper's {side}: {-over / 2:.1f} mm blank a side")
    return Target(*target, tuple(notes))


def _to_dots(millimetres: float, dpi: float) -> int:
    return max(1, round(millimetres / _MM_PER_INCH * dpi))


def _fit_within(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Return the largest size of that shape within the bounds; one side fills its bound."""
    if columns * height <= rows * width:
        return columns, _scale_length(height, columns, width)
    return _scale_length(width, rows, height), rows


def _cover(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Return the smallest size of that shape that covers the bounds; one side fills its bound."""
    if columns * height >= rows * width:
        return columns, _scale_length(height, columns, width)
    return _scale_length(width, rows, height), rows


def _scale_length(length: int, numerator: int, denominator: int) -> int:
    """Return ``length * numerator / denominator`` rounded half up, exactly, at least 1."""
    return max(1, (2 * length * numerator + denominator) // (2 * denominator))
