"""Several machines that share the pages of a job: who does how many, and what happens when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import ComicUpscaleError, InputError, RemoteError
from comic_upscale.execution import several
from comic_upscale.execution.base import Activity, ExecutorInfo, PageOutcome, PageTask, SourceBytes
from comic_upscale.execution.events import Event, Listener, Note
from comic_upscale.execution.several import FIRST_PAGES, SeveralExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageFailed
from comic_upscale.settings.job import JobSettings


@dataclass
class Box:
    """An executor that says of each page which machine had it, and takes turns with the others.

    Args:
        device: its GPU.
        fails_after: pages after which it is lost, if ever.
        fails_to_open: whether it cannot be prepared.
        turns: of the event loop for each page.
    """

    device: str = "A"
    fails_after: int | None = None
    fails_to_open: bool = False
    turns: int = 1
    accelerator: bool | None = True
    error: ComicUpscaleError = field(default_factory=lambda: RemoteError("the machine is gone"))
    shares: list[list[int]] = field(default_factory=list)
    done: int = 0
    closed: bool = False
    is_remote = True
    activity: Activity = field(default_factory=Activity)

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        return self.accelerator

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        if self.fails_to_open:
            raise self.error
        return self.info()

    def info(self) -> ExecutorInfo:
        return ExecutorInfo(device=f"remote: {self.device}", precision="", native_scale=None)

    async def process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        # Like a machine over SSH: it takes everything first.
        taken = [task async for task in tasks]
        self.shares.append([task.row_id for task in taken])
        for task in taken:
            if self.done == self.fails_after:
                raise self.error
            for _ in range(self.turns):
                await asyncio.sleep(0)
            self.done += 1
            if stop.requested:
                return
            yield PageFailed(row_id=task.row_id, source=task.source, kind=self.device, reason="")

    def busy(self) -> dict[str, float]:
        return {"decode": 0.5 if self.device == "A" else 1.0}

    async def close(self) -> None:
        self.closed = True


async def tasks_of(count: int) -> AsyncIterator[PageTask]:
    async def read() -> SourceBytes:
        raise AssertionError("nobody looks at these pages")

    for row_id in range(count):
        await asyncio.sleep(0)
        yield PageTask(row_id=row_id, source=f"{row_id}.png", format="png", extension="png", read=read)


@dataclass
class Ended:
    """What a run over boxes came to."""

    outcomes: list[PageOutcome]
    notes: list[str]
    info: ExecutorInfo


def run(
    boxes: dict[str, Box],
    pages: int,
    stop: StopRequest | None = None,
    tasks: AsyncIterator[PageTask] | None = None,
) -> Ended:
    events: list[Event] = []

    async def work() -> Ended:
        executor = SeveralExecutor(boxes)
        settings = JobSettings(input=Path("in"), output=Path("out"))
        try:
            await executor.has_accelerator(settings, events.append)
            await executor.open(
                settings, model="any", fingerprint="f", spending=None, on_progress=events.append
            )
            source = tasks_of(pages) if tasks is None else tasks
            outcomes = [outcome async for outcome in executor.process(source, stop or StopRequest())]
            return Ended(
                outcomes, [event.text for event in events if isinstance(event, Note)], executor.info()
            )
        finally:
            await executor.close()

    async def in_time() -> Ended:
        try:
            return await asyncio.wait_for(work(), 60)
        finally:
            # Nothing of an executor outlives it.
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(in_time())


def rows(ended: Ended) -> list[int]:
    return sorted(outcome.row_id for outcome in ended.outcomes)


def test_a_machine_that_is_faster_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**9))
    # A clock that goes on with each look at it, so that shares do not grow beyond the test.
    monkeypatch.setattr(several, "time", SimpleNamespace(monotonic=lambda: next(ticks) * 1e4))
    boxes = {"slow": Box("A", turns=40), "fast": Box("B", turns=1)}
    ended = run(boxes, 20 * FIRST_PAGES)
    assert rows(ended) == list(range(20 * FIRST_PAGES))
    assert boxes["fast"].done > 4 * boxes["slow"].done > 0
    assert ended.info.device == "remote: A, B"


def test_a_share_lasts_some_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Timed(Box):
        async def process(
            self, tasks: AsyncIterator[PageTask], stop: StopRequest
        ) -> AsyncGenerator[PageOutcome, None]:
            async for outcome in super().process(tasks, stop):
                clock[0] += 2.0
                yield outcome

    monkeypatch.setattr(several, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    box = Timed()
    run({"box": box}, 600)
    # Two seconds a page.
    assert [len(share) for share in box.shares] == [FIRST_PAGES, 120, 120, 120, 120, 104]


@pytest.mark.parametrize("fails_after", [0, 1, FIRST_PAGES - 1, FIRST_PAGES, FIRST_PAGES + 3])
def test_the_others_do_what_a_lost_machine_left(fails_after: int) -> None:
    boxes = {"lost": Box("A", fails_after=fails_after), "left": Box("B", turns=3)}
    ended = run(boxes, 5 * FIRST_PAGES)
    # Each page once.
    assert rows(ended) == list(range(5 * FIRST_PAGES))
    assert (
        sum(outcome.kind == "A" for outcome in ended.outcomes if isinstance(outcome, PageFailed))
        == fails_after
    )
    assert ended.notes == ["lost takes no more pages: the machine is gone. The others go on."]
    assert all(box.closed for box in boxes.values())


def test_a_machine_that_waits_at_the_end_takes_over() -> None:
    """The other one is lost when there are no more tasks to come."""
    boxes = {"lost": Box("A", fails_after=2, turns=500), "left": Box("B")}
    ended = run(boxes, FIRST_PAGES + 3)
    assert rows(ended) == list(range(FIRST_PAGES + 3))
    assert len(boxes["left"].shares) >= 2


def test_a_machine_that_cannot_be_prepared_is_left_out() -> None:
    boxes = {"bad": Box("A", fails_to_open=True), "good": Box("B")}
    ended = run(boxes, 5)
    assert (rows(ended), boxes["bad"].shares) == (list(range(5)), [])
    assert ended.info.device == "remote: B"
    assert len(ended.notes) == 1


@pytest.mark.parametrize(
    "boxes",
    [
        {"a": Box(fails_to_open=True), "b": Box(fails_to_open=True)},
        {"a": Box(fails_after=3), "b": Box(fails_after=20)},
    ],
    ids=["at the start", "later"],
)
def test_without_any_machine_it_ends_with_the_first_error(boxes: dict[str, Box]) -> None:
    with pytest.raises(RemoteError, match="the machine is gone"):
        run(boxes, 100)
    assert all(box.closed for box in boxes.values())


def test_an_error_that_is_not_about_a_machine_ends_it() -> None:
    boxes = {"a": Box(fails_after=3, error=InputError("the input is gone")), "b": Box()}
    with pytest.raises(InputError):
        run(boxes, 100)

    async def torn() -> AsyncIterator[PageTask]:
        async for task in tasks_of(3):
            yield task
        raise InputError("the list is torn")

    with pytest.raises(InputError, match="torn"):
        run({"a": Box(), "b": Box()}, 0, tasks=torn())


def test_a_stop_ends_all_of_them() -> None:
    stop = StopRequest()

    async def stopping() -> AsyncIterator[PageTask]:
        async for task in tasks_of(100):
            if task.row_id == 40:
                stop.request("enough")
                return
            yield task

    ended = run({"a": Box(), "b": Box(turns=3)}, 0, stop, stopping())
    assert len(set(rows(ended))) == len(ended.outcomes) < 40


@pytest.mark.parametrize(
    ("answers", "together"), [((True, True), True), ((True, False), False), ((True, None), None)]
)
def test_all_of_them_have_an_accelerator_or_none(
    answers: tuple[bool | None, bool | None], together: bool | None
) -> None:
    executor = SeveralExecutor({str(n): Box(accelerator=each) for n, each in enumerate(answers)})
    settings = JobSettings(input=Path("in"), output=Path("out"))
    assert asyncio.run(executor.has_accelerator(settings, lambda event: None)) is together


def test_stages_are_averaged() -> None:
    executor = SeveralExecutor({"a": Box("A"), "b": Box("B")})
    settings = JobSettings(input=Path("in"), output=Path("out"))
    asyncio.run(
        executor.open(settings, model="", fingerprint="", spending=None, on_progress=lambda event: None)
    )
    assert executor.busy() == {"decode": 0.75}
