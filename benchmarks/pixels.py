"""Measure what becomes of gray, of white paper, of solid black, of tone and of white lines on transparency.

    python benchmarks/pixels.py PAGES... [--model NAME] [--scale 2.5] [--json FILE] [--sheet FILE]

Each page goes through the whole of the pixels, from file to file; what the network gave is measured before it is
finished and after, so that what finishing does can be seen. White lines on transparency are drawn here.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import facts, write_report
from comic_upscale.errors import PageError
from comic_upscale.pages.decode import decode
from comic_upscale.pages.encode import encode
from comic_upscale.pages.gray import colourfulness, eight_bits
from comic_upscale.pages.page import Pixels
from comic_upscale.pages.solid import restore_solid, solid_map
from comic_upscale.upscaling.engine import Engine
from comic_upscale.upscaling.pages import finish, prepare, upscale_pages

MOST_PIXELS = 1 << 27


def main() -> None:
    """Measure every page, print a line for each, and write the report."""
    parser = argparse.ArgumentParser(description="Measure gray, white, black, tone and transparency.")
    parser.add_argument("pages", nargs="+", type=Path, help="images")
    parser.add_argument("--model", default="comic-compact-x3")
    parser.add_argument("--scale", type=float, default=2.5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="where to write a picture of all, source beside output")
    asked = parser.parse_args()
    engine = open_engine(asked.model)
    rows, pictures = [], []
    for path in asked.pages:
        row, before, after = measure_page(engine, path, asked.scale)
        rows.append(row)
        pictures += [before, after]
        print(json.dumps(row), flush=True)
    lines, before, after = measure_lines(engine, asked.scale)
    pictures += [before, after]
    print(json.dumps(lines), flush=True)
    if asked.json:
        write_report(
            {**facts(1), "model": asked.model, "scale": asked.scale, "pages": rows, "white lines": lines},
            asked.json,
        )
    if asked.sheet:
        contact_sheet(pictures).save(asked.sheet)


def open_engine(model: str) -> Engine:
    """Load a network on the CPU."""
    from comic_upscale.models.network import load_network
    from comic_upscale.models.weights import resolve_weights
    from comic_upscale.upscaling.torch_engine import open_torch_engine

    weights = resolve_weights(model, denoise=None, folders=[Path("weights")], cache=Path(), download=False)
    return open_torch_engine(load_network(weights, None), "cpu")


def upscaled(engine: Engine, page: Pixels, scale: float) -> Pixels:
    """Return a page at so many times its size as the network gave it, not yet finished."""
    target = (round(page.width * scale), round(page.height * scale))
    (result,) = upscale_pages(engine, [prepare(page)], target)
    if isinstance(result, PageError):
        raise result
    return result


def measure_page(engine: Engine, path: Path, scale: float) -> tuple[dict[str, Any], Pixels, Pixels]:
    """Measure a page, and return it and what became of it."""
    data = path.read_bytes()
    stored = decode(data, max_pixels=MOST_PIXELS)
    page = decode(data, max_pixels=MOST_PIXELS, gray="auto")
    row: dict[str, Any] = {"page": path.name, "size": f"{page.width}x{page.height}"}
    if stored.color.shape[2] == 3:
        block, cast = colourfulness(stored.color)
        row |= {"colour of the largest block": round(block, 1), "cast": round(cast, 2)}
    row |= {"channels": [stored.color.shape[2], page.color.shape[2]]}
    raw = upscaled(engine, page, scale)
    # Finishing writes into the arrays that it is given.
    done = finish(replace(raw, color=raw.color.copy()))
    written = decode(encode(done, format="png"), max_pixels=MOST_PIXELS)
    with_colour = np.asarray(written.color)
    chroma = int(np.ptp(with_colour, axis=2).max()) if with_colour.shape[2] == 3 else 0
    row |= {"channels written": with_colour.shape[2]}
    if page.color.shape[2] == 1:
        row["largest chroma written"] = chroma
    row["flat white"] = solid_figures(page, raw, written, 255)
    row["flat black"] = solid_figures(page, raw, written, 0)
    row["mean moves by"] = {"the network": shift(page, raw), "written": shift(page, written)}
    return row, page, written


def solid_figures(page: Pixels, raw: Pixels, written: Pixels, value: int) -> dict[str, Any] | None:
    """Tell of all that lies two pixels inside flat white, or black, how much is that still; None for no such place."""
    top = np.iinfo(page.color.dtype).max
    solid = solid_map(np.where(page.color == value * (top // 255), top, top // 2).astype(page.color.dtype))
    if solid is None:
        return None
    # The map itself, enlarged, marks the places.
    marks = Pixels(np.zeros((raw.height, raw.width, 1), np.uint8), solid=solid)
    places = restore_solid(marks).color[:, :, 0] == 255
    off = {}
    for name, result in (("the network", raw), ("written", written)):
        found = eight_bits(result.color)[places]
        wrong = (found != value).any(axis=1)
        farthest = int(np.abs(found.astype(np.int16) - value).max())
        off[name] = {"share off": round(float(wrong.mean()), 6), "levels off at most": farthest}
    return {"share of the page": round(float(places.mean()), 4), **off}


def shift(before: Pixels, after: Pixels) -> float:
    """Return by how many grey levels the mean of the worst channel has moved."""
    levels = np.iinfo(before.color.dtype).max / 255
    means = [page.color.mean(axis=(0, 1), dtype=np.float64) for page in (before, after)]
    return round(float(np.abs(means[0] - means[1]).max() / levels), 3)


def measure_lines(engine: Engine, scale: float) -> tuple[dict[str, Any], Pixels, Pixels]:
    """Draw white lines on transparency, black in what is hidden, and measure what becomes of them."""
    image = Image.new("L", (4 * 240, 4 * 160))
    pen = ImageDraw.Draw(image)
    for width in range(1, 9):
        pen.line((100 * width, 40, 100 * width + 60, 600), fill=255, width=2 * width)
    alpha = np.asarray(image.resize((240, 160), Image.Resampling.BOX))
    color = np.where(alpha[:, :, None] > 0, 255, 0).astype(np.uint8).repeat(3, axis=2)
    page = Pixels(color, alpha.copy())
    done = finish(upscaled(engine, page, scale))
    written = decode(encode(done, format="png"), max_pixels=MOST_PIXELS)
    assert written.alpha is not None
    seen = written.alpha > 0
    return (
        {
            "darkest visible sample": int(written.color[seen].min()),
            "ink kept": round(float(written.alpha.mean() / page.alpha.mean()), 4),  # type: ignore[union-attr]
            "clear and flat stays clear": bool((written.alpha[:20, :60] == 0).all()),
        },
        page,
        written,
    )


def contact_sheet(pages: list[Pixels], side: int = 360) -> Image.Image:
    """Show pages two by two, source and output of each, on a ground that white and transparency stand out from."""
    rows = (len(pages) + 1) // 2
    sheet = Image.new("RGB", (2 * side + 12, rows * (side + 4)), (70, 110, 150))
    for number, page in enumerate(pages):
        color = eight_bits(page.color)
        picture = Image.fromarray(color.repeat(3, axis=2) if color.shape[2] == 1 else color)
        mask = None if page.alpha is None else Image.fromarray(eight_bits(page.alpha))
        # The output is shown at the same size as the source: what differs is then no matter of size.
        share = side / max(picture.size)
        small = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        place = (4 + (number % 2) * (side + 4), 2 + number // 2 * (side + 4))
        sheet.paste(
            picture.resize(small, Image.Resampling.LANCZOS),
            place,
            None if mask is None else mask.resize(small, Image.Resampling.LANCZOS),
        )
    return sheet


if __name__ == "__main__":
    main()
