"""Several devices, and one fails: the others finish the run, and no page is lost or done twice."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import Batch, DeviceInfo, Upscaled
from comic_upscale.errors import DeviceError
from comic_upscale.execution.base import PageOutcome, PageTask, PageUpscaled, SourceBytes
from comic_upscale.execution.local.executor import LocalExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine, pause

COUNT = 24


def page(number: int) -> bytes:
    """A page with pixels of its own, in one of two shapes, large enough for the gate."""
    noise = np.random.default_rng(number).integers(0, 256, (64 + number % 2, 72, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "PNG")
    return data.getvalue()


def on_device(index: int, engine: NearestEngine) -> NearestEngine:
    engine.info = replace(engine.info, device=DeviceInfo("cuda", index, "a GPU"))
    return engine


def fails_from(call: int) -> Callable[[Batch], None]:
    """For `NearestEngine`: a device that is lost with its nth batch."""
    calls = []

    def step(batch: Batch) -> None:
        calls.append(batch)
        pause(0.002)(batch)
        if len(calls) >= call:
            raise DeviceError("the GPU fell off the bus")

    return step


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    weights = tmp_path / "any.safetensors"
    weights.write_bytes(b"weights")
    return JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", model=str(weights), workers=2, scale=2.0
    )


async def tasks() -> AsyncIterator[PageTask]:
    for number in range(COUNT):

        async def read(number: int = number) -> SourceBytes:
            return SourceBytes(page(number))

        yield PageTask(row_id=number, source=f"{number:02}.png", format="png", extension="png", read=read)


def outcomes_of(
    settings: JobSettings, *engines: NearestEngine, spending: Spending | None = None
) -> tuple[list[PageOutcome], str]:
    """Run all pages; return their outcomes, and the devices that the run names at its end."""

    async def work() -> tuple[list[PageOutcome], str]:
        executor = LocalExecutor(lambda *_: list(engines))
        try:
            await executor.open(
                settings, model="any", fingerprint="f" * 32, spending=spending, on_progress=lambda event: None
            )
            found = [outcome async for outcome in executor.process(tasks(), StopRequest())]
            return found, executor.info().device
        finally:
            await executor.close()

    return asyncio.run(asyncio.wait_for(work(), 60))


def check_all(outcomes: list[PageOutcome]) -> None:
    assert sorted(outcome.row_id for outcome in outcomes) == list(range(COUNT))
    for outcome in outcomes:
        assert isinstance(outcome, PageUpscaled)
        with (
            Image.open(io.BytesIO(outcome.data)) as made,
            Image.open(io.BytesIO(page(outcome.row_id))) as source,
        ):
            doubled = np.asarray(source).repeat(2, axis=0).repeat(2, axis=1)
            assert np.array_equal(np.asarray(made), doubled)


@pytest.mark.parametrize("call", [1, 3])
def test_the_pages_of_a_lost_device_are_done_by_another(settings: JobSettings, call: int) -> None:
    lost = on_device(0, NearestEngine(fails_from(call), limit=3))
    kept = on_device(1, NearestEngine(pause(0.002), limit=3))
    outcomes, devices = outcomes_of(settings, lost, kept)
    check_all(outcomes)
    assert devices == str(kept.info.device)
    noted = [outcome for outcome in outcomes if isinstance(outcome, PageUpscaled) and outcome.notes]
    assert len(noted) == lost.batches[-1][0]
    assert all("fell off the bus" in note for outcome in noted for note in outcome.notes)
    # It is not asked again.
    assert len(lost.batches) == call


def test_a_device_lost_between_two_batches_loses_no_page(settings: JobSettings) -> None:
    class NoLimit(NearestEngine):
        def batch_limit(self, height: int, width: int) -> int:
            if len(self.batches) >= 2:
                raise DeviceError("the GPU fell off the bus")
            return 2

    outcomes, _ = outcomes_of(
        settings, on_device(0, NoLimit(pause(0.002))), on_device(1, NearestEngine(pause(0.02), limit=2))
    )
    check_all(outcomes)


def test_the_last_device_that_is_lost_ends_the_run(settings: JobSettings) -> None:
    with pytest.raises(DeviceError, match="fell off the bus"):
        outcomes_of(
            settings,
            on_device(0, NearestEngine(fails_from(2))),
            on_device(1, NearestEngine(fails_from(4))),
        )


def test_two_engines_of_the_lost_device_do_not_stand_in_for_each_other(settings: JobSettings) -> None:
    with pytest.raises(DeviceError, match="fell off the bus"):
        outcomes_of(
            settings,
            on_device(0, NearestEngine(fails_from(2))),
            on_device(0, NearestEngine(pause(0.002))),
        )


def test_a_suspect_page_of_a_lost_device_is_tried_again_on_another(settings: JobSettings) -> None:
    class LostAfterwards(NearestEngine):
        """Gives its first page upside down, and is lost when that page is wanted again."""

        def upscale(self, batch: Batch) -> Upscaled:
            if batch.conservative:
                raise DeviceError("the GPU fell off the bus")
            made = super().upscale(batch).pixels
            return Upscaled(made[:, ::-1] if len(self.batches) == 1 else made)

    lost = on_device(0, LostAfterwards(pause(0.002)))
    kept = on_device(1, NearestEngine(pause(0.02)))
    outcomes, devices = outcomes_of(settings, lost, kept)
    check_all(outcomes)
    assert lost.batches
    assert devices == str(kept.info.device)
