"""Several machines that share the pages of a job: who does how many, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import Batch
from comic_upscale.errors import ComicUpscaleError, InputError, RemoteError
from comic_upscale.execution import several
from comic_upscale.execution.base import (
    CRASH,
    Activity,
    Executor,
    ExecutorInfo,
    PageOutcome,
    PageTask,
    PageUpscaled,
    SourceBytes,
)
from comic_upscale.execution.events import Event, Listener, Note
from comic_upscale.execution.remote import RemoteExecutor, RemoteOptions
from comic_upscale.execution.several import FIRST_PAGES, SeveralExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageFailed
from comic_upscale.settings.job import JobSettings
from tests.archives import picture
from tests.fakes import NearestEngine
from tests.machines import FolderMachine


@dataclass
class Box:
    """An executor that says of each page which machine had it, and takes turns with the others.

    Args:
        device: its GPU.
        fails_after: pages after which it is lost, if ever.
        fails_to_open: whether it cannot be prepared.
        turns: of the event loop for each page.
        ends_at: pages that end it.
    """

    device: str = "A"
    fails_after: int | None = None
    fails_to_open: bool = False
    turns: int = 1
    ends_at: frozenset[int] = frozenset()
    accelerator: bool | None = True
    error: ComicUpscaleError = field(default_factory=lambda: RemoteError("the machine is gone"))
    shares: list[list[int]] = field(default_factory=list)
    done: int = 0
    closed: bool = False
    is_remote = True
    activity: Activity = field(default_factory=Activity)
    recovered: set[int] = field(default_factory=set)

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
            if self.done == self.fails_after or task.row_id in self.ends_at:
                raise self.error
            for _ in range(self.turns):
                await asyncio.sleep(0)
            self.done += 1
            if stop.requested:
                return
            yield upscaled(task.row_id, self.device)

    def busy(self) -> dict[str, float]:
        return {"decode": 0.5 if self.device == "A" else 1.0}

    async def close(self) -> None:
        self.closed = True


def upscaled(row_id: int, device: str) -> PageUpscaled:
    return PageUpscaled(
        row_id=row_id, source_sha256="", width=1, height=1, output_width=1, output_height=1, data=b"", sha256="",
        notes=(device,),
    )  # fmt: skip


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
    events: list[Event] | None = None,
) -> Ended:
    events = [] if events is None else events

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
    # Two seconds a page. A share is at most four times as large as the last one: the first pages may be the smallest.
    assert [len(share) for share in box.shares] == [FIRST_PAGES, 64, 120, 120, 120, 120, 40]


def test_pages_that_fail_and_outputs_that_were_there_say_nothing_about_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Half(Box):
        async def process(
            self, tasks: AsyncIterator[PageTask], stop: StopRequest
        ) -> AsyncGenerator[PageOutcome, None]:
            async def looked_at() -> AsyncIterator[PageTask]:
                async for task in tasks:
                    if task.row_id in range(50, 80):
                        self.recovered.add(task.row_id)
                    yield task

            async for outcome in super().process(looked_at(), stop):
                if outcome.row_id < 30:
                    yield PageFailed(row_id=outcome.row_id, source="", kind="damaged", reason="")
                else:
                    yield outcome

    monkeypatch.setattr(several, "time", SimpleNamespace(monotonic=lambda: 0.0))
    box = Half()
    run({"box": box}, 200)
    # The two that it computed show a rate. Of the third share, 30 are only fetched.
    assert [len(share) for share in box.shares] == [16, 16, 64 + 30, 74]


@pytest.mark.parametrize("fails_after", [0, 1, FIRST_PAGES - 1, FIRST_PAGES, FIRST_PAGES + 3])
def test_the_others_do_what_a_lost_machine_left(fails_after: int) -> None:
    boxes = {"lost": Box("A", fails_after=fails_after), "left": Box("B", turns=3)}
    ended = run(boxes, 5 * FIRST_PAGES)
    # Each page once.
    assert rows(ended) == list(range(5 * FIRST_PAGES))
    assert sum(
        outcome.notes == ("A",) for outcome in ended.outcomes if isinstance(outcome, PageUpscaled)
    ) == (fails_after)
    assert ended.notes == ["lost takes no more pages: the machine is gone. 1 of 2 machines continue."]
    assert all(box.closed for box in boxes.values())


def test_a_page_that_ends_machines_is_set_aside_after_three_and_costs_no_other_page() -> None:
    pages = 30 * FIRST_PAGES
    boxes = {str(number): Box(str(number), turns=3, ends_at=frozenset({37})) for number in range(4)}
    ended = run(boxes, pages)
    assert rows(ended) == list(range(pages))
    (failed,) = [outcome for outcome in ended.outcomes if isinstance(outcome, PageFailed)]
    assert (failed.row_id, failed.kind) == (37, CRASH)
    assert failed.reason == "3 machines were lost while they had this page; it is set aside"
    assert len(ended.notes) == 3
    # The first loss is in the middle. The others come after all other pages, with fewer and fewer pages in the share.
    shares = sorted((box.shares[-1] for box in boxes.values() if 37 in box.shares[-1]), key=len)
    assert [len(share) for share in shares] == [1, several.SUSPECT_PAGES, FIRST_PAGES]


def test_pages_of_a_lost_machine_wait_for_all_others() -> None:
    """Two machines, of which one page ends both: everything else is done before the second one meets it."""
    boxes = {name: Box(name, ends_at=frozenset({5})) for name in ("a", "b")}
    done: list[int] = []

    async def work() -> None:
        executor = SeveralExecutor(boxes)
        async for outcome in executor.process(tasks_of(20 * FIRST_PAGES), StopRequest()):
            done.append(outcome.row_id)

    with pytest.raises(RemoteError, match="the machine is gone"):
        asyncio.run(work())
    (lost,) = [
        share for box in boxes.values() for share in box.shares if 5 in share and len(share) == FIRST_PAGES
    ]
    assert len(set(done)) == len(done)
    assert set(range(20 * FIRST_PAGES)) - set(lost) <= set(done)


def test_machines_that_are_lost_in_turn_set_no_page_aside() -> None:
    """Machines that a provider takes back: whichever pages they had, none of them has ended three."""
    boxes = {str(n): Box(str(n), fails_after=(n + 1) * 20) for n in range(4)} | {"left": Box("left")}
    ended = run(boxes, 20 * FIRST_PAGES)
    assert rows(ended) == list(range(20 * FIRST_PAGES))
    assert all(isinstance(outcome, PageUpscaled) for outcome in ended.outcomes)


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
        {"a": Box(fails_to_open=True), "b": Box(fails_to_open=True, error=RemoteError("the disk is full"))},
        {"a": Box(fails_after=3), "b": Box(fails_after=20, error=RemoteError("the disk is full"))},
    ],
    ids=["at the start", "later"],
)
def test_without_any_machine_it_ends_with_the_last_error(boxes: dict[str, Box]) -> None:
    events: list[Event] = []
    # Each error is told once: that of a machine was a note, if others were left.
    with pytest.raises(RemoteError, match="the disk is full"):
        run(boxes, 100, events=events)
    (told,) = [event.text for event in events if isinstance(event, Note)]
    assert "a takes no more pages: the machine is gone." in told
    assert ("machines continue" in told) is not boxes["a"].fails_to_open
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


def test_outputs_of_an_earlier_command_are_fetched_and_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine did a job alone, and nobody fetched its outputs; now it has help."""
    monkeypatch.setattr(several, "FIRST_PAGES", 3)
    (weights := tmp_path / "any.safetensors").write_bytes(b"weights")
    settings = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", model=str(weights), workers=2, scale=2.0
    )
    pages = [picture(number, (24, 32)) for number in range(12)]
    recovered: set[int] = set()

    until = time.monotonic() + 60

    def wait(batch: Batch) -> None:
        # The other machine looks at its pages meanwhile.
        while len(recovered) < 5 and time.monotonic() < until:
            time.sleep(0.01)

    engines = NearestEngine(), NearestEngine(wait)
    hosts = [FolderMachine(tmp_path / str(number), engine) for number, engine in enumerate(engines)]

    def computed() -> int:
        return sum(shape[0] for engine in engines for shape in engine.batches)

    async def tasks(count: int) -> AsyncIterator[PageTask]:
        for row_id, page in enumerate(pages[:count]):

            async def read(page: bytes = page) -> SourceBytes:
                return SourceBytes(page)

            yield PageTask(row_id=row_id, source=f"{row_id}.png", format="png", extension="png", read=read)

    async def process(executor: Executor, count: int) -> list[PageOutcome]:
        await executor.open(
            settings, model="", fingerprint="f", spending=None, on_progress=lambda event: None
        )
        try:
            return [outcome async for outcome in executor.process(tasks(count), StopRequest())]
        finally:
            await executor.close()

    asyncio.run(process(RemoteExecutor(RemoteOptions(hosts[0], poll=0.1)), 8))
    before = computed()
    hosts[0].sent.clear()
    executors = {
        host.folder.name: RemoteExecutor(RemoteOptions(host, poll=0.1, in_shares=True)) for host in hosts
    }
    for executor in executors.values():
        executor.recovered = recovered
    outcomes = asyncio.run(process(SeveralExecutor(executors), 12))
    for host in hosts:
        host.wait()
    assert sorted(outcome.row_id for outcome in outcomes) == list(range(12))
    assert all(isinstance(outcome, PageUpscaled) for outcome in outcomes)
    # The other machine may have taken its first share from them.
    assert len(recovered) >= 8 - 3
    assert computed() - before == 12 - len(recovered)
    assert len(hosts[0].sent) <= 4
