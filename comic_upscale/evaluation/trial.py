"""Find the best model for the user's comics: shrink pages, restore them with each model, compare with the original."""

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
    Sample,
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
"""Plain resampling, which every model must beat."""

CROP = (640, 960)
"""Width and height of the crop of a page that is used."""

SMALLEST = 160
"""Shortest side of a page in pixels. A smaller page would have too little left after shrinking."""

DETAIL = 200
"""Side in pixels of the crop in a sheet, shown at 200 %."""

ROWS = 8
"""Pages on a sheet."""

Restore = Callable[[Image.Image, float], Image.Image]
"""Takes an image of mode L or RGB and a factor, and returns the image enlarged by the factor."""

OnTurn = Callable[[str, int, int], None]
"""Called with the name of the model, the number of finished turns, and the total."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model in the trial, not opened yet."""

    name: str
    open: Callable[[], AbstractContextManager[Restore]]


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of one model for one page and track."""

    page: str
    track: str
    seconds: float
    """Seconds of restoring, without reading and scoring."""
    pixels: int
    """Pixels of the shrunk page."""
    scores: Scores
    flat: FlatGround


@dataclass(slots=True)
class Standing:
    """All turns of a model."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    pages_at_once: int = 1
    """How many pages a run restores at the same time, each in the seconds of a turn."""

    def mean(self, score: str, track: str | None = None) -> float | None:
        """Return the mean of a score in `Scores` over the turns, of one track or all; None if there is none."""
        values = [
            value
            for turn in self.turns
            if track in (None, turn.track) and (value := getattr(turn.scores, score)) is not None
        ]
        return statistics.fmean(values) if values else None

    def kept(self, color: str, track: str | None = None) -> float | None:
        """Return the share of flat ``white`` or ``black`` areas that stayed so; None without such areas."""
        grounds = [turn.flat for turn in self.turns if track in (None, turn.track)]
        there = sum(getattr(ground, color) for ground in grounds)
        kept = sum(getattr(ground, f"{color}_kept") for ground in grounds)
        return kept / there if there else None

    def seconds(self, pixels: float) -> float:
        """Return the approximate seconds for a page with this many pixels, from the median rate of the turns.

        It is the time by which one more page makes a run longer, which processes several at once.
        """
        rate = statistics.median(turn.seconds / turn.pixels for turn in self.turns)
        return pixels * rate / self.pages_at_once


@dataclass(slots=True)
class Trial:
    """The results of a trial."""

    scale: float
    tracks: tuple[str, ...]
    standings: list[Standing]
    """The models in the order given, `LANCZOS` first."""
    pages: list[str]
    """The pages that were used."""
    page_pixels: float
    """Mean pixels of whole pages in the input, on which seconds per page are based."""
    left_out: dict[str, str]
    """Pages that were not used, and why."""
    rows: list[Image.Image] = field(default_factory=list)
    """Rows of a sheet: crops of a page, of the original and of each model's output on the last track."""


def run_trial(
    pictures: Pictures,
    candidates: Sequence[Candidate],
    metrics: Metrics,
    *,
    scale: float,
    quality: int | None,
    sample: int | None,
    on_turn: OnTurn | None = None,
) -> Trial:
    """Shrink pages, restore them with every model in turn, and score the results.

    The centre of each page is used, at most 640 x 960, with sides that shrink to nearly whole pixels, flattened onto
    white. The models take turns on each page, in an order that rotates from page to page. So if the machine is busy for
    a while, that affects all models equally.

    Args:
        pictures: the user's pages.
        candidates: the models; plain Lanczos always takes part.
        metrics: computes the scores.
        scale: factor by which pages are shrunk and enlarged, above 1 and up to 8.
        quality: JPEG quality of a second track; None for the clean track alone.
        sample: number of pages to use, evenly spread; None for all. A page that cannot be used is replaced by another.
        on_turn: called for each turn.

    Raises:
        SettingsError: a number is out of range.
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
        for candidate in candidates:
            restore = stack.enter_context(candidate.open())
            # The first call prepares the network.
            restore(Image.new("RGB", (64, 96), "gray"), scale)
            at_once = getattr(restore, "pages_at_once", 1)
            opened.append((Standing(candidate.name, pages_at_once=at_once), restore))
        trial.standings = [standing for standing, _ in opened]
        turns = deque(opened)
        pages = Sample(pictures.pages, sample)
        total, done, sizes = len(pages) * len(tracks) * len(opened), 0, []
        shown_pages = set(spread(range(len(pages)), ROWS))
        while pages:
            page = pages.take()
            try:
                whole = pictures.open(page)
                original = usable_piece(whole, scale)
            except PageError as error:
                trial.left_out[page.source] = error.reason
                if not pages.replace():
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
            if len(trial.pages) - 1 in shown_pages:
                outputs = [(standing.name, last[standing.name]) for standing, _ in opened]
                trial.rows.append(_row(page.source, original, outputs))
            turns.rotate(-1)
    if not trial.pages:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(trial.left_out.items())[:3])
        raise InputError(f"no page could be used: {reasons}")
    trial.page_pixels = statistics.fmean(sizes)
    return trial


def usable_piece(page: Pixels, scale: float) -> Image.Image:
    """Return the centre of a page as mode L (without colour) or RGB, with transparency flattened onto white.

    Shrinking and enlarging returns its exact size.

    Raises:
        PageError: ``"too-small"``.
    """
    if min(page.width, page.height) < SMALLEST:
        raise PageError(
            "too-small",
            f"The page is {page.width} x {page.height}; each side needs at least {SMALLEST} pixels",
        )
    width, height = (
        _fitting(min(limit, side), scale) for limit, side in zip(CROP, (page.width, page.height), strict=True)
    )
    image = as_image(flatten(page, WHITE))
    cut = crop_middle(image, width, height)
    return without_needless_color(cut) if cut.mode == "RGB" else cut


def _fitting(side: int, scale: float) -> int:
    """Return the longest side up to ``side`` that is a multiple of the scale, rounded as pages are."""
    return round(int(side / scale) * scale)


def lanczos(image: Image.Image, factor: float) -> Image.Image:
    """Return the image enlarged with Pillow's Lanczos."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def network_candidate(model: str, *, device: str, folders: Sequence[Path], cache: Path | None) -> Candidate:
    """Return a model from the catalogue, or a file of weights, as a candidate.

    Args:
        model: its name or its file.
        device: the device.
        folders: folders to search for weights.
        cache: folder for downloaded weights; None to download nothing.
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
        yield _Network(upscaler)


class _Network:
    """Restores as a run does: several pages at the same time, each with its part of the cores."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler
        self.pages_at_once = upscaler.pages_at_once

    def __call__(self, image: Image.Image, factor: float) -> Image.Image:
        import torch

        from comic_upscale.engines.torch.cores import all_threads

        if self.pages_at_once == 1:
            return self._upscaler.upscale(image, factor)
        # Not what torch says: another page may have its part now, and this thread may have begun meanwhile.
        threads = all_threads()
        torch.set_num_threads(max(1, threads // self.pages_at_once))
        try:
            return self._upscaler.upscale(image, factor)
        finally:
            torch.set_num_threads(threads)


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
    """Put the crops of a page with the most detail side by side, at 200 %."""
    box = busiest_region(detail(as_pixels(original).color), (DETAIL, DETAIL))
    size = (2 * (box[2] - box[0]), 2 * (box[3] - box[1]))
    pictures = [(page, original), *outputs]
    return row_of(
        [(label, image.crop(box).resize(size, Image.Resampling.NEAREST)) for label, image in pictures]
    )


def _check(scale: float, quality: int | None, sample: int | None) -> None:
    choose_size(scale=scale)  # raises the error for an invalid scale
    if scale == 1:
        raise SettingsError("--scale must be above 1: pages are shrunk by it, and models enlarge them again")
    if quality is not None and not 1 <= quality <= 100:
        raise SettingsError(f"--jpeg must be a quality from 1 to 100, not {quality}")
    if sample is not None and sample < 1:
        raise SettingsError(f"--sample must be at least 1, not {sample}")
