"""A job whose pages are watched one by one, because one of them may have ended a process before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.local.steps import Decoded, PageSteps
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeSettings
from tests.fakes import NearestEngine


class OneByOne:
    """Lets no page begin while another is in flight."""

    is_careful = True

    def __init__(self) -> None:
        self.in_flight: set[str] = set()
        self.most_in_flight = 0

    def plan(self, sources: Sequence[str]) -> None:
        self.planned = list(sources)

    def refuse(self, source: str) -> str | None:
        return None

    def begin(self, source: str) -> None:
        self.in_flight.add(source)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))

    def end(self, source: str, *, done: bool) -> None:
        self.in_flight.discard(source)


def run(settings: JobSettings, watch: OneByOne, stop: StopRequest | None = None) -> JobFinished:
    return run_job(settings, watch=watch, stop=stop, open_engines=lambda *_: [NearestEngine()])


def test_pages_are_in_flight_one_by_one(make_settings: MakeSettings) -> None:
    watch = OneByOne()

    finished = run(make_settings(), watch)

    assert (finished.done, watch.most_in_flight) == (finished.total, 1)
    assert not watch.in_flight


def test_a_stop_ends_the_wait_for_a_page_that_was_dropped(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, within: Callable[..., JobFinished]
) -> None:
    stop, watch, waiting = StopRequest(), OneByOne(), threading.Event()
    decode = PageSteps.decode

    def decode_after_the_stop(steps: PageSteps, *args: object) -> Decoded:
        assert stop.wait(30)
        return decode(steps, *args)  # type: ignore[arg-type]

    async def note_the_wait(self: StopRequest, event: asyncio.Event) -> bool:
        # The first page does not wait: nothing is in flight.
        if not event.is_set():
            waiting.set()
        return await comes_before(self, event)

    def stop_once_the_next_page_waits() -> None:
        assert waiting.wait(30)
        stop.request("test")

    comes_before = StopRequest.comes_before
    monkeypatch.setattr(StopRequest, "comes_before", note_the_wait)
    monkeypatch.setattr(PageSteps, "decode", decode_after_the_stop)
    threading.Thread(target=stop_once_the_next_page_waits).start()

    finished = within(lambda: run(make_settings(), watch, stop))

    assert (finished.state, finished.done) == ("interrupted", 0)
    assert len(watch.in_flight) == 1, "the page that was dropped"


@pytest.fixture
def within() -> Callable[..., JobFinished]:
    """Return the result of a call, which must end within a minute."""

    def call(work: Callable[[], JobFinished]) -> JobFinished:
        found: list[JobFinished] = []
        thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
        thread.start()
        thread.join(60)
        assert found, "the run does not end"
        return found[0]

    return call
