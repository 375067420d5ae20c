"""The pages that patches are cut from: drawn ones, and shared ones whose licence allows it."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]
"""uint8 RGB, height x width x 3."""

_FREE = ("CC BY ", "CC0", "Public domain")
_VALIDATION = "CC BY-SA"
_DRAWN_SIZE = (640, 960)
_READING_X_HEIGHT = (8.0, 20.0)
"""Of a small x on a page that can be read aloud, in pixels of the truth: small print once it is shrunk."""
_HELD = 0.45
"""Cycles a pixel that a source holds: nearer to a half, the dots of a tone are lost in it, or beat with its pixels."""
_AIR = 24
"""Pixels of the page that are kept around lettering: the balloon and something of what lies behind it."""
_LETTERED = "lettering-"
"""What the names of pages begin with that are drawn for their lettering."""
_BOXES = "lettering"
"""The text of a PNG that holds where its lettering stands."""
_SIDES = (1800, 1200, 800)
"""Long sides that a shared page is shrunk to: the same hand at several line weights."""
_SMALLEST_SHRINK = {".jpg": 1.8, ".jpeg": 1.8, ".gif": 1.0, ".png": 1.0, ".webp": 1.0}
"""A JPEG is ground truth only once its artefacts are shrunk away."""


def draw_pages(folder: Path, count: int, *, seed: int, processes: int) -> list[Path]:
    """Draw what is missing of ``count`` pages into the folder, as PNG; return the paths of all.

    Page ``i`` has seed ``seed + i``: the same pages on every machine with the same fonts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed + number:06d}.png" for number in range(count)]
    _draw_missing(_draw, paths, processes)
    return paths


def drawn_pages(folder: Path) -> list[Path]:
    """Return the pages in a folder that `draw_pages` drew, by name."""
    return sorted(folder.glob("[0-9]*.png"))


def lettered_pages(folder: Path) -> list[Path]:
    """Return the pages in a folder that `draw_lettering` drew, by name."""
    return sorted(folder.glob(f"{_LETTERED}*.png"))


def draw_even(folder: Path, factors: Iterable[float], *, processes: int) -> None:
    """Draw all pages of a folder again, with even tones where a source would not hold the dots.

    Args:
        folder: of pages that `draw_pages` and `draw_lettering` drew. Those with even tones come into folders in it, one
            for each factor, under the same names.
        factors: by which truths are shrunk.
        processes: that draw.
    """
    for factor in factors:
        within, finest = even_folder(folder, factor), _HELD / factor
        within.mkdir(exist_ok=True)
        for draw, paths in ((_draw, drawn_pages(folder)), (_draw_lettered, lettered_pages(folder))):
            missing = [within / path.name for path in paths]
            _draw_missing(partial(draw, finest=finest), missing, processes)


def even_folder(folder: Path, factor: float) -> Path:
    """Return where the pages with even tones are, for truths that are shrunk by the factor."""
    return folder / f"even-{factor:g}"


def _draw_missing(draw: Callable[[Path], None], paths: Sequence[Path], processes: int) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        # Not forked: torch's threads may be running in this process.
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for done, _ in enumerate(pool.imap_unordered(draw, missing, chunksize=4), start=1):
                if done % 50 == 0 or done == len(missing):
                    print(f"drew {done} of {len(missing)} pages", flush=True)


def _draw(path: Path, *, finest: float = math.inf) -> None:
    from training.pages import draw_page

    page = draw_page(int(path.stem), width=_DRAWN_SIZE[0], height=_DRAWN_SIZE[1], finest=finest)
    partial_path = path.with_suffix(".partial")
    Image.fromarray(page.pixels).save(partial_path, "PNG", compress_level=1)
    partial_path.replace(path)


def draw_lettering(folder: Path, count: int, *, seed: int, processes: int) -> list[Path]:
    """Draw what is missing of ``count`` pages full of lettering into the folder, as PNG; return the paths of all.

    Every other page is one that could be read aloud, in plain English and small print; the others have
    letters of every kind. Each file holds where its lettering stands, for `read_lettering`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{_LETTERED}{seed + number:06d}.png" for number in range(count)]
    _draw_missing(_draw_lettered, paths, processes)
    return paths


def read_lettering(paths: Iterable[Path], *, smallest_side: int) -> list[Pixels]:
    """Read what lies around the lettering of pages that `draw_lettering` drew, each block by itself.

    Args:
        paths: of the pages.
        smallest_side: pixels that each side of what is returned has at least.
    """
    found = []
    for path in paths:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
            boxes = json.loads(opened.info[_BOXES])
        found += [_around(pixels, box, smallest_side) for box in boxes]
    return found


def _around(pixels: Pixels, box: Sequence[int], smallest_side: int) -> Pixels:
    spans = []
    for low, high, length in zip(box[1::-1], box[:1:-1], pixels.shape, strict=False):
        side = max(high - low + 2 * _AIR, smallest_side)
        first = min(max(0, (low + high - side) // 2), max(0, length - side))
        spans.append(slice(first, first + side))
    return np.ascontiguousarray(pixels[spans[0], spans[1]])


def _draw_lettered(path: Path, *, finest: float = math.inf) -> None:
    from training.pages import draw_lettered_page, draw_page

    seed = int(path.stem.removeprefix(_LETTERED))
    width, height = _DRAWN_SIZE
    low, high = _READING_X_HEIGHT
    page = (
        draw_page(seed, width=width, height=height, finest=finest)
        if seed % 2
        else draw_lettered_page(
            seed, width=width, height=height, x_height=(low / height, high / height), finest=finest
        )
    )
    texts = PngInfo()
    texts.add_text(_BOXES, json.dumps([block.box for block in page.lettering]))
    partial_path = path.with_suffix(".partial")
    Image.fromarray(page.pixels).save(partial_path, "PNG", compress_level=1, pnginfo=texts)
    partial_path.replace(path)


def read_pages(paths: Iterable[Path]) -> list[Pixels]:
    """Read pages as RGB, transparency on white."""
    return [np.asarray(_on_white(path)) for path in paths]


def shared_pages(folder: Path, *, smallest_side: int) -> list[tuple[str, Pixels]]:
    """Return the shared pages that are free to train on (CC0, public domain, CC BY), each at several sizes.

    Args:
        folder: holds ``dev.json`` and ``dev/``.
        smallest_side: pixels that each side must keep.

    Returns:
        File name and pixels; never a page of the validation set, whose licence is CC BY-SA.
    """
    found = []
    for entry in json.loads((folder / "dev.json").read_text("utf-8")):
        licence = entry["licence"]
        if licence.startswith(_VALIDATION) or not licence.startswith(_FREE):
            continue
        path = folder / "dev" / entry["file"]
        page = _on_white(path)
        found += [
            (path.name, sized) for sized in _sizes(page, _SMALLEST_SHRINK[path.suffix.lower()], smallest_side)
        ]
    return found


def _sizes(page: Image.Image, smallest_shrink: float, smallest_side: int) -> Iterable[Pixels]:
    longest = max(page.size)
    largest = longest / smallest_shrink
    sides = {min(largest, side) for side in _SIDES}
    for side in sorted(sides, reverse=True):
        width, height = (round(length * side / longest) for length in page.size)
        if min(width, height) >= smallest_side:
            resized = page if side == longest else page.resize((width, height), Image.Resampling.BICUBIC)
            yield np.asarray(resized)


def _on_white(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        page = opened.convert("RGBA") if opened.mode in ("P", "LA", "PA", "RGBA") else opened.convert("RGB")
    if page.mode == "RGBA":
        page = Image.alpha_composite(Image.new("RGBA", page.size, "white"), page).convert("RGB")
    return page


def validation_paths(folder: Path) -> Sequence[Path]:
    """Return the shared pages that are never trained on: those under CC BY-SA."""
    entries = json.loads((folder / "dev.json").read_text("utf-8"))
    return [folder / "dev" / entry["file"] for entry in entries if entry["licence"].startswith(_VALIDATION)]
