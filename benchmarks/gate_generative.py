"""The gate's bounds for engines that draw: what they may change, and which planted faults are found.

Usage: python -m benchmarks.gate_generative [--pages 32] [--set] [--json FILE]

No weights of a generative model are at hand, so what such an engine may do is made by rule: detail finer than a pixel
of the source, hatching in middle tones, sharper edges, removed grain, lines that are redrawn up to a quarter of a pixel
away, and the small errors of tone that an autoencoder makes. Each is made at its strongest on pieces of real pages at
2.5 times the size, with a balloon of lettering that stays. The bounds (--set) are those of every other piece, with a
margin. Then faults are planted on outputs that were changed like this: moved, resized, another tone, other lettering.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.gate import BOUNDS, GENERATIVE, LEAST, LOW_IS_BAD, MOST, generative_lines
from benchmarks.gate_pages import pieces
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import REPOSITORY
from comic_upscale.engines.host_resample import resample_samples
from comic_upscale.engines.pages import finish, prepare
from comic_upscale.gate.scores import Scores, compare
from comic_upscale.gate.verdict import Bounds, bounds_of_size, measure_raw_output, reasons
from comic_upscale.imaging.pixels import Borders, Pixels, SampleArray

SCALE = 2.5
WORDS = ("WHO", "GOES", "THERE", "NEVER", "AGAIN", "STOP", "HELP", "WATER", "NIGHT", "LATER")
LETTERS = "ABCDEFGHKLMNOPRSTUVWY"
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of a page with a balloon, and what a faithful network would make of it."""

    label: str
    source: Pixels
    """As a run prepares it."""
    larger: SampleArray
    """The first pass, uint8, height x width x C."""
    balloon: tuple[int, int, int, int]
    """Left, top, right, bottom of the balloon in the source."""
    height: int
    """Of its letters, pixels of the source."""
    words: tuple[str, ...]


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=32)
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "build" / "gate")
    parser.add_argument("--set", action="store_true", help="write new bounds into the package")
    parser.add_argument("--json", type=Path, default=GENERATIVE)
    options = parser.parse_args()
    made = [
        scene
        for number, (label, page) in enumerate(pieces(options.pages, options.outputs))
        if min(page.width, page.height) >= 200
        for scene in [letter(label, page, np.random.default_rng(number))]
    ]
    report = {**facts(1), "scale": SCALE, "pieces": len(made), **measure(made)}
    write_report(report, options.json)
    if options.set:
        start, _, rest = BOUNDS.read_text(encoding="utf-8").partition("# Bounds by `EngineInfo.fidelity`")
        _, _, single = rest.partition("# Bounds of single networks")
        section = "\n".join(generative_lines())
        BOUNDS.write_text(f"{start}{section}\n# Bounds of single networks{single}", encoding="utf-8")
    print(json.dumps({name: report[name] for name in ("bounds", "allowed", "faults")}, indent=1))


def measure(made: list[Piece]) -> dict[str, object]:
    """Return the bounds, the false alarms, and the share of each fault that is found."""
    scores: dict[str, list[tuple[int, Scores]]] = {name: [] for name in ALLOWED}
    for number, piece in enumerate(made):
        for name, change in ALLOWED.items():
            output = change(piece, np.random.default_rng(number))
            scores[name].append((number, score(piece, output)))
    seen = [each for found in scores.values() for number, each in found if number % 2 == 0]
    bounds = bounds_from(seen)
    allowed = {
        name: {
            "outputs": len(found),
            "alarms": sum(bool(is_suspect(made[number], each, bounds)) for number, each in found),
        }
        for name, found in scores.items()
    }
    faults: dict[str, dict[str, object]] = {}
    for name, plant in FAULTS.items():
        why: Counter[str] = Counter()
        planted = missed = 0
        for number, piece in enumerate(made):
            chance = np.random.default_rng(1000 + number)
            faulty = plant(piece, list(ALLOWED.values())[number % len(ALLOWED)](piece, chance), chance)
            if faulty is None:
                continue
            planted += 1
            texts = is_suspect(piece, score(piece, faulty), bounds)
            missed += not texts
            why.update({text.split(":")[0].split(" by ")[0] for text in texts})
        faults[name] = {
            "planted": planted, "found": planted - missed,
            "share": round(1 - missed / max(1, planted), 3), "by": dict(why.most_common(3)),
        }  # fmt: skip
    return {"bounds": {name.name: getattr(bounds, name.name) for name in fields(Bounds)}, "allowed": allowed,
            "faults": faults}  # fmt: skip


def score(piece: Piece, output: SampleArray) -> Scores:
    """Score an output as a run does, before and after it is finished."""
    height, width = output.shape[:2]
    borders = Borders((height // 2,), (width // 2,))
    raw = measure_raw_output(piece.source.color, output, borders)
    page = finished_page(piece, output)
    return compare(np.asarray(piece.source.color, np.uint8), page, borders, raw)


def finished_page(piece: Piece, output: SampleArray) -> NDArray[np.uint8]:
    """Return an output as a run would write it."""
    return np.asarray(finish(replace(piece.source, color=output.copy())).color, np.uint8)


def is_suspect(piece: Piece, scores: Scores, bounds: Bounds) -> tuple[str, ...]:
    """Return why an output is suspect."""
    return reasons(scores, bounds_of_size(bounds, piece.source.height, piece.source.width))


def bounds_from(seen: list[Scores]) -> Bounds:
    """Return bounds beyond the worst of these outputs, by the rule of `benchmarks.gate`."""
    bounds = {}
    for each in fields(Bounds):
        values = [getattr(scores, each.name) for scores in seen]
        if each.name == "psnr":
            bounds[each.name] = round(min(values) - 20 * float(np.log10(MARGIN_HERE)), 1)
        elif each.name == "contrast_levels":
            bounds[each.name] = 2.0
        elif each.name in LOW_IS_BAD:
            bounds[each.name] = round(min(MOST[each.name], 1 - MARGIN_HERE * (1 - min(values))), 3)
        else:
            bounds[each.name] = round(max(LEAST[each.name], MARGIN_HERE * max(values)), 2)
    return Bounds(**bounds)


MARGIN_HERE = 1.15
"""Smaller than in `benchmarks.gate`: the changes are at their strongest already."""


# Pages with lettering


def letter(label: str, page: Pixels, chance: np.random.Generator) -> Piece:
    """Draw a balloon with words on a piece, and enlarge it."""
    height = int(chance.integers(11, 19))
    words = tuple(str(word) for word in chance.choice(WORDS, 3, replace=False))
    width = min(page.width - 20, height * 7)
    left = int(chance.integers(5, page.width - width - 4))
    top = int(chance.integers(5, max(6, page.height - height * 7)))
    balloon = (left, top, left + width, top + height * 6)
    color = draw_balloon(np.asarray(page.color), balloon, height, words, 1)
    larger = draw_balloon(
        resample_samples(color, (round(page.width * SCALE), round(page.height * SCALE))), balloon, height, words, SCALE
    )  # fmt: skip
    return Piece(label, prepare(Pixels(color)), larger, balloon, height, words)


def draw_balloon(
    page: SampleArray, balloon: tuple[int, int, int, int], height: int, words: tuple[str, ...], scale: float
) -> SampleArray:
    """Draw the same balloon at any scale: lettering as a drawing has it, not as pixels of the source."""
    fine = 4
    left, top, right, bottom = (round(place * scale) for place in balloon)
    size = (right - left) * fine, (bottom - top) * fine
    picture = Image.new("L", size, 255)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(1.5 * scale * fine))
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=0, width=line)
    font = ImageFont.load_default(height * scale * fine)
    for row, word in enumerate(words):
        middle = (size[0] // 2, round((row + 0.5) * size[1] / len(words)))
        draw.text(middle, word, fill=0, font=font, anchor="mm")
    small = np.asarray(picture.resize((right - left, bottom - top), Image.Resampling.BOX))
    made = page.copy()
    made[top:bottom, left:right] = small[:, :, None]
    return made


# What an engine may do

Change = Callable[[Piece, np.random.Generator], SampleArray]


def _bytes(page: NDArray[np.floating]) -> SampleArray:
    return np.rint(page.clip(0, 255)).astype(np.uint8)


def _blur(plane: Floats, radius: float) -> Floats:
    reach = max(1, round(radius))
    for _ in range(2):
        padded = np.pad(plane.T, ((reach + 1, reach), (0, 0)), mode="edge").astype(np.float64)
        sums = padded.cumsum(axis=0)
        plane = ((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)).astype(np.float32)
    return plane


def _drawn(page: SampleArray) -> Floats:
    """Return 1 where something is drawn or shaded, 0 on paper and on solid ink."""
    luma = page.mean(axis=2, dtype=np.float32)
    return ((luma > 24) & (luma < 232)).astype(np.float32)


def detail(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Noise finer than a pixel of the source, of up to twelve levels, where something is drawn."""
    noise = chance.normal(0, 12, piece.larger.shape[:2]).astype(np.float32)
    fine = noise - _blur(noise, SCALE)
    return _bytes(piece.larger + (fine * _drawn(piece.larger))[:, :, None])


def hatching(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Lines of twenty levels in middle tones, 1.6 pixels of the source apart."""
    height, width = piece.larger.shape[:2]
    angle = chance.uniform(0, np.pi)
    along = np.arange(width) * np.cos(angle) + np.arange(height)[:, None] * np.sin(angle)
    lines = 20 * np.sin(along * 2 * np.pi / (1.6 * SCALE)).astype(np.float32)
    return _bytes(piece.larger + (lines * _drawn(piece.larger))[:, :, None])


def sharper(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Edges twice as steep."""
    page = piece.larger.astype(np.float32)
    soft = np.stack([_blur(page[:, :, each], SCALE / 2) for each in range(page.shape[2])], axis=2)
    return _bytes(page + 0.9 * (page - soft))


def smoother(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Grain removed: the median over one and a half pixels of the source, as Pillow's filter does it."""
    from PIL import ImageFilter

    planes = [
        np.asarray(Image.fromarray(piece.larger[:, :, each]).filter(ImageFilter.MedianFilter(5)))
        for each in range(piece.larger.shape[2])
    ]
    return np.stack(planes, axis=2)


def redrawn(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Lines a quarter of a pixel of the source from where they were, in any direction, smoothly."""
    return _warp(piece.larger, 0.25 * SCALE, 24 * SCALE, chance)


def coded(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """Errors of tone as an autoencoder makes them: about a level and a half, over eight pixels."""
    height, width, channels = piece.larger.shape
    coarse = chance.normal(0, 1.5, (height // 8 + 1, width // 8 + 1, channels)).astype(np.float32)
    coarse -= coarse.mean(axis=(0, 1))
    planes = [
        np.asarray(Image.fromarray(coarse[:, :, each], "F").resize((width, height), Image.Resampling.BICUBIC))
        for each in range(channels)
    ]
    return _bytes(piece.larger + np.stack(planes, axis=2))


def everything(piece: Piece, chance: np.random.Generator) -> SampleArray:
    """All of it together, at half the strength each."""
    page = piece.larger.astype(np.float32)
    for change in (detail, hatching, sharper, redrawn, coded):
        page += 0.4 * (change(piece, chance).astype(np.float32) - piece.larger)
    return _bytes(page)


ALLOWED: dict[str, Change] = {
    "fine detail": detail,
    "hatching": hatching,
    "sharper edges": sharper,
    "grain removed": smoother,
    "lines redrawn by a quarter pixel": redrawn,
    "errors of an autoencoder": coded,
    "all together": everything,
}


def _warp(page: SampleArray, most: float, reach: float, chance: np.random.Generator) -> SampleArray:
    """Move pixels by up to ``most``, smoothly over ``reach`` pixels."""
    height, width = page.shape[:2]
    grid = (max(2, round(height / reach)), max(2, round(width / reach)))
    shifts = [
        np.asarray(
            Image.fromarray(chance.uniform(-most, most, grid).astype(np.float32), "F").resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for _ in range(2)
    ]
    rows = np.clip(np.arange(height)[:, None] + shifts[0], 0, height - 1.001)
    columns = np.clip(np.arange(width)[None, :] + shifts[1], 0, width - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, :, None], (columns - left)[:, :, None]
    source = page.astype(np.float32)
    upper = source[top, left] * (1 - right) + source[top, left + 1] * right
    lower = source[top + 1, left] * (1 - right) + source[top + 1, left + 1] * right
    return _bytes(upper * (1 - down) + lower * down)


# What it must not do

Plant = Callable[[Piece, SampleArray, np.random.Generator], SampleArray | None]


def _affine(page: SampleArray, scale: float, right: float, down: float) -> SampleArray:
    image = Image.fromarray(page[:, :, 0] if page.shape[2] == 1 else page)
    data = (scale, 0, right, 0, scale, down)
    moved = image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return np.asarray(moved).reshape(page.shape)


def _moved(pixels: float) -> Plant:
    def plant(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
        return _affine(page, 1, pixels * SCALE * chance.choice((-1, 1)), 0)

    return plant


def _tile_moved(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray | None:
    made = page.copy()
    height, width = page.shape[0] // 2, page.shape[1] // 2
    moved = _affine(page, 1, 2 * SCALE, SCALE)
    made[height:, width:] = moved[height:, width:]
    change = np.abs(made.astype(int) - page)[height:, width:].mean()
    return made if change >= 3 else None


def _resized(share: float) -> Plant:
    def plant(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
        height, width = page.shape[:2]
        return _affine(page, 1 + share, -share * width / 2, -share * height / 2)

    return plant


def _tone(levels: float) -> Plant:
    def plant(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
        return _bytes(page.astype(np.float32) + levels * chance.choice((-1, 1)))

    return plant


def _tint(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray | None:
    if page.shape[2] == 1:
        return None
    made = page.astype(np.float32)
    made[:, :, 0] += 5
    made[:, :, 2] -= 5
    return _bytes(made)


def _flatter(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray | None:
    if page.std() < 15:
        return None
    return _bytes((page.astype(np.float32) - 128) * 0.8 + 128)


def _relettered(count: int) -> Plant:
    """Other letters in this many words, in the same hand."""

    def plant(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
        words = list(piece.words)
        for place in chance.permutation(len(words))[:count]:
            words[place] = "".join(
                str(chance.choice([each for each in LETTERS if each != letter])) for letter in words[place]
            )
        return draw_balloon(page, piece.balloon, piece.height, tuple(words), SCALE)

    return plant


def _one_letter(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
    words = list(piece.words)
    place = int(chance.integers(len(words[1])))
    others = [each for each in LETTERS if each != words[1][place]]
    words[1] = words[1][:place] + str(chance.choice(others)) + words[1][place + 1 :]
    return draw_balloon(page, piece.balloon, piece.height, tuple(words), SCALE)


def _erased(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
    return draw_balloon(page, piece.balloon, piece.height, (piece.words[0], "", piece.words[2]), SCALE)


def _garbled(piece: Piece, page: SampleArray, chance: np.random.Generator) -> SampleArray:
    """Letters that melt, as diffusion models draw them: moved by up to a third of their height."""
    left, top, right, bottom = (round(place * SCALE) for place in piece.balloon)
    made = page.copy()
    part = made[top + 4 : bottom - 4, left + 4 : right - 4]
    made[top + 4 : bottom - 4, left + 4 : right - 4] = _warp(
        part, piece.height * SCALE / 3, piece.height * SCALE / 2, chance
    )
    return made


FAULTS: dict[str, Plant] = {
    "moved by half a pixel": _moved(0.5),
    "moved by a pixel": _moved(1),
    "a quarter of the page moved by two pixels": _tile_moved,
    "resized by 1 %": _resized(0.01),
    "resized by 3 %": _resized(0.03),
    "lighter or darker by 12 levels": _tone(12),
    "tinted by 5 levels": _tint,
    "contrast of 80 %": _flatter,
    "other lettering": _relettered(3),
    "one word of three changed": _relettered(1),
    "one letter changed": _one_letter,
    "a word erased": _erased,
    "lettering garbled": _garbled,
}


if __name__ == "__main__":
    main()
