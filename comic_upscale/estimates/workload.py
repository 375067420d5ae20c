"""The workload of an input: count its pixels, and measure some of its pages on this machine."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath

from comic_upscale.costs.ranges import Range, total
from comic_upscale.costs.rates import Measured
from comic_upscale.costs.workload import Workload, spread_sample
from comic_upscale.engines.base import DeviceInfo, Engine
from comic_upscale.engines.registry import OpenEngines, identify, open_engines
from comic_upscale.errors import InputError, PageError
from comic_upscale.estimates.assumed import ASSUMED_BYTES
from comic_upscale.estimates.history import count_places, encoding_of, hardware_name, processor_name
from comic_upscale.execution.events import Event, JobStarted, Listener
from comic_upscale.imaging.codecs import find_assumed
from comic_upscale.imaging.target_size import needs_network
from comic_upscale.jobs.begin import versions
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.library.page import Page
from comic_upscale.library.page_rules import PageRules, PageTraits
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.default_model import assumed_native_scale, is_auto
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.preview import PagePreview, Preview
from comic_upscale.settings.job import JobSettings

LEAST_DOUBT = 0.075
"""The smallest relative error: half the difference between two runs over equal pages on a machine with other work."""

_MEASURED_BYTES = 0.1


def count_workload(preview: Preview, settings: JobSettings, pilot: Measured | None = None) -> Workload:
    """Count the work of a run from the headers of its pages.

    Args:
        preview: preview of the job.
        settings: settings of the job.
        pilot: measurement with pages of this input, for the bytes of an output.
    """
    todo = [page for page in preview.pages if page.action == "do" and page.size and page.target_size]
    rules = PageRules(settings)
    own = {page.source: _own_settings(page, rules) for page in todo} if settings.rules else {}
    through = [
        page
        for page in todo
        if page.size
        and page.target_size
        and needs_network(page.size, page.target_size, assumed_native_scale(own.get(page.source, settings)))
    ]
    by_rules: Counter[str] = Counter()
    for page in through:
        model = own.get(page.source, settings).model
        if model != settings.model:
            width, height = page.size or (0, 0)
            by_rules[model] += settings.network_passes * width * height
    output_pixels = sum(width * height for width, height in (page.target_size or (0, 0) for page in todo))
    estimated = float(sum(page.estimated_bytes or 0 for page in todo))
    if preview.bytes_per_pixel is not None:
        sizes = Range.around(estimated, _MEASURED_BYTES)
        basis = f"{preview.bytes_per_pixel:.2f} bytes a pixel, measured by this job"
    else:
        sizes = ASSUMED_BYTES * estimated
        basis = "bytes a pixel, the average of six real pages (single pages: two thirds to four thirds of it)"
    if pilot is not None and pilot.output_pixels:
        each = pilot.output_bytes / pilot.output_pixels
        sizes = _narrow(sizes, output_pixels * each, max(2 * pilot.bytes_doubt, _MEASURED_BYTES))
        basis = f"{each:.2f} bytes a pixel, measured on {pilot.pages} of these pages"
    return Workload(
        pages=len(todo),
        network_pixels=settings.network_passes
        * sum(width * height for width, height in (page.size or (0, 0) for page in through)),
        output_pixels=output_pixels,
        upload_bytes=sum(page.source_bytes for page in todo),
        download_bytes=sizes,
        download_basis=basis,
        encode_seconds=_encode_seconds(todo, output_pixels),
        format=encoding_of(settings.format, settings.quality),
        by_rules=by_rules,
    )


def _narrow(known: Range, measured: float, doubt: float) -> Range:
    """Return the bytes that a pilot measured, within what is known without it.

    Two pages say little of the others, so the doubt of a small pilot is no larger than that of any pages. Where the
    pilot contradicts what is known, its pages count.
    """
    found = Range.around(measured, min(doubt, ASSUMED_BYTES.high - 1))
    low, high = max(found.low, known.low), min(found.high, known.high)
    return found if low > high else Range(low, min(max(measured, low), high), high)


def _own_settings(page: PagePreview, rules: PageRules) -> JobSettings:
    """Return the settings of a page by what its header tells. Rules that ask for the quality of a JPEG are left out."""
    traits = PageTraits(
        source=page.source, size=page.size or (0, 0), gray=page.color == "gray", jpeg_quality=None
    )
    return rules.settings_for(rules.matches(traits))


def _encode_seconds(pages: Sequence[PagePreview], output_pixels: int) -> Range:
    """Return the assumed CPU seconds for a megapixel of output, the mean over the pages' formats."""
    if not output_pixels:
        return Range.exactly(0.0)
    pixels: Counter[str] = Counter()
    for page in pages:
        width, height = page.target_size or (0, 0)
        pixels[page.encoding or ""] += width * height
    assumed = ((find_assumed(encoding), count) for encoding, count in pixels.items())
    shares = (each.seconds * (count / output_pixels) for each, count in assumed if each is not None)
    return total(shares).rounded(6)


def run_pilot(
    preview: Preview,
    settings: JobSettings,
    count: int,
    *,
    started_in: float = 0.0,
    on_event: Listener | None = None,
    open_engines: OpenEngines = open_engines,
) -> Measured:
    """Upscale some pages of an input on this machine, of different sizes, and return the measurement.

    The outputs are written as in a run, into a temporary folder, and deleted.

    Args:
        preview: preview of the job.
        settings: settings of the job.
        count: number of pages.
        started_in: seconds that the program needed before this call, as in a run.
        on_event: called for each event.
        open_engines: as for `run_job`.

    Raises:
        InputError: no page is left, or none could be upscaled.
        WeightsError, DeviceError, OutputError: as in a run.
    """
    sizes = {
        page.source: page.size[0] * page.size[1]
        for page in preview.pages
        if page.action == "do"
        and page.size
        and page.target_size
        and needs_network(page.size, page.target_size, assumed_native_scale(settings))
    }
    sources = list(sizes)
    if not sources:
        raise InputError("no page is left for a pilot: all pages are done or already large enough")
    chosen = {sources[place] for place in spread_sample([sizes[source] for source in sources], count)}
    with tempfile.TemporaryDirectory(prefix="comic-upscale-pilot-") as folder:
        _gather(chosen, settings, Path(folder) / "in")
        trial = dataclasses.replace(
            settings,
            input=Path(folder) / "in",
            output=Path(folder) / "out",
            ledger=None,
            selection=None,
            price=None,
            max_cost=None,
            max_failures=None,
            copy_others=False,
        )
        measured = measure_run(
            trial,
            origin=f"pilot of {len(chosen)} page{'s' if len(chosen) != 1 else ''}",
            on_event=on_event,
            open_engines=open_engines,
        )
    return dataclasses.replace(measured, start_seconds=round(measured.start_seconds + started_in, 3))


def measure_run(
    settings: JobSettings,
    *,
    origin: str,
    on_event: Listener | None = None,
    open_engines: OpenEngines = open_engines,
) -> Measured:
    """Run a new job and return the measurement.

    Raises:
        InputError: no page could be upscaled.
    """
    started: list[JobStarted] = []
    started_at: list[float] = []
    done: list[PageDone] = []

    def note(event: Event) -> None:
        if isinstance(event, JobStarted):
            started.append(event)
            started_at.append(time.perf_counter())
        elif isinstance(event, PageDone) and "upscale" in event.seconds:
            done.append(event)
        if on_event is not None:
            on_event(event)

    devices: list[DeviceInfo] = []

    def opening(settings: JobSettings, weights: ResolvedWeights | None) -> list[Engine]:
        engines = open_engines(settings, weights)
        # Engines that share a device have equal device infos.
        devices[:] = dict.fromkeys(engine.info.device for engine in engines)
        return engines

    begin = time.perf_counter()
    finished = run_job(settings, on_event=note, open_engines=opening)
    if not done:
        why = f": {finished.failures[0][0]}: {finished.failures[0][2]}" if finished.failures else ""
        raise InputError(f"no page could be upscaled, so nothing was measured{why}")
    name, identity = _identify(settings, started[0].model)
    model = CATALOGUE.get(name)
    return Measured(
        hardware=hardware_name(devices, processor_name()),
        model=name,
        model_sha256=identity,
        precision=started[0].precision or "",
        origin=origin,
        date=_today(),
        pages=len(done),
        network_pixels=settings.network_passes * sum(page.width * page.height for page in done),
        output_pixels=sum(page.output_width * page.output_height for page in done),
        output_bytes=sum(page.output_size for page in done),
        format=encoding_of(settings.format, settings.quality),
        network_seconds=sum(page.seconds["upscale"] for page in done),
        host_seconds=sum(sum(page.seconds.values()) - page.seconds["upscale"] for page in done),
        whole_seconds=finished.seconds,
        devices=count_places(devices),
        workers=settings.workers,
        start_seconds=round(started_at[0] - begin, 3),
        once_seconds=round(_once(done), 3),
        doubt=doubt_of_ratio([(page.width * page.height, page.seconds["upscale"]) for page in done]),
        bytes_doubt=doubt_of_ratio(
            [(page.output_width * page.output_height, page.output_size) for page in done]
        ),
        tflop_per_page=None if model is None else model.tflop_per_page,
        versions=versions(),
    )


def _once(pages: Sequence[PageDone]) -> float:
    """Return the seconds that occur once in a run: filling the pipeline, the network's first page, draining it.

    Args:
        pages: pages in the order of their records, at least one.
    """
    first, last, others = pages[0], pages[-1], pages[1:]
    pixels = sum(page.width * page.height for page in others)
    pace = sum(page.seconds["upscale"] for page in others) / pixels if pixels else 0.0
    late = first.seconds["upscale"] - pace * first.width * first.height if pixels else 0.0
    drain = sum(seconds for stage, seconds in last.seconds.items() if stage not in ("decode", "upscale"))
    return first.seconds.get("decode", 0.0) + max(late, 0.0) + drain


def doubt_of_ratio(pages: Sequence[tuple[int, float]]) -> float:
    """Return the relative standard error of seconds (or bytes) per pixel, from the differences between pages.

    Args:
        pages: (pixels, seconds or bytes) of each page.
    """
    seconds = sum(each for _, each in pages)
    if len(pages) < 2 or seconds <= 0:
        return 0.5
    ratio = seconds / sum(pixels for pixels, _ in pages)
    squares = sum((each - ratio * pixels) ** 2 for pixels, each in pages)
    error = math.sqrt(squares / (len(pages) * (len(pages) - 1)))
    return max(LEAST_DOUBT, min(error / (seconds / len(pages)), 0.5))


def _gather(chosen: set[str], settings: JobSettings, folder: Path) -> None:
    """Put the chosen pages into a folder, in the order of the input."""
    folder.mkdir(parents=True)
    discovery = find_pages(settings)
    # Rules may ask for the paths of pages.
    keeps_paths = any(rule.when.path is not None for rule in settings.rules)
    with closing(VolumeCache(discovery.volumes, settings.volume_rules)) as cache:
        pages = [page for page in discovery.pages if page.source in chosen]
        for number, page in enumerate(pages):
            target = folder / (
                page.source if keeps_paths else f"{number:05d}{PurePosixPath(page.source).suffix}"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(_content(page, cache))
            except PageError as error:
                raise InputError(f"{page.source} cannot be read: {error.reason}") from error


def _content(page: Page, cache: VolumeCache) -> bytes:
    where = page.member
    if where is not None:
        return cache.read(where.volume, where.index)
    try:
        return page.path.read_bytes()
    except OSError as error:
        raise PageError("unreadable", error.strerror or str(error)) from error


def _identify(settings: JobSettings, model: str) -> tuple[str, str]:
    """Return name and hash of the network of the run; for ``auto``, the network that the run reports."""
    # Engines without a network of the catalogue name something else, and take no --model.
    is_chosen = is_auto(settings.model) and model in CATALOGUE
    return identify(dataclasses.replace(settings, model=model) if is_chosen else settings)


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
