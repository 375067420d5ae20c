"""``--tta``: the mean of the eight turns of a page, around any engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, Engine, EnginePart, Upscaled, follow
from comic_upscale.engines.tta import TURNS, TtaEngine
from comic_upscale.estimates.assumed import AssumedPages, assume_pages
from comic_upscale.estimates.workload import count_workload
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, SampleArray
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.worker.engines import EngineCache
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine, TellingEngine
from tests.jobs.test_raw import plain_network


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> SampleArray:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def upscale(engine: TtaEngine, pages: SampleArray, factor: int = 4) -> Upscaled:
    return engine.upscale(Batch(pages, (pages.shape[2] * factor, pages.shape[1] * factor)))


def test_the_parts_of_all_turns_are_told_as_one_call() -> None:
    told: list[EnginePart] = []
    engine = TtaEngine(TellingEngine())
    follow(engine, told.append)
    upscale(engine, noise((1, 3, 5, 3)))
    assert told == [EnginePart("tile", done, 16) for done in range(0, 16)]
    follow(engine, None)
    upscale(engine, noise((1, 3, 5, 3)))
    assert len(told) == 16


def test_the_turns_are_all_eight_and_undo_themselves() -> None:
    pages = noise((2, 3, 5, 3))
    turned = [turn.apply(pages) for turn in TURNS]
    assert len({(each.shape, each.tobytes()) for each in turned}) == 8
    for turn, each in zip(TURNS, turned, strict=True):
        assert np.array_equal(turn.undo(each), pages)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 30, 1), (1, 7, 1, 3)])
def test_no_turned_page_has_a_negative_stride(shape: tuple[int, ...]) -> None:
    # A side of one pixel that is mirrored counts as contiguous all the same, and torch refuses it.
    for turn in TURNS:
        assert min(turn.apply(noise(shape)).strides) > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_engine_that_treats_all_turns_alike_gives_the_same_page(dtype: type) -> None:
    fake = NearestEngine()
    pages = noise((2, 6, 10, 3), dtype)
    made = upscale(TtaEngine(fake), pages)
    assert made.pixels.dtype == dtype
    assert np.array_equal(made.pixels, pages.repeat(4, axis=1).repeat(4, axis=2))
    assert sorted(fake.batches) == sorted([(2, 6, 10, 3)] * 4 + [(2, 10, 6, 3)] * 4)


def test_the_result_is_the_mean_of_the_eight_passes_of_the_network(
    make_job: MakeJob, tiny_weights: Path
) -> None:
    page = noise((20, 28, 3))
    with plain_network(tiny_weights) as network:
        total = np.zeros((80, 112, 3))
        for turn in TURNS:
            turned = turn.apply(page[np.newaxis]).astype(np.float32) / 255
            result = network(torch.from_numpy(turned).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).clamp(0, 1)
            total += turn.undo(result.numpy())[0]
    job = make_job(device="cpu", precision="fp32", tta=True)
    for changes in ({}, {"tile": 64}):
        with opened(replace(job, **changes)) as engine:  # type: ignore[arg-type]
            made = engine.upscale(Batch(page[np.newaxis], (112, 80))).pixels[0]
        assert np.abs(made - total / 8 * 255).max() <= 1
    with opened(replace(job, tta=False)) as engine:
        once = engine.upscale(Batch(page[np.newaxis], (112, 80))).pixels[0]
    assert np.abs(made.astype(int) - once).max() > 1, "it does something"


@contextmanager
def opened(job: JobSettings) -> Iterator[Engine]:
    engines = registry.open_engines(job, registry.prepare_engine(job))
    try:
        yield engines[0]
    finally:
        for each in engines:
            each.close()


def test_a_page_in_tiles_is_the_page_in_one_piece(make_job: MakeJob) -> None:
    page = noise((1, 30, 90, 3))
    made = []
    for tile in (None, 64):
        job = make_job(device="cpu", precision="fp32", tta=True, tile=tile)
        with opened(job) as engine:
            made.append(engine.upscale(Batch(page, (180, 60))))
    whole, tiled = made
    assert whole.borders == NO_BORDERS
    assert tiled.borders.columns
    assert np.abs(whole.pixels.astype(int) - tiled.pixels).max() <= 1


class Bordered(NearestEngine):
    """Has borders at fixed places of what it is given."""

    def upscale(self, batch: Batch) -> Upscaled:
        return replace(super().upscale(batch), borders=Borders((3,), (5, 7)), cost=0.25, notes=("a note",))


def test_borders_are_those_of_every_turn_in_the_page_itself() -> None:
    made = upscale(TtaEngine(Bordered()), noise((1, 5, 8, 1)), 2)
    # The output has 10 rows and 16 columns. A border at row 3 is one at 7 when mirrored, and at column 3 and 13 on its
    # side.
    assert made.borders == Borders((3, 5, 7), (3, 5, 7, 9, 11, 13))
    assert (made.cost, made.notes) == (2.0, ("a note",))


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_a_border_goes_where_its_pixels_go(height: int, width: int, data: st.DataObject) -> None:
    row = data.draw(st.integers(1, height))
    column = data.draw(st.integers(1, width))
    page = np.zeros((1, height, width, 1), np.uint8)
    page[:, :row] += 1
    page[:, :, :column] += 2
    for turn in TURNS:
        turned = turn.apply(page)[0, :, :, 0].astype(int)
        rows = tuple(int(place) + 1 for place in np.flatnonzero(np.diff(turned, axis=0).any(axis=1)))
        columns = tuple(int(place) + 1 for place in np.flatnonzero(np.diff(turned, axis=1).any(axis=0)))
        assert turn.undo_borders(Borders(rows, columns), (width, height)) == Borders(
            (row,) if row < height else (), (column,) if column < width else ()
        )


def test_an_estimate_counts_the_network_eight_times(make_job: MakeJob, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1, (30, 40))
    job = make_job()
    once, eight = (count_workload(preview(each), each) for each in (job, replace(job, tta=True)))
    assert (once.network_pixels, eight.network_pixels) == (1200, 9600)
    assert once.output_pixels == eight.output_pixels
    assumed = [
        assume_pages([AssumedPages(count=3, width=10, height=10)], each)
        for each in (job, replace(job, tta=True))
    ]
    assert [each.network_pixels for each in assumed] == [300, 2400]


def test_engines_with_and_without_it_are_kept_apart(make_job: MakeJob) -> None:
    cache = EngineCache()
    job = make_job(device="cpu")
    weights = registry.prepare_engine(job)
    page = noise((1, 16, 16, 3))
    once, turned = (
        cache.open_engines(each, weights)[0].upscale(Batch(page, (64, 64))).pixels
        for each in (job, replace(job, tta=True))
    )
    assert not np.array_equal(once, turned)
    cache.close()


def test_an_engine_is_interrupted_and_closed_through_it() -> None:
    class Long(NearestEngine):
        interrupted = False

        def interrupt(self) -> None:
            self.interrupted = True

    fake = Long()
    engine = TtaEngine(fake)
    engine.interrupt()
    engine.close()
    assert (fake.interrupted, fake.closed) == (True, True)
    TtaEngine(NearestEngine()).interrupt()
