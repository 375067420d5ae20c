"""Which model invents texture where the source is quiet, and which keeps white white: counts on validation pages.

Usage: python -m benchmarks.invented [--pages N | --page NAME ...] [--model NAME|FILE ...] [--factor 2.5]
                                     [--qualities 40 75 95] [--no-texture] [--no-white]
                                     [--outputs FOLDER] [--sheets FOLDER] [--threads N] [--json FILE]

The pages are the CC BY-SA pages that no model of ours was trained on, as a reader has them: pages of up to 1000
pixels as published, middle of at most 600 x 840; of strips the middle; larger pages whole, reduced to a long side
of 768. Lanczos, realesr-animevideov3, comic-compact-x3 and the models named enlarge them 2.5 times.

**Invented texture** is detail that the source cannot hold, in places where the source has next to none. The eye sees
it as islands of dots, checks or worms with hard borders in flat gray, faint screentone and watercolour.

* Finer than the source can hold: what is left of the output's luma after it is reduced to the size of the source and
  enlarged again (both bicubic).
* Blocks of 10 source pixels (25 of the output at 2.5 times). A block counts if the root of the mean square of that
  detail is at least `LEAST_DETAIL` levels, and at least `LEAST_RATIO` times the contrast of the source in the block.
* Contrast of the source: the root of the mean square of its luma minus the mean of the 5 x 5 pixels around. Above
  `MOST_CONTRAST` levels the source has a drawing or screentone of its own in the block, which does not count then.
* Pixels beside lines and letters are left out: those within `MARGIN` pixels of a step of `LINE` levels between
  neighbours. A line gets sharper there legitimately, and the reduction rings. A block with less than `LEAST_SHARE`
  of its pixels left is not examined.
* A block beside screentone that the source has and the output keeps does not count either: it is where that tone
  fades out, or where it beats with the pixels of the source. Of such a block at least `TONE_SHARE` of the pixels have
  steps of `TONE` levels, its contrast is above `MOST_CONTRAST`, and its detail is at most `MOST_RATIO_OF_TONE` times
  the contrast.

The thresholds come from looking at blocks of the haruko pages, each beside its source and the other outputs, at 100 %
and at 500 %. Islands (cloud, notebook, heart, dress) have 2 to 7 times the source's contrast, 5 levels and more, where
the source has 3 to 9.5: a network invents dots exactly where hardly anything contradicts it. Reduced again, the islands
are as quiet as the source, so a comparison at the source's size finds none of them. Between 3 and 5 levels no more
blocks were found. Lines are below 1, those too faint for `LINE` up to 1.9, Lanczos below 0.5. Screentone that is kept
as dots has 1.5 to 2.4, but up to 10 in blocks where it fades out, which is why its neighbours are left out.

What this does not see: screentone of clear contrast that is broken into dashes, as the source is not quiet there;
steps of few levels in gradients; islands of a few dots that fill less than about a quarter of a block.

**White**: the part of each page (160 x 160) with the most white beside drawing, through JPEG 40, 75 and 95.
White pixels are those of the clean page that are 255 with all 8 neighbours, so that edges of lines do not count. The
share of them that is still pure (255) and nearly white (254 or 255) is given for the input, after JPEG, and for each
output. An output below its input spreads JPEG artifacts; one above removes them.

`benchmarks/results/invented-cpu.json` has the texture, `benchmarks/results/invented-white-cpu.json` the white (fewer
pages), each from a run with ``--no-white`` or ``--no-texture``.

``--outputs`` keeps the outputs, and reads those that are there: thresholds can be tried without the networks. Use a
new folder for other weights. ``--sheets`` writes the worst blocks of each model, source beside output. Pictures are
made from CC BY-SA pages: keep both folders out of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.candidates import gather
from benchmarks.machine import cores, facts, write_report
from benchmarks.sheets import choose_pages
from benchmarks.texture import (
    Block,
    White,
    invented_blocks,
    white_kept,
    white_mask,
    white_part,
)
from benchmarks.validation import (
    REPOSITORY,
    AbsentError,
    ValidationPage,
    flatten_page,
    refuse_in_repository,
    validation_pages,
)
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.sheet import row_of
from comic_upscale.evaluation.shrunk import crop_middle, through_jpeg
from comic_upscale.evaluation.trial import Restore
from comic_upscale.gate.texture import (
    BLOCK,
    LEAST_DETAIL,
    LEAST_RATIO,
    LEAST_SHARE,
    LINE,
    MARGIN,
    MOST_CONTRAST,
    MOST_RATIO_OF_TONE,
    TONE,
    TONE_SHARE,
)

RESULT = REPOSITORY / "benchmarks" / "results" / "invented-cpu.json"

AS_PUBLISHED = 1000
"""The longest side of a page that is not reduced, in pixels."""
MIDDLE = (600, 840)
"""Largest width and height of the middle of a page that is not reduced."""
LONG_SIDE = 768
"""The longest side of a reduced page."""

QUALITIES = (40, 75, 95)
"""JPEG qualities of the inputs whose white is followed."""
SHOWN = 12
"""Blocks on a sheet, of each model."""
_SURROUNDINGS = 20
"""Source pixels around a block on a sheet."""


def open_source(page: ValidationPage) -> Image.Image:
    """Return a page as a reader has it, mode L (where it has no colour) or RGB."""
    with Image.open(page.path) as image:
        width, height = image.size
        if max(width, height) <= AS_PUBLISHED or max(width, height) > 2 * min(width, height):
            return flatten_page(crop_middle(image, min(width, MIDDLE[0]), min(height, MIDDLE[1])))
        ratio = LONG_SIDE / max(width, height)
        whole = flatten_page(image)
        return whole.resize((round(width * ratio), round(height * ratio)), Image.Resampling.BICUBIC)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """The outputs that were made before, in a folder; without a folder none are kept."""

    folder: Path | None

    def get(self, label: str, upscale: Restore, source: Image.Image, factor: float) -> Image.Image:
        """Return the output of a model, from the folder where it is there."""
        if self.folder is None:
            return upscale(source, factor)
        key = hashlib.sha256(f"{source.mode}{source.size}{factor}".encode() + source.tobytes()).hexdigest()
        path = self.folder / f"{key[:16]}-{label}.png"
        if path.is_file():
            with Image.open(path) as image:
                image.load()
                return image.copy()
        output = upscale(source, factor)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        output.save(part, "PNG", compress_level=1)
        part.replace(path)
        return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the report; return the exit code, 2 where something is absent or refused."""
    options = _parse(arguments)
    try:
        report = measure(options)
    except (AbsentError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(as_markdown(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pages", type=int, help="a sample of this number of pages, spread evenly")
    which.add_argument("--page", dest="names", action="extend", nargs="+", metavar="NAME")
    parser.add_argument(
        "--model", "--models", dest="models", action="extend", nargs="+", default=[], metavar="NAME|FILE"
    )
    parser.add_argument("--factor", type=float, default=2.5)
    parser.add_argument("--qualities", type=int, nargs="+", default=list(QUALITIES))
    parser.add_argument("--texture", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--white", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--outputs", type=Path, metavar="FOLDER")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, default=RESULT)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Return the report; it is written after every page, so that a run cut short has left what it found.

    Raises:
        AbsentError: pages are not on this machine, or a folder for pictures is inside the repository.
        WeightsError: a model is not there.
    """
    for folder in (options.outputs, options.sheets):
        if folder is not None:
            refuse_in_repository(folder)
    every_page = validation_pages()
    pages = choose_pages(every_page, options.names, options.pages)
    textures: dict[str, dict[str, list[Block]]] = {}
    whites: dict[str, dict[str, White]] = {}
    outputs = _Outputs(options.outputs)
    with ExitStack() as stack:
        opened = {
            each.label: stack.enter_context(each.open(options.threads))
            for each in gather(options.models, peers=False)
        }
        report: dict[str, object] = {}
        for page in pages:
            source = open_source(page)
            if options.texture:
                made = {
                    label: outputs.get(label, upscale, source, options.factor)
                    for label, upscale in opened.items()
                }
                textures[page.name] = {label: invented_blocks(source, image) for label, image in made.items()}
                if options.sheets:
                    _write_sheet(options.sheets, page.name, source, made, textures[page.name])
            if options.white:
                whites[page.name] = _follow_white(source, opened, outputs, options)
            report = {
                **facts(options.threads),
                "pages": f"{len(pages)} of {len(every_page)} CC BY-SA pages, enlarged {options.factor:g} times",
                "thresholds": _thresholds(),
                **_summary(list(opened), textures, whites),
            }
            write_report(report, options.json)
            _tell(page.name, source, textures.get(page.name, {}))
    return report


def _thresholds() -> dict[str, float]:
    return {
        "block_source_pixels": BLOCK,
        "least_detail": LEAST_DETAIL,
        "least_ratio": LEAST_RATIO,
        "most_contrast": MOST_CONTRAST,
        "line": LINE,
        "margin": MARGIN,
        "least_share": LEAST_SHARE,
        "tone": TONE,
        "tone_share": TONE_SHARE,
        "most_ratio_of_tone": MOST_RATIO_OF_TONE,
    }


def _tell(name: str, source: Image.Image, found: Mapping[str, Sequence[Block]]) -> None:
    counts = ", ".join(f"{label} {len(blocks)}" for label, blocks in found.items())
    print(f"{name} {source.width}x{source.height} | {counts or 'white'}", file=sys.stderr, flush=True)


def _follow_white(
    source: Image.Image, opened: Mapping[str, Restore], outputs: _Outputs, options: argparse.Namespace
) -> dict[str, White]:
    """Return the white of inputs and outputs, by ``"quality label"``; nothing for a page without white."""
    part = white_part(source)
    mask = white_mask(part)
    if not mask.any():
        return {}
    found = {}
    for quality in options.qualities:
        soiled = through_jpeg(part, quality)
        found[f"{quality} {INPUT}"] = white_kept(mask, soiled)
        for label, upscale in opened.items():
            output = outputs.get(label, upscale, soiled, options.factor)
            found[f"{quality} {label}"] = white_kept(mask, output)
    return found


INPUT = "input"
"""What the tables call the page after JPEG."""


def _summary(
    labels: Sequence[str],
    textures: Mapping[str, Mapping[str, Sequence[Block]]],
    whites: Mapping[str, Mapping[str, White]],
) -> dict[str, object]:
    """Return the counts and shares of all pages together, and of each page."""
    summary: dict[str, object] = {}
    if textures:
        pages = {
            name: {label: len(blocks) for label, blocks in found.items()} for name, found in textures.items()
        }
        total = {label: sum(page[label] for page in pages.values()) for label in labels}
        summary["invented_blocks"] = {"total": total, "pages": pages}
    if whites:
        keys = dict.fromkeys(key for page in whites.values() for key in page)
        summary["white"] = {
            "total": {key: _shares([page[key] for page in whites.values() if page]) for key in keys},
            "pages": {
                name: {key: _shares([white]) for key, white in page.items()} for name, page in whites.items()
            },
        }
    return summary


def _shares(counts: Sequence[White]) -> dict[str, float]:
    """Return the shares of white that stayed, over all these pages together."""
    pixels = sum(count.pixels for count in counts)
    pure, near = sum(count.pure for count in counts), sum(count.near for count in counts)
    return {"pure": round(pure / pixels, 4), "near": round(near / pixels, 4)}


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the tables: blocks by page, and white by quality."""
    parts: list[str] = []
    if "invented_blocks" in report:
        blocks = report["invented_blocks"]
        labels = list(blocks["total"])
        parts += _table("page", labels, [*blocks["pages"].items(), ("**all**", blocks["total"])], "{}")
    if "white" in report:
        total = report["white"]["total"]
        qualities = list(dict.fromkeys(key.split(" ", 1)[0] for key in total))
        labels = list(dict.fromkeys(key.split(" ", 1)[1] for key in total))
        for kind, title in (("near", "white kept, 254 and 255"), ("pure", "white kept, 255")):
            rows = [
                (f"JPEG {quality}", {label: total[f"{quality} {label}"][kind] for label in labels})
                for quality in qualities
            ]
            parts += ["", *_table(title, labels, rows, "{:.1%}")]
    return "\n".join(parts)


def _table(
    title: str, labels: Sequence[str], rows: Sequence[tuple[str, Mapping[str, float]]], form: str
) -> Iterator[str]:
    yield f"| {title} | " + " | ".join(labels) + " |"
    yield "|---" + "|---:" * len(labels) + "|"
    for name, row in rows:
        yield f"| {name} | " + " | ".join(form.format(row[label]) for label in labels) + " |"


def _write_sheet(
    folder: Path,
    name: str,
    source: Image.Image,
    made: Mapping[str, Image.Image],
    found: Mapping[str, Sequence[Block]],
) -> None:
    """Write a picture for each model that has blocks on this page: source, output and Lanczos around the worst."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = next(iter(made))
    for label, blocks in found.items():
        if not blocks:
            continue
        rows = [
            row_of(
                [
                    (
                        f"{who} {block.detail:.0f}/{block.contrast:.1f}",
                        _surroundings(image, block, image.width / source.width),
                    )
                    for who, image in (("source", source), (label, made[label]), (reference, made[reference]))
                ]
            )
            for block in blocks[:SHOWN]
        ]
        _tiled(rows, 3).save(folder / f"{Path(name).stem}-{label}.png")


def _surroundings(image: Image.Image, block: Block, factor: float) -> Image.Image:
    """Return a block and what is around it, 5 times as large as in the source."""
    box = (
        max(0, block.left - _SURROUNDINGS) * factor,
        max(0, block.top - _SURROUNDINGS) * factor,
        min(image.width, (block.left + BLOCK + _SURROUNDINGS) * factor),
        min(image.height, (block.top + BLOCK + _SURROUNDINGS) * factor),
    )
    size = (round((box[2] - box[0]) / factor * 5), round((box[3] - box[1]) / factor * 5))
    return image.resize(size, Image.Resampling.NEAREST, box=box).convert("RGB")


def _tiled(rows: Sequence[Image.Image], columns: int) -> Image.Image:
    width, height = max(row.width for row in rows), max(row.height for row in rows)
    lines = -(-len(rows) // columns)
    tiled = Image.new("RGB", (width * min(columns, len(rows)), height * lines), "white")
    for place, row in enumerate(rows):
        tiled.paste(row, (place % columns * width, place // columns * height))
    return tiled


if __name__ == "__main__":
    sys.exit(main())
