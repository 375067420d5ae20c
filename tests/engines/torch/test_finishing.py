"""Pages that are finished on a device are, to the bit, those that the host finishes. The CPU stands for a GPU here."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from comic_upscale.engines.base import Engine, FinishPlan
from comic_upscale.engines.pages import finish, prepare, upscale_pages
from comic_upscale.engines.torch import finishing, finishing_proof
from comic_upscale.engines.torch.engine import UNFINISHED_BEFORE_HOST, TorchEngine
from comic_upscale.engines.torch.finishing import Finisher
from comic_upscale.engines.torch.finishing_proof import find_difference, finish_on_host, finishes_right
from comic_upscale.engines.torch.host_memory import HostMemory
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.execution.local.steps import PageSteps
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.gate.verdict import judge, measure_raw_output
from comic_upscale.imaging.codecs.png import write_png_at_once
from comic_upscale.imaging.pixels import NO_BORDERS, DeviceWork, Pixels, UInt8Array
from comic_upscale.jobs.run import run_job
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen
from tests.conftest import MakeJob
from tests.engines.conftest import MakeNetwork
from tests.engines.drawn_pages import draw_pages
from tests.engines.torch.test_engine import Hungry, Overflowing

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[3] / "examples" / "pages"


def draw_source(
    number: int, channels: int = 3, *, lossless: bool = True, size: tuple[int, int] = (150, 106)
) -> Pixels:
    """Return a page with white, black and coloured areas, as `prepare` returns it; sides of no whole cells."""
    color = draw_pages(1, *size, channels)[0] // 2 + 10 * number
    color[:60, :50], color[90:140, 60:] = 255, 0
    color[60:90, :50] = 250 - number
    return replace(prepare(Pixels(color, lossless=lossless)), faint=None)


def enlarge(source: Pixels, target: tuple[int, int], darker: int) -> UInt8Array:
    """Return a raw output: darker than its source, or lighter, and a little noisy."""
    image = Image.fromarray(source.color.squeeze()).resize(target[::-1], Image.Resampling.LANCZOS)
    samples = np.asarray(image).reshape(*target, -1).astype(int)
    noise = np.random.default_rng(darker + 10).integers(-3, 4, samples.shape)
    return (samples - darker + noise).clip(0, 255).astype(np.uint8)


def finish_here(
    plan: FinishPlan, sources: list[Pixels], raws: list[UInt8Array]
) -> tuple[UInt8Array, tuple[DeviceWork | None, ...]]:
    outputs = torch.from_numpy(np.stack(raws))
    finisher = Finisher(plan, sources, raws[0].shape[:2], HostMemory(pinned=False), CPU)
    finisher.finish(outputs, 0)
    return outputs.numpy(), finisher.work()


def assert_equal(found: DeviceWork, expected: DeviceWork) -> None:
    assert found.bends is not None and expected.bends is not None
    np.testing.assert_array_equal(found.raw_small, expected.raw_small)
    np.testing.assert_array_equal(found.small, expected.small)
    np.testing.assert_array_equal(found.bends.along_rows, expected.bends.along_rows)
    np.testing.assert_array_equal(found.bends.along_columns, expected.bends.along_columns)
    np.testing.assert_array_equal(found.png_rows, expected.png_rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [1.7, 2, 2.37, 2.5, 3, 4, 8])
@pytest.mark.parametrize(("size", "most_samples"), [((150, 106), 1), ((151, 107), 1 << 25)])
def test_the_same_as_on_the_host(
    monkeypatch: pytest.MonkeyPatch, channels: int, factor: float, size: tuple[int, int], most_samples: int
) -> None:
    monkeypatch.setattr(finishing, "_MOST_SAMPLES", most_samples)
    target = (round(size[0] * factor), round(size[1] * factor))
    # Three that are darkened or not, a JPEG, and one in between that only the host finishes.
    sources = [draw_source(number, channels, lossless=number != 2, size=size) for number in range(5)]
    faint = prepare(Pixels(faint_page((*size, channels))))
    assert faint.faint is not None
    sources[3] = faint
    raws = [enlarge(source, target, darker) for source, darker in zip(sources, (0, 3, 5, 4, -6), strict=True)]
    measures = MeasurePlan.of(sources[0].color.shape, raws[0].shape, looks_for_texture=True)
    assert measures is not None
    pages, works = finish_here(FinishPlan(measures, png_rows=True), sources, raws)
    changed = 0
    for source, raw, page, work in zip(sources, raws, pages, works, strict=True):
        if source is faint:
            assert work is None
            np.testing.assert_array_equal(page, raw)
            continue
        assert work is not None
        expected, done = finish_on_host(replace(source, color=raw.copy()), measures)
        np.testing.assert_array_equal(page, expected)
        assert_equal(work, done)
        changed += not np.array_equal(page, raw)
    assert changed == 4


def faint_page(shape: tuple[int, int, int]) -> UInt8Array:
    page = np.full(shape, 255, np.uint8)
    page[40, 10:90] = 240
    return page


def test_a_png_from_these_rows_is_that_page() -> None:
    source = draw_source(1)
    (page,), (work,) = finish_here(
        FinishPlan(None, png_rows=True), [source], [enlarge(source, (300, 212), 2)]
    )
    assert work is not None and work.raw_small is None
    assert write_png_at_once(page, None, rows=work.png_rows) == write_png_at_once(page, None)


def test_the_verdict_is_that_of_the_host() -> None:
    source = draw_source(1, lossless=False)
    raw = enlarge(source, (375, 265), 4)
    measures = MeasurePlan.of(source.color.shape, raw.shape, looks_for_texture=True)
    (page,), (work,) = finish_here(FinishPlan(measures, png_rows=False), [source], [raw])
    assert work is not None and work.raw_small is not None and work.png_rows is None
    host = judge(source.color, page, raw=measure_raw_output(source.color, raw), looks_for_texture=True)
    device = judge(
        source.color, page, raw=type(measure_raw_output(source.color, raw))(work.raw_small),
        looks_for_texture=True, device_work=work,
    )  # fmt: skip
    assert device == host


@pytest.mark.parametrize(("source", "larger"), [
    # Pillow filters the columns of a tall page first, does a part of a large reduction by means, and groups the rows
    # of a large page here.
    ((401, 107, 3), (1002, 268, 3)), ((151, 107, 3), (498, 353, 3)), ((3001, 2001, 3), (7502, 5002, 3)),
])  # fmt: skip
def test_other_pages_that_are_shrunk_by_a_filter_have_no_plan(
    source: tuple[int, ...], larger: tuple[int, ...]
) -> None:
    assert MeasurePlan.of(source, larger, looks_for_texture=True) is None


def open_engine(network: Network, **settings: Any) -> TorchEngine:
    return TorchEngine(network, device=CPU, finishes=True, **settings)


def plan_for(sources: list[Pixels], target: tuple[int, int]) -> FinishPlan:
    shape = (target[1], target[0], sources[0].color.shape[2])
    measures = MeasurePlan.of(sources[0].color.shape, shape, looks_for_texture=False)
    return FinishPlan(measures, png_rows=True)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_engine_finishes_the_pages_of_a_batch(compact: Network, batch: int) -> None:
    sources, target = [draw_source(number) for number in range(5)], (265, 375)
    engine = open_engine(compact, batch=batch)
    finished = upscale_pages(engine, sources, target, finish_plan=plan_for(sources, target))
    raw = upscale_pages(engine, sources, target)
    for one, other in zip(finished, raw, strict=True):
        assert isinstance(one, Pixels) and isinstance(other, Pixels)
        assert one.device_work is not None and other.device_work is None
        # What was corrected is not corrected again.
        assert one.tone is one.solid is one.paper is None
        again = finish(one)
        np.testing.assert_array_equal(again.color, one.color)
        np.testing.assert_array_equal(finish(other).color, one.color)


def test_tiles_and_the_conservative_path_are_left_raw(compact: Network) -> None:
    sources, target = [draw_source(0)], (212, 300)
    plan = plan_for(sources, target)
    (tiled,) = upscale_pages(open_engine(compact, tile=64), sources, target, finish_plan=plan)
    engine = open_engine(compact)
    (again,) = upscale_pages(engine, sources, target, finish_plan=plan, conservative=True)
    (asked,) = upscale_pages(engine, sources, target)
    for page in (tiled, again, asked):
        assert isinstance(page, Pixels)
        assert page.device_work is None and page.tone is not None


@pytest.mark.parametrize("change", [
    lambda page: replace(page, alpha=np.full(page.color.shape[:2], 128, np.uint8)),
    lambda page: replace(page, color=page.color.astype(np.uint16) * 257),
    # With --raw, nothing is noted and nothing corrected.
    lambda page: replace(page, tone=None, solid=None),
])  # fmt: skip
def test_other_pages_are_left_raw(compact: Network, change: Callable[[Pixels], Pixels]) -> None:
    sources, target = [change(draw_source(0))], (212, 300)
    (page,) = upscale_pages(open_engine(compact), sources, target, finish_plan=plan_for(sources, target))
    assert isinstance(page, Pixels)
    assert page.device_work is None


@pytest.mark.parametrize("wrong", [float("nan"), 0.0])
def test_a_page_that_half_precision_cannot_do_is_raw_again(make_network: MakeNetwork, wrong: float) -> None:
    # Finished, a black page has the tone of its source, and is black no more.
    sources = [prepare(Pixels(np.full((64, 64, 3), level, np.uint8))) for level in (90, 250, 100)]
    engine = open_engine(make_network(Overflowing(wrong)), precision=torch.float16)
    pages = upscale_pages(engine, sources, (128, 128), finish_plan=plan_for(sources, (128, 128)))
    for page, source, is_finished in zip(pages, sources, (True, False, True), strict=True):
        assert isinstance(page, Pixels)
        assert (page.device_work is not None) == is_finished
        assert (page.color == source.color[0, 0]).all()


def test_a_page_that_fails_leaves_the_others_finished(make_network: MakeNetwork) -> None:
    sources = [prepare(Pixels(np.full((64, 64, 3), level, np.uint8))) for level in (90, 250, 100)]
    engine = open_engine(make_network(Overflowing(float("nan"), always=True)))
    first, failed, last = upscale_pages(
        engine, sources, (128, 128), finish_plan=plan_for(sources, (128, 128))
    )
    assert isinstance(failed, PageError)
    assert isinstance(first, Pixels) and isinstance(last, Pixels)
    assert first.device_work is not None and (last.color == 100).all()


@pytest.mark.parametrize("place", ["_Maps.of", "filter_rows"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not supported")]
)
def test_what_cannot_be_finished_here_is_left_to_the_host(
    compact: Network, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, place: str
) -> None:
    sources, target = [draw_source(number) for number in range(2)], (212, 300)
    plan, asked = plan_for(sources, target), []

    def fail(*_: object) -> None:
        asked.append(place)
        raise error

    monkeypatch.setattr(f"comic_upscale.engines.torch.finishing.{place}", fail)
    engine = open_engine(compact, batch=2)
    expected = upscale_pages(engine, sources, target)
    for _ in range(UNFINISHED_BEFORE_HOST + 2):
        pages = upscale_pages(engine, sources, target, finish_plan=plan)
        for page, raw in zip(pages, expected, strict=True):
            assert isinstance(page, Pixels) and isinstance(raw, Pixels)
            assert page.device_work is None and page.borders == NO_BORDERS
            np.testing.assert_array_equal(page.color, raw.color)
    # Memory may be free again a few times later, but not for ever.
    assert len(asked) == (UNFINISHED_BEFORE_HOST if isinstance(error, torch.OutOfMemoryError) else 1)


def test_a_batch_too_large_for_the_network_is_finished_in_smaller_ones(make_network: MakeNetwork) -> None:
    sources, target = [draw_source(number) for number in range(4)], (212, 300)
    engine = open_engine(make_network(Hungry(2 * 150 * 106)), batch=4)
    for _ in range(2 * UNFINISHED_BEFORE_HOST):
        # As if the limit had been raised again, for another program has ended.
        engine._stages.clear()
        for page in upscale_pages(engine, sources, target, finish_plan=plan_for(sources, target)):
            assert isinstance(page, Pixels)
            assert page.device_work is not None


def test_a_device_lost_while_it_finishes_is_lost(compact: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(finishing, "filter_rows", fail)
    sources = [draw_source(0)]
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        upscale_pages(open_engine(compact), sources, (212, 300), finish_plan=plan_for(sources, (212, 300)))


def test_a_device_that_finishes_wrong_does_not_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_difference(CPU) is None
    right = finishing.shrink

    def off_by_one(pages: torch.Tensor, plan: MeasurePlan) -> torch.Tensor:
        return right(pages, plan) ^ 1

    for name, wrong, said in (
        ("shrink", off_by_one, "the shrunk raw output"),
        ("restore_tones", lambda pages, maps: None, "tone"),
        ("restore_solids", lambda pages, maps: None, "solid"),
        ("filter_rows", lambda pages: torch.zeros(2, 1, 1, dtype=torch.uint8), "PNG rows"),
        ("measure_bends", lambda lines, plan: torch.zeros(2, 1, 1), "second differences along rows"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(finishing, name, wrong)
            assert said in str(find_difference(CPU)), name


@pytest.mark.parametrize(("found", "is_right"), [(None, True), ("tone", False), (RuntimeError("no"), False)])
def test_each_gpu_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, found: str | Exception | None, is_right: bool
) -> None:
    asked: list[torch.device] = []

    def find(device: torch.device) -> str | None:
        asked.append(device)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(finishing_proof, "find_difference", find)
    finishes_right.cache_clear()
    try:
        assert not finishes_right(CPU)
        for _ in range(2):
            assert finishes_right(torch.device("cuda", 3)) == is_right
    finally:
        finishes_right.cache_clear()
    assert asked == [torch.device("cuda", 3)]


def test_rows_are_wanted_only_where_a_file_is_written_from_them(make_job: MakeJob) -> None:
    for changes, format, target, is_wanted in (
        ({}, "png", (8000, 6000), True),
        ({}, "png", (8001, 6000), False),
        ({}, "webp", (800, 600), False),
        ({"png_level": 6}, "png", (800, 600), False),
        # Only a gray screen gets other pixels.
        ({"scale": None, "size": Screen("e-ink", 800, 600, 16)}, "png", (800, 600), False),
        ({"scale": None, "size": Screen("lcd", 800, 600, None)}, "png", (800, 600), True),
    ):
        steps = PageSteps(make_job(**changes), {"auto": 4})
        assert steps.wants_png_rows(format, target, ()) == is_wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_run_writes_the_same_files_whoever_finishes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format: str
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for path in [EXAMPLES / "001.png", EXAMPLES / "002.png", EXAMPLES / "stickers.png"]:
        shutil.copy(path, pages / f"{path.parent.name}-{path.name}")
    weights = resolve_weights("comic-fast-x2", denoise=None, folders=[], cache=Path())
    network = load_network(weights, None)
    works: list[DeviceWork | None] = []
    ask = Finisher.work

    def watched(finisher: Finisher) -> tuple[DeviceWork | None, ...]:
        works.extend(found := ask(finisher))
        return found

    monkeypatch.setattr(Finisher, "work", watched)
    by_host = run(pages, tmp_path / "host", network, format, finishes=False)
    assert not works
    assert run(pages, tmp_path / "device", network, format, finishes=True) == by_host
    finished = [work for work in works if work is not None]
    assert len(finished) >= 2
    assert all((work.png_rows is not None) == (format == "png") for work in finished)


def run(pages: Path, output: Path, network: Network, format: str, *, finishes: bool) -> dict[str, Any]:
    """Run a job; return the files of its outputs, and the scores of its pages."""
    engines: list[Engine] = [TorchEngine(network, device=CPU, finishes=finishes)]
    settings = JobSettings(
        input=pages, output=output, scale=2.0, model="comic-fast-x2", device="cpu", format=format
    )
    finished = run_job(settings, open_engines=lambda *_: engines)
    assert finished.done == len(list(pages.iterdir())) and not finished.failed
    with closing(sqlite3.connect(output / ".comic-upscale" / "ledger.sqlite3")) as connection:
        scores = dict(connection.execute("select source, scores from pages").fetchall())
    files = {path.name: path.read_bytes() for path in output.glob(f"*.{format}")}
    assert len(files) == finished.done
    return {"files": files, "scores": {name: json.loads(text or "{}") for name, text in scores.items()}}
