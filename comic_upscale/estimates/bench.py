"""Measure this machine in about a minute: the network alone, and a whole run from files to files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from comic_upscale.costs.rates import Measured
from comic_upscale.engines.base import Engine, KeptOpen
from comic_upscale.engines.pages import prepare, upscale_pages
from comic_upscale.engines.registry import OpenEngines, open_engines, prepare_engine
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.estimates.bench_pages import SIZE, draw_page
from comic_upscale.estimates.workload import measure_run
from comic_upscale.execution.events import STAGES, Event
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.target_size import find_target
from comic_upscale.ledger.records import PageDone
from comic_upscale.planning.model_selection import choose_model, named_model
from comic_upscale.settings.job import JobSettings

DRAWN = 8
"""The number of different drawn pages. A longer run uses them again under other names."""

LEAST_PAGES, MOST_PAGES = 6, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of the whole run."""

    seconds_a_page: float
    busy: float
    """Share of its capacity that was in use, 0 to 1."""
    waited_a_page: float | None
    """Seconds that a page waited before this stage; None for the first stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """The measurements of a machine."""

    measured: Measured
    """The measurement from which ``cost`` estimates."""
    page: tuple[int, int]
    target: tuple[int, int]
    batch: int
    """Pages in one call of the network, after the memory of a page was measured."""
    alone_pages_per_second: float
    """The network alone, from pixels to pixels."""
    whole_pages_per_second: float
    """A run from files to files."""
    alone_megapixels_per_second: float
    """Of input."""
    whole_megapixels_per_second: float
    """Of input."""
    network_idle: float
    """Share of the run in which the devices were idle, 0 to 1."""
    stages: dict[str, Stage]
    peak_memory_bytes: int
    """Peak memory of this process."""
    peak_device_bytes: int | None
    """Peak memory of the first CUDA device; None without one."""


OnStep = Callable[[str], None]


def bench(
    settings: JobSettings,
    *,
    seconds: float = 60.0,
    on_step: OnStep = lambda what: None,
    open_engines: OpenEngines = open_engines,
) -> BenchResult:
    """Measure this machine with the model, devices and format of the settings.

    Args:
        settings: settings of the run; input and output are ignored.
        seconds: approximate time of the measurement, without loading.
        on_step: called with the name of each step.
        open_engines: as for `run_job`.

    Raises:
        WeightsError, DeviceError, SettingsError: as in a run.
        DeviceError: the network cannot upscale a page.
    """
    on_step("selecting and loading the network")
    begin = time.perf_counter()
    selected = named_model(settings) or choose_model(settings)
    settings = selected.apply_to(settings)
    engines = open_engines(settings, prepare_engine(settings))
    try:
        loading = time.perf_counter() - begin
        files = [draw_page(number) for number in range(DRAWN)]
        target = find_target(*SIZE, settings.size).size
        on_step("the network alone")
        alone = _time_networks(engines, files, target, seconds / 3)
        pages = min(max(round(seconds / 2 * alone), LEAST_PAGES), MOST_PAGES)
        on_step(f"a whole run of {pages:,} pages")
        return _time_run(settings, engines, files, pages, alone, target, loading)
    finally:
        for engine in engines:
            engine.close()


def _time_networks(
    engines: Sequence[Engine], files: Sequence[bytes], target: tuple[int, int], seconds: float
) -> float:
    """Return the pages per second of all engines together, running at the same time as in a run."""
    with ThreadPoolExecutor(len(engines)) as pool:
        return sum(pool.map(lambda engine: _time_network(engine, files, target, seconds), engines))


def _time_network(engine: Engine, files: Sequence[bytes], target: tuple[int, int], seconds: float) -> float:
    """Return the pages per second from pixels to pixels, without the first call, which prepares the network."""
    pages = [prepare(decode(data, max_pixels=SIZE[0] * SIZE[1])) for data in files]
    _run_engine(engine, pages[:1], target)
    _run_engine(engine, _batch(pages, engine), target)
    done, start = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - start < seconds:
        batch = _batch(pages, engine)
        _run_engine(engine, batch, target)
        done += len(batch)
    return done / (time.perf_counter() - start)


def _batch(pages: Sequence[Pixels], engine: Engine) -> list[Pixels]:
    limit = engine.batch_limit(SIZE[1], SIZE[0])
    return [pages[number % len(pages)] for number in range(limit)]


def _run_engine(engine: Engine, pages: Sequence[Pixels], target: tuple[int, int]) -> None:
    for result in upscale_pages(engine, pages, target):
        if isinstance(result, PageError):
            raise DeviceError(
                f"{engine.info.device} cannot upscale a page of {SIZE[0]}x{SIZE[1]}: {result.reason}"
            ) from result


def _time_run(
    settings: JobSettings,
    engines: list[Engine],
    files: Sequence[bytes],
    pages: int,
    alone: float,
    target: tuple[int, int],
    loading: float,
) -> BenchResult:
    done: list[PageDone] = []

    def note(event: Event) -> None:
        if isinstance(event, PageDone):
            done.append(event)

    with tempfile.TemporaryDirectory(prefix="comic-upscale-bench-") as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for number in range(pages):
            # Bytes after the end of a PNG are ignored. They make every file different, because duplicates are not
            # processed.
            (source / f"{number:05d}.png").write_bytes(files[number % len(files)] + b"%d" % number)
        trial = replace(
            settings, input=source, output=Path(folder) / "out", ledger=None, price=None, max_cost=None
        )
        wrapped: list[Engine] = [KeptOpen(engine) for engine in engines]
        measured = measure_run(trial, origin="bench", on_event=note, open_engines=lambda *_: wrapped)
    measured = replace(measured, start_seconds=round(measured.start_seconds + loading, 3))
    whole = measured.pages / measured.whole_seconds
    pixels = SIZE[0] * SIZE[1] / 1e6
    return BenchResult(
        measured=measured,
        page=SIZE,
        target=target,
        batch=max(engine.batch_limit(SIZE[1], SIZE[0]) for engine in engines),
        alone_pages_per_second=round(alone, 4),
        whole_pages_per_second=round(whole, 4),
        alone_megapixels_per_second=round(alone * pixels, 4),
        whole_megapixels_per_second=round(whole * pixels, 4),
        network_idle=round(
            max(0.0, 1 - measured.network_seconds / measured.devices / measured.whole_seconds), 4
        ),
        stages={name: _stage(name, done, measured) for name in STAGES},
        peak_memory_bytes=peak_memory(),
        peak_device_bytes=_peak_device(engines),
    )


def _stage(name: str, pages: Sequence[PageDone], run: Measured) -> Stage:
    seconds = sum(page.seconds.get(name, 0.0) for page in pages)
    places = run.devices if name == "upscale" else run.workers
    waited = [page.waited[name] for page in pages if name in page.waited]
    return Stage(
        seconds_a_page=round(seconds / len(pages), 5),
        busy=round(min(seconds / (run.whole_seconds * places), 1.0), 4),
        waited_a_page=round(sum(waited) / len(waited), 5) if waited else None,
    )


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    try:
        import resource
    except ImportError:
        memory = psutil.Process().memory_info()
        # Only Windows reports the peak here.
        return int(getattr(memory, "peak_wset", memory.rss))
    import sys

    # Linux counts in KiB, macOS in bytes.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def _peak_device(engines: Sequence[Engine]) -> int | None:
    device = engines[0].info.device
    if device.kind != "cuda" or engines[0].info.name != "torch":
        return None
    import torch

    return int(torch.cuda.max_memory_reserved(torch.device(device.kind, device.index or 0)))
