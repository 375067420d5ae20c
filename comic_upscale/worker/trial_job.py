"""Running a trial: one page by each of several models, each exactly as a job with that model would do it.

Each model also restores a shrunken copy of the page, as ``evaluate`` does, so that its result can be measured against
the page itself.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comic_upscale.engines.base import Engine
from comic_upscale.engines.registry import OpenEngines
from comic_upscale.errors import ComicUpscaleError, DatabaseError, DeviceError, PageError
from comic_upscale.execution.events import Event, JobFinished, JobStarted
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.models.weights import resolve_weights
from comic_upscale.planning.model_selection import network_of
from comic_upscale.server.files import FileStore, StoredFile, store_file
from comic_upscale.server.pictures import DATA, LIST, PagePictures, Place, to_json
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import default_ledger
from comic_upscale.worker.pictures import Blob, make_pictures

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

Run = Callable[[JobSettings, Callable[[Event], None], StopRequest], JobFinished]
"""Runs a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a model made of the page."""

    model: str
    note: str
    """Its time and scores, for people."""
    output: Path
    """The output folder of its run, with a ledger."""
    device: str
    pixels: int
    """Of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Untried:
    """A model that made nothing of the page."""

    model: str
    kind: str
    reason: str
    device: str = ""

    def as_failure(self) -> dict[str, str]:
        """Return it as a job lists failures."""
        return {"source": self.model, "kind": self.kind, "reason": self.reason}


def run_model(model: str, settings: JobSettings, run: Run, stop: StopRequest) -> Tried | Untried | None:
    """Upscale the page by one model; None if the run was stopped.

    Args:
        model: its name, for people.
        settings: of the run, with this model and an output folder of its own.
        run: runs a job.
        stop: stops it.

    Raises:
        DeviceError, DatabaseError: nothing else can be tried now.
    """
    started: list[JobStarted] = []

    def listen(event: Event) -> None:
        if isinstance(event, JobStarted):
            started.append(event)

    try:
        finished = run(settings, listen, stop)
    except (DeviceError, DatabaseError):
        raise
    except ComicUpscaleError as error:
        return Untried(
            model=model, kind=type(error).__name__.removesuffix("Error").lower(), reason=str(error)
        )
    if finished.state != "finished":
        return None
    if not finished.done:
        kind, reason = finished.failures[0][1:] if finished.failures else ("no_page", "No page was upscaled.")
        return Untried(model=model, kind=kind, reason=reason)
    _, rows = read_done_pages(default_ledger(settings.output))
    device = started[0].device or "" if started else ""
    (row,) = rows
    seconds = row["upscale_seconds"]
    note = "" if seconds is None else f"{seconds:.2g} s{f' on {device}' if device else ''}"
    pixels = row["output_width"] * row["output_height"]
    return Tried(model=model, note=note, output=settings.output, device=device, pixels=pixels)


def with_score(tried: Tried, settings: JobSettings, opener: OpenEngines) -> Tried:
    """Return the result of a model with its scores in the note.

    Args:
        tried: the result.
        settings: of its run.
        opener: opens its engine again.
    """
    score = score_model(settings, lambda: _open(settings, opener))
    return replace(tried, note=", ".join(part for part in (tried.note, score) if part))


@contextmanager
def _open(settings: JobSettings, opener: OpenEngines) -> Iterator[Engine]:
    weights = resolve_weights(
        network_of(settings.model, settings),
        denoise=settings.denoise,
        folders=settings.weights_folders,
        cache=settings.weights_cache or Path(),
        download=False,
    )
    engines = opener(settings, weights)
    try:
        yield engines[0]
    finally:
        for engine in engines:
            engine.close()


def score_model(settings: JobSettings, opened: Callable[[], AbstractContextManager[Any]]) -> str:
    """Return how well a model restores a shrunken copy of the page, for people; empty if it cannot be measured.

    Args:
        settings: of the run of the page.
        opened: opens the engine, for a ``with`` block.
    """
    try:
        from comic_upscale.evaluation.metrics import Metrics
        from comic_upscale.evaluation.pairs import Pictures
        from comic_upscale.evaluation.trial import LANCZOS, Candidate, run_trial

        @contextmanager
        def restoring() -> Iterator[Callable[[Image.Image, float], Image.Image]]:
            with opened() as engine:
                yield lambda image, factor: _restore(engine, image, factor)

        with closing(Pictures(settings.input, max_pixels=settings.max_pixels)) as pictures:
            trial = run_trial(
                pictures, [Candidate("model", restoring)], Metrics(), scale=2.0, quality=None, sample=1
            )
    except ImportError:
        return ""
    except (DeviceError, DatabaseError):
        raise
    except ComicUpscaleError as error:
        log.info("no scores: %s", error)
        return ""
    means = {standing.name: standing.mean("ssim") for standing in trial.standings}
    return f"SSIM {means['model']:.3f} (plain resampling {means[LANCZOS]:.3f})"


def _restore(engine: Any, image: Image.Image, factor: float) -> Image.Image:
    from comic_upscale.engines.pages import finish, prepare, upscale_pages
    from comic_upscale.evaluation.picture import as_image, as_pixels, flatten

    page = as_pixels(image)
    size = round(page.width * factor), round(page.height * factor)
    (result,) = upscale_pages(engine, [prepare(page)], size)
    if isinstance(result, PageError):
        raise result
    restored = as_image(flatten(finish(result), 255))
    return restored if restored.mode == image.mode else restored.convert(image.mode)


def make_pages(tried: Sequence[Tried], blob: Blob, *, first: int | None = None) -> list[PagePictures]:
    """Make the pictures of the page by each model.

    Args:
        tried: the models.
        blob: takes the bytes.
        first: the position of the first one among the results, so that results are not stored twice; None if they
            are no results yet.
    """
    pages = []
    for number, each in enumerate(tried):
        ledger = default_ledger(each.output)
        job, rows = read_done_pages(ledger)
        stores = job_stores(ledger, job, each.output)
        after = Outputs(stores.outputs).read(rows[0])
        place = None if first is None else Place(first + number, 0, len(after), "")
        with closing(Sources(job, stores.sources)) as sources:
            page = make_pictures(each.model, after, rows[0], sources, blob, place=place)
        pages.append(replace(page, name=each.model, note=each.note))
    return pages


def store_trial(
    store: FileStore, job_id: str, fence: int, tried: Sequence[Tried]
) -> tuple[list[tuple[str, StoredFile]], list[tuple[str, StoredFile]]]:
    """Store the results of a trial, and return (name, file) of each, and (kind, file) of their pictures.

    Raises:
        OutputError: the storage cannot be written. What was stored is deleted.
    """
    results: list[tuple[str, StoredFile]] = []
    pictures: list[tuple[str, StoredFile]] = []
    try:
        for number, each in enumerate(tried):
            _, rows = read_done_pages(default_ledger(each.output))
            path = each.output / rows[0]["output"]
            with path.open("rb") as content:
                file = store_file(store, f"results/{job_id}/{fence}-{number}", content)
            results.append((f"{path.stem} {each.model}{path.suffix}", file))
        key = f"pictures/{job_id}/{fence}"
        with store.create(f"{key}-data") as writer:
            pages = make_pages(tried, Blob(writer), first=0)
            pictures.append((DATA, writer.commit()))
        pictures.append((LIST, store_file(store, f"{key}-list", io.BytesIO(to_json(pages)))))
    except BaseException:
        for _, file in (*results, *pictures):
            store.delete(file.key)
        raise
    return results, pictures
