"""Which model for my comics: pages of one's own shrunk, restored by each model, and compared with themselves."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from comic_upscale.errors import InputError, PageError, SettingsError
from comic_upscale.evaluation.flat import FlatGround, flat_ground
from comic_upscale.evaluation.metrics import Metrics, Scores
from comic_upscale.evaluation.pairs import Pictures
from comic_upscale.evaluation.picture import WHITE, as_image, as_pixels, busiest_region, detail, flatten
from comic_upscale.evaluation.sheet import row_of
from comic_upscale.evaluation.shrunk import (
    Track,
    crop_middle,
    shrink_original,
    spread,
    without_needless_color,
)
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.settings.sizes import choose_size

if TYPE_CHECKING:
    from comic_upscale.engines.upscaler import Upscaler

LANCZOS = "Lanczos"
"""No network at all: what every model must be better than."""

CROP = (640, 960)
"""Width and height of the piece of a page that is used."""

SMALLEST = 160
"""Pixels of the shorter side of a page that is used; below, nothing would be left after shrinking."""

DETAIL = 200
"""Side in pixels of the piece that a sheet shows, at 200 %."""

ROWS = 8
"""Pages on a sheet."""

Restore = Callable[[Image.Image, float], Image.Image]
"""Takes an image of mode L or RGB and a factor, and gives the image so many times as large."""

OnTurn = Callable[[str, int, int], None]
"""Told whose turn it was, how many turns are over, and of how many."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that takes part, not opened yet."""

    name: str
    open: Callable[[], AbstractContextManager[Restore]]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one model made of one page, shrunk in one way."""

    page: str
    track: str
    seconds: float
    """Of restoring, without reading and scoring."""
    pixels: int
    """Of the shrunk page, which the model got."""
    scores: Scores
    flat: FlatGround


@dataclass(slots=True)
class Standing:
    """All turns of a model."""

    name: str
    turns: list[Turn] = field(default_factory=list)

    def mean(self, score: str, track: str | None = None) -> float | None:
        """The mean of a score of `Scores` over the turns, of one track or of all; None where there is none."""
        values = [
            value
            for turn in self.turns
            if track in (None, turn.track) and (value := getattr(turn.scores, score)) is not None
        ]
        return statistics.fmean(values) if values else None

    def kept(self, color: str, track: str | None = None) -> float | None:
        """The share of flat ``white`` or ``black`` ground that stayed so; None where there is no such ground."""
        grounds = [turn.flat for turn in self.turns if track in (None, turn.track)]
        there = sum(getattr(ground, color) for ground in grounds)
        kept = sum(getattr(ground, f"{color}_kept") for ground in grounds)
        return kept / there if there else None

    def seconds(self, pixels: float) -> float:
        """About how many seconds a page of so many pixels takes: the median of the rates of the turns."""
        return pixels * statistics.median(turn.seconds / turn.pixels for turn in self.turns)


@dataclass(slots=True)
class Trial:
    """What came of a trial."""

    scale: float
    tracks: tuple[str, ...]
    standings: list[Standing]
    """In the order in which the models were named, `LANCZOS` first."""
    pages: list[str]
    """The pages that were used."""
    page_pixels: float
    """Mean pixels of whole pages, as they are in the input: what a page means in seconds a page."""
    left_out: dict[str, str]
    """Pages that were not used, and why."""
    rows: list[Image.Image] = field(default_factory=list)
    """For a sheet: a piece of a page, the original and what each model made of it on the last track."""


def run_trial(
    pictures: Pictures,
    entrants: Sequence[Candidate],
    metrics: Metrics,
    *,
    scale: float,
    quality: int | None,
    sample: int | None,
    on_turn: OnTurn | None = None,
) -> Trial:
    """Shrink pages, let every model restore them, in turns, and score what comes out.

    Of each page the middle of at most 640 x 960 is used, cut so that it shrinks to whole pixels nearly, and
    laid on white. The models take turns on each page, in an order that moves on from page to page, so that
    a machine that is busy for a while is so for all of them.

    Args:
        pictures: one's own pages.
        entrants: the models; plain Lanczos always takes part.
        metrics: to score by.
        scale: how many times the pages are shrunk and enlarged, above 1 and up to 8.
        quality: of the JPEG that the shrunk pages go through in a second track; None for the clean track alone.
        sample: pages to use, evenly spread; None for all.
        on_turn: told of each turn.

    Raises:
        SettingsError: a number out of its range.
        InputError: no page could be used.
        WeightsError, DeviceError: a model cannot be opened.
    """
    _check(scale, quality, sample)
    tracks = [Track("clean", scale, None)]
    if quality is not None:
        tracks.append(Track(f"jpeg{quality}", scale, quality))
    trial = Trial(scale, tuple(track.name for track in tracks), [], [], 0.0, {})
    with ExitStack() as stack:
        opened: list[tuple[Standing, Restore]] = [(Standing(LANCZOS), lanczos)]
        for entrant in entrants:
            restore = stack.enter_context(entrant.open())
            # The first call of a network prepares it.
            restore(Image.new("RGB", (64, 96), "gray"), scale)
            opened.append((Standing(entrant.name), restore))
        trial.standings = [standing for standing, _ in opened]
        turns = deque(opened)
        pages = spread(pictures.pages, sample)
        total, done, sizes = len(pages) * len(tracks) * len(opened), 0, []
        shown_pages = set(spread(range(len(pages)), ROWS))
        for place, page in enumerate(pages):
            try:
                whole = pictures.open(page)
                original = usable_piece(whole, scale)
            except PageError as error:
                trial.left_out[page.source] = error.reason
                total -= len(tracks) * len(opened)
                continue
            trial.pages.append(page.source)
            sizes.append(whole.width * whole.height)
            last: dict[str, Image.Image] = {}
            for track in tracks:
                small = shrink_original(original, track)
                for standing, restore in turns:
                    output, turn = _take_turn(page.source, track, small, original, restore, metrics)
                    standing.turns.append(turn)
                    done += 1
                    last[standing.name] = output
                    if on_turn is not None:
                        on_turn(standing.name, done, total)
            if place in shown_pages:
                outputs = [(standing.name, last[standing.name]) for standing, _ in opened]
                trial.rows.append(_row(page.source, original, outputs))
            turns.rotate(-1)
    if not trial.pages:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(trial.left_out.items())[:3])
        raise InputError(f"no page could be used: {reasons}")
    trial.page_pixels = statistics.fmean(sizes)
    return trial


def usable_piece(page: Pixels, scale: float) -> Image.Image:
    """Return the middle of a page as mode L (where it has no colour) or RGB, transparency laid on white.

    Its sides are such that they shrink and grow back to themselves.

    Raises:
        PageError: ``"too-small"``.
    """
    if min(page.width, page.height) < SMALLEST:
        raise PageError(
            "too-small",
            f"The page is {page.width} x {page.height}; each side needs at least {SMALLEST} pixels.",
        )
    width, height = (
        _fitting(min(limit, side), scale) for limit, side in zip(CROP, (page.width, page.height), strict=True)
    )
    image = as_image(flatten(page, WHITE))
    cut = crop_middle(image, width, height)
    return without_needless_color(cut) if cut.mode == "RGB" else cut


def _fitting(side: int, scale: float) -> int:
    """The longest side, at most so long, that is the scale times a whole number, rounded as pages are."""
    return round(int(side / scale) * scale)


def lanczos(image: Image.Image, factor: float) -> Image.Image:
    """Return the image enlarged by Pillow's Lanczos."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def network_entrant(model: str, *, device: str, folders: Sequence[Path], cache: Path | None) -> Candidate:
    """Return a model of the catalogue, or a file of weights, as an entrant.

    Args:
        model: its name or its file.
        device: to compute on.
        folders: to look for weights in.
        cache: where downloaded weights are kept; None: nothing is downloaded.
    """
    from comic_upscale.engines.upscaler import Upscaler

    def open_it() -> AbstractContextManager[Restore]:
        return _open_network(
            lambda: Upscaler(model, device=device, weights_folders=folders, weights_cache=cache)
        )

    return Candidate(model if model in CATALOGUE else Path(model).stem, open_it)


@contextmanager
def _open_network(load: Callable[[], Upscaler]) -> Iterator[Restore]:
    with load() as upscaler:
        yield upscaler.upscale


def _take_turn(
    page: str, track: Track, small: Image.Image, original: Image.Image, restore: Restore, metrics: Metrics
) -> tuple[Image.Image, Turn]:
    start = time.perf_counter()
    output = restore(small, track.factor)
    seconds = time.perf_counter() - start
    scores = metrics.score(as_pixels(output), as_pixels(original))
    turn = Turn(page, track.name, seconds, small.width * small.height, scores, flat_ground(small, output))
    return output, turn


def _row(page: str, original: Image.Image, outputs: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Put the piece of a page with the most detail side by side, at 200 %."""
    box = busiest_region(detail(as_pixels(original).color), (DETAIL, DETAIL))
    size = (2 * (box[2] - box[0]), 2 * (box[3] - box[1]))
    pictures = [(page, original), *outputs]
    return row_of(
        [(label, image.crop(box).resize(size, Image.Resampling.NEAREST)) for label, image in pictures]
    )


def _check(scale: float, quality: int | None, sample: int | None) -> None:
    choose_size(scale=scale)  # which says what is wrong with a scale
    if quality is not None and not 1 <= quality <= 100:
        raise SettingsError(f"--jpeg must be a quality from 1 to 100, not {quality}")
    if sample is not None and sample < 1:
        raise SettingsError(f"--sample must be at least 1, not {sample}")
