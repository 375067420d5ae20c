"""Inspect the finished pages of a job: sample them, compare them with their sources, and choose those to show.

Pages that the gate scored have their scores in the ledger, so no file is opened to choose them. Other pages are
compared here. The two kinds are ranked separately, because the gate compares at half the size.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.evaluation.likeness import Likeness, likeness
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.jobs.job_files import Outputs, Sources
from comic_upscale.ledger.queries import recorded_numbers

Row: TypeAlias = Mapping[str, Any]
"""A finished page by the columns of the ledger, from `read_done_pages`."""

OnInspected: TypeAlias = Callable[[int, int], None]
"""Called with the number of pages compared, and the total."""

MOST_OUTPUT_PIXELS = 400_000_000
"""Larger outputs are not opened again."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A page that was compared with its source, here or by the gate."""

    row: Row
    marks: Mapping[str, float]
    """Its value in each ranking, by the name of the ranking. The lowest value is the worst."""
    likeness: Likeness | None
    """The result of the comparison here; None for a page that the gate scored."""

    @property
    def is_suspect(self) -> bool:
        """Whether the gate found the page suspect."""
        return bool(self.row.get("suspect"))


@dataclass(frozen=True, slots=True)
class Selected:
    """A page to show."""

    inspected: Inspected
    reasons: tuple[str, ...]
    """Why it was chosen: the rankings in which it is the worst; empty for a random page."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The pages of a job to show."""

    worst: tuple[Selected, ...]
    """The pages least like their sources, the worst first."""
    random: tuple[Selected, ...]
    """Random pages other than the worst, in the order of the job."""
    looked_at: int
    """Pages that were compared, by the gate or here."""
    by_gate: int
    """Pages among these with scores in the ledger."""
    done: int
    """Finished pages of the job."""
    left_out: dict[str, int]
    """The number of pages that could not be compared, for each reason."""


class Gallery:
    """Reads sources and outputs of a job's pages; open while in use.

    Args:
        sources: of the job.
        outputs: of the job.
    """

    def __init__(self, sources: Sources, outputs: Outputs) -> None:
        self._sources = sources
        self._outputs = outputs

    def read(self, row: Row) -> tuple[bytes, bytes]:
        """Return the bytes of a page's source and output.

        Raises:
            PageError: one of them is gone, or the source has changed.
        """
        return self._sources.read(row), self._outputs.read(row)

    def in_reading_order(self, rows: Sequence[Row]) -> list[Row]:
        """Sort pages so that each archive is read once from front to back."""
        return sorted(rows, key=lambda row: (*self._sources.place_of(row), row["id"]))


def decode_both(row: Row, data: tuple[bytes, bytes]) -> tuple[Pixels, Pixels]:
    """Decode the source and the output of a page.

    Raises:
        PageError: one of them cannot be decoded.
    """
    source, output = data
    return (
        # The recorded size is that of a page whose margins were cropped.
        decode(source, max_pixels=max(MOST_OUTPUT_PIXELS, int(row["width"]) * int(row["height"]), 1)),
        decode(output, max_pixels=MOST_OUTPUT_PIXELS),
    )


def choose(
    rows: Sequence[Row],
    gallery: Gallery,
    *,
    look_at: int,
    show: int,
    seed: int,
    workers: int,
    on_inspected: OnInspected | None = None,
) -> Selection:
    """Choose the worst pages and some random ones, by the scores in the ledger or by comparing a sample of the others.

    Suspect pages come first. The others are taken in turn from several rankings, because each finds faults that the
    others miss: lowest SSIM, lowest PSNR, largest shift of a channel and, for pages with scores, worst part.

    Args:
        rows: the finished pages.
        gallery: reads the pages.
        look_at: the number of pages without scores to compare; of more pages, a sample.
        show: pages of each kind to choose.
        seed: the same seed gives the same sample.
        workers: threads for the comparison.
        on_inspected: called for each page.
    """
    chance = random.Random(seed)
    inspected = [known for row in rows if (known := _by_gate(row)) is not None]
    by_gate = len(inspected)
    scored = {each.row["id"] for each in inspected}
    others = [row for row in rows if row["id"] not in scored]
    sample = others if len(others) <= look_at else chance.sample(others, look_at)
    left_out: Counter[str] = Counter()
    for number, result in enumerate(_compare_all(gallery.in_reading_order(sample), gallery, workers), 1):
        if isinstance(result, Inspected):
            inspected.append(result)
        else:
            left_out[result.reason] += 1
        if on_inspected is not None:
            on_inspected(number, len(sample))
    worst = _select_worst(inspected, show)
    taken = {id(chosen.inspected) for chosen in worst}
    rest = [each for each in inspected if id(each) not in taken]
    some = chance.sample(rest, min(show, len(rest)))
    some.sort(key=lambda each: each.row["id"])
    return Selection(
        worst=tuple(worst),
        random=tuple(Selected(each, ()) for each in some),
        looked_at=len(inspected),
        by_gate=by_gate,
        done=len(rows),
        left_out=dict(left_out),
    )


def _compare_all(rows: Sequence[Row], gallery: Gallery, workers: int) -> Iterator[Inspected | PageError]:
    """Read pages one after another and compare them in threads. Only a few are in memory at once."""
    waiting: deque[Future[Inspected | PageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for row, data in _bytes_of(rows, gallery):
            waiting.append(pool.submit(_compare, row, data))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _bytes_of(rows: Sequence[Row], gallery: Gallery) -> Iterator[tuple[Row, tuple[bytes, bytes] | PageError]]:
    for row in rows:
        try:
            yield row, gallery.read(row)
        except PageError as error:
            yield row, error


def _compare(row: Row, data: tuple[bytes, bytes] | PageError) -> Inspected | PageError:
    if isinstance(data, PageError):
        return data
    try:
        return _by_likeness(row, likeness(*decode_both(row, data)))
    except PageError as error:
        return error


def _by_likeness(row: Row, result: Likeness) -> Inspected:
    marks = {"lowest PSNR": result.psnr, "largest shift": -result.largest_shift}
    if result.ssim is not None:
        marks = {"lowest SSIM": result.ssim, **marks}
    return Inspected(row, marks, result)


def _by_gate(row: Row) -> Inspected | None:
    """Return a page with its scores from the ledger; None if it has no usable scores."""
    scores = recorded_numbers(row.get("scores"))
    try:
        marks = {
            "lowest SSIM": scores["ssim"],
            "lowest PSNR": scores["psnr"],
            "largest shift": -(abs(scores["brightness"]) + abs(scores["tint"])),
            "worst part": -scores["worst_block"],
        }
    except KeyError:
        return None
    return Inspected(row, marks, None)


def _select_worst(inspected: Sequence[Inspected], count: int) -> list[Selected]:
    """Choose suspect pages and then others, the worst of each."""
    suspects = _take_in_turn([each for each in inspected if each.is_suspect], count)
    rest = _take_in_turn([each for each in inspected if not each.is_suspect], count - len(suspects))
    reported = [
        Selected(each.inspected, (f"suspect: {each.inspected.row['suspect']}", *each.reasons))
        for each in suspects
    ]
    return [*reported, *rest]


def _rank(inspected: Sequence[Inspected]) -> list[tuple[str, list[Inspected]]]:
    """Return the rankings with their names, separately for pages compared here and pages scored by the gate."""
    orders = []
    for here in (True, False):
        group = [each for each in inspected if (each.likeness is not None) is here]
        for name in dict.fromkeys(name for each in group for name in each.marks):
            standing = [each for each in group if name in each.marks]
            orders.append((name, sorted(standing, key=lambda each: each.marks[name])))
    return orders


def _take_in_turn(inspected: Sequence[Inspected], count: int) -> list[Selected]:
    """Choose pages in turn from the top of all rankings, with the rankings that they lead."""
    orders = _rank(inspected)
    chosen: dict[int, tuple[Inspected, list[str]]] = {}
    for place in range(len(inspected) if count > 0 else 0):
        for reason, order in orders:
            if place >= len(order) or (len(chosen) >= count and id(order[place]) not in chosen):
                continue
            what = reason if place == 0 else f"{reason}, place {place + 1}"
            chosen.setdefault(id(order[place]), (order[place], []))[1].append(what)
        if len(chosen) >= count and place >= count:
            break
    return [Selected(each, tuple(reasons)) for each, reasons in chosen.values()]
