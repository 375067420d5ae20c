"""Measure what becomes of gray, of white paper, of solid black, of tone and of white lines on transparency.

    python benchmarks/pixels.py PAGES... [--model NAME] [--scale 2.5] [--json FILE] [--sheet FILE]

Each page goes through the whole of the pixels, from file to file; what the network gave is measured before it is
finished and after, so that what finishing does can be seen. What stands before two underscores in a page's name is
its series, and a line sums up each. White lines on transparency are drawn here. The sheet shows the part of every
page with the strongest contrasts at 100 %, beside the same part of the source, enlarged.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import facts, write_report
from comic_upscale.engines.base import Engine
from comic_upscale.engines.pages import finish, prepare, upscale_pages
from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.flat_areas import restore_solid, solid_map
from comic_upscale.imaging.gray import colourfulness, eight_bits
from comic_upscale.imaging.pixels import Pixels

MOST_PIXELS = 1 << 27
SIDE = 300
"""Pixels of the parts that the sheet shows."""
GROUND = (70, 110, 150)


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
        pictures += liveliest(before, after)
        print(json.dumps(row), flush=True)
    lines, before, after = measure_lines(engine, asked.scale)
    pictures += liveliest(before, after)
    print(json.dumps(lines), flush=True)
    series = sum_up(rows)
    print(json.dumps(series, indent=1))
    if asked.json:
        about = {**facts(1), "model": asked.model, "scale": asked.scale}
        write_report({**about, "series": series, "pages": rows, "white lines": lines}, asked.json)
    if asked.sheet:
        contact_sheet(pictures).save(asked.sheet)


def open_engine(model: str) -> Engine:
    """Load a network on the CPU."""
    from comic_upscale.engines.torch.engine import open_torch_engine
    from comic_upscale.models.network import load_network
    from comic_upscale.models.weights import resolve_weights

    weights = resolve_weights(model, denoise=None, folders=[Path("weights")], cache=Path(), download=False)
    return open_torch_engine(load_network(weights, None), "cpu")


def upscaled(engine: Engine, page: Pixels, scale: float) -> Pixels:
    """Return a page, enlarged by this factor, as the network gave it, before the last steps."""
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
    is_solid = page.color == value * (top // 255)
    if page.alpha is not None:
        is_solid &= page.alpha[:, :, None] > 0
    solid = solid_map(np.where(is_solid, top, top // 2).astype(page.color.dtype))
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
        off[name] = {"samples off": int(wrong.sum()), "levels off at most": farthest}
    return {"share of the page": round(float(places.mean()), 4), "samples": int(places.sum()), **off}


def shift(before: Pixels, after: Pixels) -> float:
    """Return by how many grey levels the mean of the worst channel has moved, of what can be seen."""
    levels = np.iinfo(before.color.dtype).max / 255
    return round(float(np.abs(seen_mean(before) - seen_mean(after)).max() / levels), 3)


def seen_mean(page: Pixels) -> NDArray[np.float64]:
    """Return the mean of every channel, each pixel counted by its opacity."""
    if page.alpha is None:
        return page.color.mean(axis=(0, 1), dtype=np.float64)
    # A row at a time: the products of a large page would take gigabytes.
    sums = sum(weights.astype(np.float64) @ row for row, weights in zip(page.color, page.alpha, strict=True))
    return np.asarray(sums / max(1, page.alpha.sum(dtype=np.int64)), np.float64)


def sum_up(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for every series how many pages came out gray, and the worst of their figures."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["page"].partition("__")[0], []).append(row)
    return {
        name: {
            "pages": len(pages),
            "written gray": sum(row["channels written"] == 1 for row in pages),
            "largest chroma of those": max(
                (row.get("largest chroma written", 0) for row in pages), default=0
            ),
            **{kind: _solid_of(pages, kind) for kind in ("flat white", "flat black")},
            "mean moves by at most": {
                state: max(row["mean moves by"][state] for row in pages)
                for state in ("the network", "written")
            },
        }
        for name, pages in groups.items()
    }


def _solid_of(pages: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return on how many pages there is flat white or black, and how much of it is off in all."""
    found = [row[kind] for row in pages if row[kind] is not None]
    samples = sum(one["samples"] for one in found)
    off = {state: sum(one[state]["samples off"] for one in found) for state in ("the network", "written")}
    return {"pages": len(found), "samples": samples, "samples off": off}


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


def liveliest(before: Pixels, after: Pixels, side: int = SIDE) -> list[Image.Image]:
    """Return the part of an output with the strongest contrasts, and before it the same part of its source.

    Both are ``side`` pixels a side at most: the output as it is, the source enlarged by Lanczos.
    """
    width, height = min(side, after.width), min(side, after.height)
    spread = {
        (top, left): float(after.color[top : top + height : 4, left : left + width : 4].std())
        for top in _starts(after.height, height)
        for left in _starts(after.width, width)
    }
    top, left = max(spread, key=spread.__getitem__)
    box = (left, top, left + width, top + height)
    across, down = before.width / after.width, before.height / after.height
    source = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return [
        _on_blue(before).resize((width, height), Image.Resampling.LANCZOS, source),
        _on_blue(after).crop(box),
    ]


def _starts(length: int, part: int) -> list[int]:
    """Return where parts of an axis begin, the last one at its end."""
    return [*range(0, length - part, part), length - part]


def _on_blue(page: Pixels) -> Image.Image:
    """Lay a page on a ground that white and transparency stand out from."""
    color = eight_bits(page.color)
    picture = Image.fromarray(color.repeat(3, axis=2) if color.shape[2] == 1 else color)
    if page.alpha is None:
        return picture
    return Image.composite(
        picture, Image.new("RGB", picture.size, GROUND), Image.fromarray(eight_bits(page.alpha))
    )


def contact_sheet(pictures: list[Image.Image], columns: int = 6, side: int = SIDE) -> Image.Image:
    """Show pictures of ``side`` pixels at most in rows, left to right."""
    step = side + 4
    sheet = Image.new("RGB", (columns * step, -(-len(pictures) // columns) * step), GROUND)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (2 + number % columns * step, 2 + number // columns * step))
    return sheet


if __name__ == "__main__":
    main()
