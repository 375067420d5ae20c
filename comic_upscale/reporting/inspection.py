"""Looking at the pages of a job again: which of them, how like their sources they are, and which stand out.

Pages that the gate has looked at have their scores in the ledger, so that none of their files is opened for
choosing; others are compared here. The two are ranked apart, since the gate compares at half the size.
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
"""A page that is done, by the columns of the ledger, as `read_done_pages` gives it."""

OnLooked: TypeAlias = Callable[[int, int], None]
"""Told how many pages were looked at, and of how many."""

MOST_OUTPUT_PIXELS = 400_000_000
"""An output of more pixels is not opened again."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A page that was compared with its source, here or by the gate."""

    row: Row
    marks: Mapping[str, float]
    """What it may be the worst by, in words, and how it stands there: the least is the worst."""
    likeness: Likeness | None
    """As compared here; None for a page that the gate has scored."""

    @property
    def is_suspect(self) -> bool:
        """Whether the gate has asked for a look."""
        return bool(self.row.get("suspect"))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A page to be shown."""

    looked: Looked
    reasons: tuple[str, ...]
    """Why this one, in words: what it is the worst by; empty for one taken at random."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The pages of a job that are worth showing."""

    worst: tuple[Chosen, ...]
    """The least like their sources, the worst first."""
    random: tuple[Chosen, ...]
    """Taken at random, in the order of the job; none of the worst among them."""
    looked_at: int
    """Pages that were compared, by the gate or for this."""
    by_gate: int
    """Of these, the pages whose scores stood in the ledger."""
    done: int
    """Pages of the job that are done."""
    left_out: dict[str, int]
    """Pages that could not be compared: how many for each reason."""


class Gallery:
    """The pages of a job as pixels, source and output; open while in use.

    Args:
        sources: of the job.
        outputs: of the job.
    """

    def __init__(self, sources: Sources, outputs: Outputs) -> None:
        self._sources = sources
        self._outputs = outputs

    def read(self, row: Row) -> tuple[bytes, bytes]:
        """The bytes of the source and of the output of a page.

        Raises:
            PageError: one of them is gone, or the source is another by now.
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
        decode(source, max_pixels=max(int(row["width"]) * int(row["height"]), 1)),
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
    on_looked: OnLooked | None = None,
) -> Choice:
    """Choose the worst pages and some at random, by the ledger's scores, or by comparing a sample of those without.

    Suspect pages come first. The worst are taken in turn by several orders, the lowest SSIM, the lowest PSNR, the
    largest shift of a channel and, where the gate has looked, the worst part, since each sees faults that the
    others miss.

    Args:
        rows: the pages that are done.
        gallery: to read them from.
        look_at: pages without scores that are compared; of more, a sample.
        show: pages of each kind to choose.
        seed: the same gives the same sample.
        workers: threads that compare.
        on_looked: told of each page.
    """
    chance = random.Random(seed)
    looked = [known for row in rows if (known := _by_gate(row)) is not None]
    by_gate = len(looked)
    scored = {each.row["id"] for each in looked}
    others = [row for row in rows if row["id"] not in scored]
    sample = others if len(others) <= look_at else chance.sample(others, look_at)
    left_out: Counter[str] = Counter()
    for number, found in enumerate(_compared(gallery.in_reading_order(sample), gallery, workers), 1):
        if isinstance(found, Looked):
            looked.append(found)
        else:
            left_out[found.reason] += 1
        if on_looked is not None:
            on_looked(number, len(sample))
    worst = _worst(looked, show)
    taken = {id(chosen.looked) for chosen in worst}
    rest = [each for each in looked if id(each) not in taken]
    some = chance.sample(rest, min(show, len(rest)))
    some.sort(key=lambda each: each.row["id"])
    return Choice(
        worst=tuple(worst),
        random=tuple(Chosen(each, ()) for each in some),
        looked_at=len(looked),
        by_gate=by_gate,
        done=len(rows),
        left_out=dict(left_out),
    )


def _compared(rows: Sequence[Row], gallery: Gallery, workers: int) -> Iterator[Looked | PageError]:
    """Read pages one after another and compare them in threads; a few are in memory at once."""
    waiting: deque[Future[Looked | PageError]] = deque()
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


def _compare(row: Row, data: tuple[bytes, bytes] | PageError) -> Looked | PageError:
    if isinstance(data, PageError):
        return data
    try:
        return _by_likeness(row, likeness(*decode_both(row, data)))
    except PageError as error:
        return error


def _by_likeness(row: Row, found: Likeness) -> Looked:
    marks = {"lowest PSNR": found.psnr, "largest shift": -found.largest_shift}
    if found.ssim is not None:
        marks = {"lowest SSIM": found.ssim, **marks}
    return Looked(row, marks, found)


def _by_gate(row: Row) -> Looked | None:
    """Return a page by the scores that the ledger has of it; None where it has none that can be used."""
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
    return Looked(row, marks, None)


def _worst(looked: Sequence[Looked], count: int) -> list[Chosen]:
    """Take suspect pages, and then others, each the worst of them."""
    suspects = _in_turn([each for each in looked if each.is_suspect], count)
    rest = _in_turn([each for each in looked if not each.is_suspect], count - len(suspects))
    said = [
        Chosen(each.looked, (f"suspect: {each.looked.row['suspect']}", *each.reasons)) for each in suspects
    ]
    return [*said, *rest]


def _orders(looked: Sequence[Looked]) -> list[tuple[str, list[Looked]]]:
    """Return the orders that pages stand in, each with its name; those compared here apart from the gate's."""
    orders = []
    for here in (True, False):
        group = [each for each in looked if (each.likeness is not None) is here]
        for name in dict.fromkeys(name for each in group for name in each.marks):
            standing = [each for each in group if name in each.marks]
            orders.append((name, sorted(standing, key=lambda each: each.marks[name])))
    return orders


def _in_turn(looked: Sequence[Looked], count: int) -> list[Chosen]:
    """Take pages in turn from the ends of all orders, and say which ends they were at."""
    orders = _orders(looked)
    chosen: dict[int, tuple[Looked, list[str]]] = {}
    for place in range(len(looked) if count > 0 else 0):
        for reason, order in orders:
            if place >= len(order) or (len(chosen) >= count and id(order[place]) not in chosen):
                continue
            what = reason if place == 0 else f"{reason}, place {place + 1}"
            chosen.setdefault(id(order[place]), (order[place], []))[1].append(what)
        if len(chosen) >= count and place >= count:
            break
    return [Chosen(each, tuple(reasons)) for each, reasons in chosen.values()]
