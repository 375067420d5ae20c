"""Requests to stop: one for several runs, and waiting for something or the stop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from comic_upscale.execution.stop import CEILING, StopRequest


def test_a_stop_reaches_the_run_that_goes_on_and_the_next_ones() -> None:
    whole = StopRequest()
    run = whole.for_next_run()
    whole.request("SIGTERM", "of the whole")
    assert (run.requested, run.reason, run.kind) == (True, "SIGTERM", "of the whole")
    later = whole.for_next_run()
    assert (later.requested, later.reason, later.kind) == (True, "SIGTERM", "of the whole")


def test_the_stop_of_a_run_stops_no_other() -> None:
    whole = StopRequest()
    first = whole.for_next_run()
    first.request("too dear", CEILING)
    assert not whole.requested and not whole.for_next_run().requested
    whole.request("SIGTERM")
    assert (first.reason, first.kind) == ("too dear", CEILING), "the first reason is kept"


def test_waiting_ends_with_the_event_or_the_stop() -> None:
    async def wait(sets: bool) -> bool:
        stop, event = StopRequest(), asyncio.Event()
        if sets:
            asyncio.get_running_loop().call_later(0.05, event.set)
        else:
            threading.Timer(0.05, stop.request, ["test"]).start()
        return await asyncio.wait_for(stop.comes_before(event), 30)

    assert asyncio.run(wait(sets=True)) is False
    assert asyncio.run(wait(sets=False)) is True


def test_a_signal_is_handled_between_the_slices_of_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, nothing interrupts a wait. Here, a signal that came during the first slice is handled after it."""
    stop = StopRequest()
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        stop.request("SIGINT")
        return False

    monkeypatch.setattr(stop._event, "wait", wait)
    assert stop.wait(3600)
    assert len(waited) == 1 and waited[0] <= 0.5


def test_a_wait_without_a_stop_takes_its_time() -> None:
    before = time.monotonic()
    assert not StopRequest().wait(0.3)
    assert 0.25 < time.monotonic() - before < 30
    assert not StopRequest().wait(0)
