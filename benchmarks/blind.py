"""A blind comparison: crops of unseen pages, enlarged by several programs, to be ranked without names.

Usage: python -m benchmarks.blind make FOLDER [--crops 20] [--rounds 3] [--model NAME|FILE ...] [--seed N]
       python -m benchmarks.blind count FOLDER [--json FILE]

``make`` writes a folder for each round, with a sheet for each crop. A sheet shows the source, enlarged by nearest
neighbour, and the outputs at 100 %, each under a letter. The letters are reshuffled for each sheet, and ``key.json``
says what they stand for. The judge of a round writes ``ranks.txt`` beside the sheets: one line per sheet, best first,
such as ``07 CAFBDE``. ``count`` reads these files and prints, for each program, its mean rank and how often it came
first. For each network of ours, it also prints both as if the others of ours had not taken part.

The pages are those of `benchmarks.invented`, which no model of ours was trained on, with a long side of 768 pixels at
most. Every other crop went through JPEG 80; for these, cunet and Real-CUGAN run with their weakest denoising. Each crop
is one of the half of the page's regions with the most detail. The sheets are made from CC BY-SA pages: keep them out of
the repository.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.candidates import LANCZOS, REFERENCE, Candidate, gather
from benchmarks.invented import LONG_SIDE, open_source
from benchmarks.machine import cores, facts, write_report
from benchmarks.peers import PEERS
from benchmarks.rrdb_weights import NAMES
from benchmarks.validation import (
    REPOSITORY,
    AbsentError,
    ValidationPage,
    refuse_in_repository,
    validation_pages,
)
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.picture import as_pixels, detail
from comic_upscale.evaluation.sheet import row_of, under
from comic_upscale.evaluation.shrunk import Track, spread, through_jpeg
from comic_upscale.evaluation.trial import Restore

FACTOR = 2.5
QUALITY = 80
"""Of every other crop."""
SIDE = 128
"""Of a crop, in pixels of the source."""
AROUND = 24
"""Pixels of the page around a crop, which the networks see too."""
COLUMNS = 3
RESULT = REPOSITORY / "benchmarks" / "results" / "blind-cpu.json"


class RanksError(Exception):
    """The ranks cannot be counted; the message says which line is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sheets, or count the ranks; return the exit code, 2 where something is absent or refused."""
    options = _parse(arguments)
    try:
        if options.command == "make":
            make(options)
        else:
            report = {**facts(1), **count(options.folder)}
            write_report(report, options.json)
            print(as_markdown(report))
    except (AbsentError, RanksError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the sheets")
    making.add_argument("folder", type=Path)
    making.add_argument("--crops", type=int, default=20)
    making.add_argument("--rounds", type=int, default=3)
    making.add_argument(
        "--model", "--models", dest="models", action="extend", nargs="+", default=[], metavar="NAME|FILE"
    )
    making.add_argument("--seed", type=int, default=1)
    making.add_argument("--threads", type=int, default=cores())
    counting = commands.add_parser("count", help="count the ranks")
    counting.add_argument("folder", type=Path)
    counting.add_argument("--json", type=Path, default=RESULT)
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> None:
    """Write the sheets of all rounds, and what their letters stand for.

    Raises:
        AbsentError: pages or peers are not on this machine, or the folder is inside the repository.
        WeightsError: a model is not there.
    """
    refuse_in_repository(options.folder)
    rng = random.Random(options.seed)
    key: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        opened = [
            (each, stack.enter_context(each.open(options.threads)))
            for each in gather(options.models, peers=True)
        ]
        for number, page in enumerate(spread_over(validation_pages(), options.crops), 1):
            track = Track("blind", FACTOR, QUALITY if number % 2 == 0 else None)
            source, outputs = _enlarge(page, track, opened, rng)
            letters: dict[str, dict[str, str]] = {}
            for round_number in range(1, options.rounds + 1):
                names = rng.sample(list(outputs), len(outputs))
                shown = dict(zip(string.ascii_uppercase[: len(names)], names, strict=True))
                letters[str(round_number)] = shown
                folder = options.folder / f"round-{round_number}"
                folder.mkdir(parents=True, exist_ok=True)
                pictures = [("source", source), *((letter, outputs[name]) for letter, name in shown.items())]
                _sheet(f"{number:02d}", pictures).save(folder / f"{number:02d}.png")
            key[f"{number:02d}"] = {"page": page.name, "quality": track.quality, "letters": letters}
            print(f"{number:02d} {page.name}", flush=True)
    (options.folder / "key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")


def spread_over(pages: Sequence[ValidationPage], crops: int) -> list[ValidationPage]:
    """Return this many pages, evenly spread, each more than once if there are fewer."""
    return [page for first in range(0, crops, len(pages)) for page in spread(pages, crops - first)]


def _enlarge(
    page: ValidationPage, track: Track, opened: Sequence[tuple[Candidate, Restore]], rng: random.Random
) -> tuple[Image.Image, dict[str, Image.Image]]:
    """Return a crop of a page, enlarged by nearest neighbour, and by every candidate, by name."""
    whole = open_source(page)
    whole.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC)
    left, top = _place(whole, rng)
    box = (max(0, left - AROUND), max(0, top - AROUND))
    seen = whole.crop((*box, min(whole.width, left + SIDE + AROUND), min(whole.height, top + SIDE + AROUND)))
    if track.quality is not None:
        seen = through_jpeg(seen, track.quality)
    inner = (left - box[0], top - box[1])
    place = [round(FACTOR * side) for side in (*inner, inner[0] + SIDE, inner[1] + SIDE)]
    source = seen.crop((*inner, inner[0] + SIDE, inner[1] + SIDE))
    source = source.resize((round(SIDE * FACTOR),) * 2, Image.Resampling.NEAREST)
    outputs = {}
    for name, upscale in choose_variants(opened, track):
        # Every program gets the same pixels, decoded.
        outputs[name] = upscale(seen.copy(), FACTOR).crop(place)
    return source, outputs


def choose_variants(opened: Sequence[tuple[Candidate, Restore]], track: Track) -> list[tuple[str, Restore]]:
    """Return the candidates of a sheet: of a peer, the variant for this noise with the larger factor."""
    chosen: dict[str, tuple[int, Restore]] = {}
    for each, upscale in opened:
        network = each.network
        if network is not None and network.denoises != track.noisy:
            continue
        scale = 0 if network is None else network.scale
        if each.name not in chosen or scale > chosen[each.name][0]:
            chosen[each.name] = scale, upscale
    return [(name, upscale) for name, (_, upscale) in chosen.items()]


def _place(page: Image.Image, rng: random.Random) -> tuple[int, int]:
    """Return left and top of a region that has more detail than half of the regions."""
    energy = detail(as_pixels(page).color).astype(np.float64)
    places = [
        (left, top)
        for top in range(0, page.height - SIDE + 1, SIDE // 4)
        for left in range(0, page.width - SIDE + 1, SIDE // 4)
    ]
    if not places:
        raise AbsentError(f"a page of {page.width}x{page.height} is smaller than a crop")
    places.sort(key=lambda place: float(energy[place[1] : place[1] + SIDE, place[0] : place[0] + SIDE].sum()))
    return rng.choice(places[len(places) // 2 :])


def _sheet(title: str, pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    rows = [
        row_of([(label, picture.convert("RGB")) for label, picture in pictures[first : first + COLUMNS]])
        for first in range(0, len(pictures), COLUMNS)
    ]
    return under(title, rows)


def count(folder: Path) -> dict[str, Any]:
    """Return the ranks of all programs, and those of each network of ours without the others of ours.

    Args:
        folder: what ``make`` wrote, with the ranks.

    Raises:
        AbsentError: there are no sheets, or no ranks.
        RanksError: a line names a sheet or letters that are not there, or a sheet is missing.
    """
    try:
        key = json.loads((folder / "key.json").read_text("utf-8"))
    except FileNotFoundError:
        raise AbsentError(f"{folder} has no key.json: make the sheets first.") from None
    judged = sorted(path.parent for path in folder.glob("round-*/ranks.txt"))
    if not judged:
        raise AbsentError(f"{folder} has no round-1/ranks.txt: judge the sheets first.")
    orders = {}
    for sheets in judged:
        number = sheets.name.removeprefix("round-")
        if any(number not in each["letters"] for each in key.values()):
            raise RanksError(f"{sheets}: key.json has no such round")
        letters = {sheet: each["letters"][number] for sheet, each in key.items()}
        orders[number] = list(read_ranks(sheets / "ranks.txt", letters).values())
    names = set(orders[min(orders)][0])
    others = names & {LANCZOS, REFERENCE, *(peer.peer for peer in PEERS), *NAMES.values()}
    return {
        "sheets": len(key),
        "rounds": len(judged),
        "ranks": rank(orders, names),
        "without our others": {name: rank(orders, {name, *others}) for name in sorted(names - others)},
    }


def rank(orders: Mapping[str, Sequence[Sequence[str]]], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Rank some of the programs among themselves: their mean rank, how often first, and the mean rank in each round.

    Args:
        orders: for each round, the programs on each sheet, best first.
        names: the programs to rank.
    """
    ranks: dict[str, dict[str, list[int]]] = {}
    for number, sheets in orders.items():
        for sheet in sheets:
            for place, name in enumerate((name for name in sheet if name in names), 1):
                ranks.setdefault(name, {}).setdefault(number, []).append(place)
    together = {
        name: [place for each in by_round.values() for place in each] for name, by_round in ranks.items()
    }
    return {
        name: {
            "mean": round(statistics.fmean(every), 2),
            "first": every.count(1),
            "rounds": {number: round(statistics.fmean(each), 2) for number, each in ranks[name].items()},
        }
        for name, every in sorted(together.items(), key=lambda item: statistics.fmean(item[1]))
    }


def read_ranks(path: Path, letters: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the programs on each sheet, best first.

    Args:
        path: a line for each sheet: its number and its letters, best first.
        letters: for each sheet, what its letters stand for.

    Raises:
        RanksError: a line names a sheet or letters that are not there, or a sheet is missing.
    """
    order: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if not line.strip():
            continue
        sheet, *said = line.replace(":", " ").split()
        row = "".join(said).upper()
        if sheet not in letters or sheet in order or sorted(row) != sorted(letters[sheet]):
            raise RanksError(f"{path}: not a sheet and each of its letters once: {line}")
        order[sheet] = [letters[sheet][letter] for letter in row]
    if missing := sorted(letters.keys() - order.keys()):
        raise RanksError(f"{path}: no line for {', '.join(missing)}")
    return order


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the table of ranks."""
    alone = report["without our others"]
    rows = [
        f"| | mean rank | first of {report['sheets'] * report['rounds']} | without our others: mean rank | first |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in report["ranks"].items():
        cells = [f"{row['mean']:.2f}", str(row["first"]), "", ""]
        if name in alone:
            cells[2:] = f"{alone[name][name]['mean']:.2f}", str(alone[name][name]["first"])
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
