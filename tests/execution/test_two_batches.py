"""A device that computes by itself gets a second batch before the first has been fetched."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import Batch, KeptOpen, Upscaled, batches_at_once
from comic_upscale.errors import DeviceError
from comic_upscale.execution.base import PageUpscaled
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.local.pipeline import Pipeline
from comic_upscale.execution.stop import StopRequest
from comic_upscale.settings.job import JobSettings
from tests.execution.test_lost_device import COUNT, check_all, fails_from, on_device, outcomes_of
from tests.execution.test_lost_device import settings as settings  # the fixture
from tests.fakes import NearestEngine, pause

TIMEOUT = 30.0


class Overlapping(NearestEngine):
    """Takes two calls at a time. A call ends when another has begun, or soon if none comes."""

    batches_at_once = 2

    def __init__(self, *, most_wait: float = TIMEOUT, limit: int = 1, dies: bool = False) -> None:
        super().__init__(limit=limit)
        self._most_wait, self._dies = most_wait, dies
        self._changed = threading.Condition()
        self._running = self.begun = 0
        self.most_at_once = 0

    def upscale(self, batch: Batch) -> Upscaled:
        with self._changed:
            self._running += 1
            self.begun += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self._changed.notify_all()
            mine = self.begun
            if mine < COUNT // 2:
                self._changed.wait_for(lambda: self._running == 2 or self.begun > mine, self._most_wait)
        try:
            if self._dies and self.most_at_once == 2:
                raise DeviceError("the GPU fell off the bus")
            return super().upscale(batch)
        finally:
            with self._changed:
                self._running -= 1


def test_two_batches_are_under_way_at_a_time_and_every_page_comes_out_once(settings: JobSettings) -> None:
    engine = Overlapping()
    outcomes, _ = outcomes_of(settings, engine)
    check_all(outcomes)
    assert engine.most_at_once == 2


def test_other_engines_get_one_batch_at_a_time(settings: JobSettings) -> None:
    engine = Overlapping(most_wait=0.01)
    engine.batches_at_once = 1
    check_all(outcomes_of(settings, engine)[0])
    assert engine.most_at_once == 1 and len(engine.threads) == 1


def test_below_a_ceiling_a_batch_begins_when_the_one_before_has_ended(settings: JobSettings) -> None:
    # The time of a batch is known at its end, and the next one must fit below what is left then.
    engine = Overlapping(most_wait=0.01)
    check_all(outcomes_of(settings, engine, spending=Spending(0.01, most=100))[0])
    assert engine.most_at_once == 1
    # A price alone is no ceiling.
    engine = Overlapping()
    check_all(outcomes_of(settings, engine, spending=Spending(0.01))[0])
    assert engine.most_at_once == 2


def test_an_engine_that_stays_open_overlaps_as_well() -> None:
    assert batches_at_once(KeptOpen(Overlapping())) == 2
    assert batches_at_once(KeptOpen(NearestEngine())) == batches_at_once(NearestEngine()) == 1


def test_time_in_which_two_batches_overlap_counts_once(settings: JobSettings) -> None:
    class Slow(Overlapping):
        def upscale(self, batch: Batch) -> Upscaled:
            result = super().upscale(batch)
            time.sleep(0.03)
            return result

    begun = time.perf_counter()
    outcomes, _ = outcomes_of(settings, Slow())
    lasted = time.perf_counter() - begun
    spent = [outcome.seconds["upscale"] for outcome in outcomes if isinstance(outcome, PageUpscaled)]
    assert len(spent) == COUNT and min(spent) >= 0
    assert 0 < sum(spent) <= lasted


def test_a_device_with_two_batches_is_as_busy_as_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices([Overlapping()])
    try:
        for begin in (True, True, False, False, True, False):
            (devices._begin if begin else devices._end)(0)
            assert devices.meter._active == bool(devices._calls[0])
    finally:
        devices.close()


def test_both_batches_of_a_lost_device_are_done_by_another(settings: JobSettings) -> None:
    lost = on_device(0, Overlapping(dies=True, limit=2))
    kept = on_device(1, NearestEngine(pause(0.05), limit=2))
    outcomes, devices = outcomes_of(settings, lost, kept)
    check_all(outcomes)
    assert devices == str(kept.info.device)
    # It is not asked again.
    assert lost.begun == 2


def test_a_device_lost_while_its_second_batch_is_awaited_is_not_asked_again(settings: JobSettings) -> None:
    # No batch is full, so the second one waits until the first has ended.
    lost = on_device(0, NearestEngine(fails_from(1), limit=1000))
    lost.batches_at_once = 2  # type: ignore[attr-defined]
    kept = on_device(1, NearestEngine(pause(0.02)))
    check_all(outcomes_of(settings, lost, kept)[0])
    assert len(lost.batches) == 1


def test_a_lost_device_has_no_work_when_its_batch_is_put_back(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `BatchAssembler.take` says, so that what waits for an idle device looks again at the right time."""
    devices = Devices([on_device(index, NearestEngine()) for index in range(2)])
    assert devices.give_up(0)
    tools: Any = SimpleNamespace(
        settings=settings,
        networks=SimpleNamespace(base=devices, batch_limit=lambda *_: 1),
        workers=SimpleNamespace(count=1),
    )
    pipeline = Pipeline(tools, StopRequest())
    in_progress: list[int] = []
    monkeypatch.setattr(
        pipeline._assembler, "put_back", lambda *_: in_progress.append(pipeline._in_progress[0])
    )
    page: Any = SimpleNamespace(network=("any", None), size=(8, 8), batch_key="any")
    pipeline._assembler.add(page.batch_key, page)
    try:
        asyncio.run(pipeline._upscale(0))
    finally:
        devices.close()
    assert in_progress == [0]


def test_the_last_device_that_is_lost_with_two_batches_ends_the_run(settings: JobSettings) -> None:
    with pytest.raises(DeviceError, match="fell off the bus"):
        outcomes_of(settings, Overlapping(dies=True))
