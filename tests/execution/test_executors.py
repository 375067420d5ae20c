"""What every executor promises a job: the same tests over each of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, Engine
from comic_upscale.errors import ComicUpscaleError, DeviceError, InputError, PageError, RemoteError
from comic_upscale.execution import remote_pages
from comic_upscale.execution.base import Executor, PageOutcome, PageTask, PageUpscaled, SourceBytes
from comic_upscale.execution.local import devices
from comic_upscale.execution.local.executor import LocalExecutor
from comic_upscale.execution.remote import RemoteExecutor, RemoteOptions
from comic_upscale.execution.remote_host import PollResult
from comic_upscale.execution.several import SeveralExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_client import WorkerExecutor
from comic_upscale.ledger.records import LARGE_ENOUGH, PageFailed, PageProgress, PageSkipped
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.rules import Conditions, Rule
from comic_upscale.settings.sizes import Bounds
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.listen import SocketWorker
from tests.archives import picture
from tests.fakes import NearestEngine, TellingEngine, pause
from tests.machines import FolderMachine

TIMEOUT = 60.0
"""Seconds after which something hangs."""


def no_engines(*_: object) -> list[Engine]:
    raise AssertionError("the run opened engines of its own")


@dataclass
class Side:
    """An executor of one kind, with what a test needs to know of the kind."""

    name: str
    folder: Path
    kind: type[FolderMachine] = FolderMachine
    machines: list[FolderMachine] = field(default_factory=list)

    def remote(self, engine: NearestEngine, number: int = 1) -> RemoteExecutor:
        self.machines.append(self.kind(self.folder / f"machine {number}", engine))
        in_shares = self.name == "several"
        return RemoteExecutor(RemoteOptions(self.machines[-1], poll=0.1, in_shares=in_shares))

    @asynccontextmanager
    async def open(self, settings: JobSettings, engine: NearestEngine) -> AsyncIterator[Executor]:
        executor: Executor
        cache = EngineCache(lambda *_: [engine])
        if self.name == "local":
            executor = LocalExecutor(lambda *_: [engine])
        elif self.name == "worker":
            worker = SocketWorker(self.folder / "private" / "w", cache, StopRequest())
            executor = WorkerExecutor(worker.path, no_engines)
        elif self.name == "several":
            executor = SeveralExecutor({f"box {each}": self.remote(engine, each) for each in (1, 2)})
        else:
            executor = self.remote(engine)
        async with AsyncExitStack() as stack:
            if self.name == "worker":
                stack.callback(cache.close)
                await stack.enter_async_context(worker.listening())
            stack.push_async_callback(executor.close)
            await executor.open(
                settings, model="any", fingerprint="f" * 32, spending=None, on_progress=lambda event: None
            )
            try:
                yield executor
            finally:
                if self.machines:
                    await executor.close()
                for machine in self.machines:
                    machine.wait()

    @property
    def engine_error(self) -> type[ComicUpscaleError]:
        """What an engine that dies looks like from here."""
        return DeviceError if self.name in ("local", "worker") else RemoteError


@pytest.fixture(params=["local", "remote", "worker", "several"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    return Side(request.param, tmp_path)


MakeSettings = Callable[..., JobSettings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings at 2x; the file that stands for weights is never loaded."""
    weights = tmp_path / "any.safetensors"
    weights.write_bytes(b"weights")

    def make(**changes: Any) -> JobSettings:
        return JobSettings(
            input=tmp_path / "in",
            output=tmp_path / "out",
            model=str(weights),
            workers=2,
            scale=2.0,
            **changes,
        )

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> JobSettings:
    return make_settings()


Read = Callable[[], Awaitable[SourceBytes]]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def reading(content: bytes | Exception) -> Read:
    async def read() -> SourceBytes:
        await asyncio.sleep(0)
        if isinstance(content, Exception):
            raise content
        return SourceBytes(content)

    return read


async def tasks_of(pages: Mapping[str, bytes | Exception], first: int = 0) -> AsyncIterator[PageTask]:
    """Tasks over contents, with row ids from a number on; an exception is what reading the page raises."""
    for row_id, (name, content) in enumerate(pages.items(), first):
        await asyncio.sleep(0)
        yield PageTask(row_id=row_id, source=name, format="png", extension="png", read=reading(content))


async def process(
    executor: Executor, tasks: AsyncIterator[PageTask], stop: StopRequest | None = None
) -> list[PageOutcome]:
    return [outcome async for outcome in executor.process(tasks, stop or StopRequest())]


def run(work: Awaitable[list[PageOutcome]]) -> list[PageOutcome]:
    async def in_time() -> list[PageOutcome]:
        outcomes = await asyncio.wait_for(work, TIMEOUT)
        # Nothing of an executor outlives it.
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcomes

    return asyncio.run(in_time())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not [name for name in left if name.startswith(("worker", "device", "remote", "files"))]


def doubled(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).repeat(2, axis=0).repeat(2, axis=1)


def pictures(count: int) -> dict[str, bytes | Exception]:
    """Pages in three shapes."""
    return {f"{number:02}.png": picture(number, (24 + number % 3, 32)) for number in range(count)}


def test_every_task_gets_one_outcome_and_its_own_pixels(side: Side, settings: JobSettings) -> None:
    pages = pictures(12)

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine(limit=4)) as executor:
            return await process(executor, tasks_of(pages))

    outcomes = run(work())
    assert sorted(outcome.row_id for outcome in outcomes) == list(range(12))
    contents = list(pages.values())
    for outcome in outcomes:
        assert isinstance(outcome, PageUpscaled)
        content = contents[outcome.row_id]
        assert isinstance(content, bytes)
        assert outcome.source_sha256 == hashlib.sha256(content).hexdigest()
        assert outcome.sha256 == hashlib.sha256(outcome.data).hexdigest()
        with Image.open(io.BytesIO(outcome.data)) as image:
            assert np.array_equal(np.asarray(image), doubled(content))
            assert image.size == (outcome.output_width, outcome.output_height)
        assert (outcome.width * 2, outcome.height * 2) == (outcome.output_width, outcome.output_height)
        assert {"decode", "upscale", "encode"} <= outcome.seconds.keys()


def test_the_page_in_progress_is_one_of_the_pages(side: Side, settings: JobSettings) -> None:
    pages = pictures(6)
    told: list[str | None] = []

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            outcomes = []
            async for outcome in executor.process(tasks_of({**pages, "bad.png": b"bad"}), StopRequest()):
                told.append(executor.activity.in_hand)
                outcomes.append(outcome)
            return outcomes

    assert len(run(work())) == 7
    assert {name for name in told if name is not None} <= {*pages, "bad.png"}
    assert told[-1] is not None, "after pages that succeeded, too"


def test_filters_and_rules_come_before_the_network(side: Side, make_settings: MakeSettings) -> None:
    pages: dict[str, bytes | Exception] = {}
    for name, mode in (("gray.png", "L"), ("colour.png", "RGB")):
        noise = (
            np.random.default_rng(1)
            .integers(60, 200, (12, 12, 3), np.uint8)
            .repeat(8, axis=0)
            .repeat(8, axis=1)
        )
        buffer = io.BytesIO()
        Image.fromarray(noise[:, :, 0] if mode == "L" else noise).save(buffer, "png")
        pages[name] = buffer.getvalue()
    rule = Rule(Conditions(gray=True, min_height=90), (("levels", Levels(100, 150)),))

    async def work() -> list[PageOutcome]:
        async with side.open(make_settings(rules=(rule,)), NearestEngine()) as executor:
            return await process(executor, tasks_of(pages))

    outcomes = {list(pages)[outcome.row_id]: outcome for outcome in run(work())}
    made = {}
    for name, outcome in outcomes.items():
        assert isinstance(outcome, PageUpscaled) and not outcome.suspect and outcome.scores
        with Image.open(io.BytesIO(outcome.data)) as image:
            made[name] = np.asarray(image)
    gray, colour = (doubled(content) for content in pages.values() if isinstance(content, bytes))
    assert (made["gray.png"][gray < 100] == 0).all() and (made["gray.png"][gray > 150] == 255).all()
    assert np.array_equal(made["colour.png"], colour)
    notes = [outcomes[name].notes for name in pages]  # type: ignore[union-attr]
    assert notes[0] and "levels" in notes[0][0] and not notes[1]


def test_a_page_that_fails_is_a_value_and_the_others_go_on(side: Side, settings: JobSettings) -> None:
    good = picture(1)
    pages: dict[str, bytes | Exception] = {
        "good.png": good,
        "empty.png": b"",
        "no image.png": b"text",
        "cut off.png": picture(2)[:-200],
        "unreadable.png": PageError("permission", "no permission to read the file"),
        "a bug.png": RuntimeError("nobody foresaw it"),
        "last.png": picture(3),
    }

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, tasks_of(pages))

    outcomes = {list(pages)[outcome.row_id]: outcome for outcome in run(work())}
    assert outcomes.keys() == pages.keys()
    kinds = {name: outcome.kind for name, outcome in outcomes.items() if isinstance(outcome, PageFailed)}
    assert kinds == {
        "empty.png": "empty",
        "no image.png": "not-an-image",
        "cut off.png": "truncated",
        "unreadable.png": "permission",
        "a bug.png": "internal",
    }
    assert all(
        outcome.source == name for name, outcome in outcomes.items() if isinstance(outcome, PageFailed)
    )


def test_the_engine_fails_one_page_of_a_batch(side: Side, settings: JobSettings) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 32), (255, 0, 255)).save(buffer, "png")
    pages = {f"{number}.png": picture(number) for number in range(4)} | {"guilty.png": buffer.getvalue()}

    def refuse(batch: Batch) -> None:
        if (batch.pixels[:, 0, 0] == (255, 0, 255)).all(-1).any():
            raise PageError("not-finite", "numbers that are none")

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine(refuse, limit=5)) as executor:
            return await process(executor, tasks_of(pages))

    outcomes = run(work())
    failed = [outcome for outcome in outcomes if isinstance(outcome, PageFailed)]
    assert (len(outcomes), len(failed), failed[0].row_id, failed[0].kind) == (5, 1, 4, "not-finite")


# A machine over SSH is asked for finished pages alone.
@pytest.mark.parametrize("side", ["local", "worker"], indirect=True)
def test_what_is_done_within_a_page_is_told(side: Side, settings: JobSettings) -> None:
    seen = side.folder / "seen"

    def wait(batch: Batch) -> None:
        until = time.monotonic() + TIMEOUT
        while not seen.exists() and time.monotonic() < until:
            time.sleep(0.02)

    async def work() -> list[PageOutcome]:
        async with side.open(settings, TellingEngine(wait)) as executor:
            working = asyncio.create_task(process(executor, tasks_of(pictures(2), 5)))
            halves = [
                PageProgress(source=f"{number:02}.png", unit="tile", done=1, total=2) for number in (0, 1)
            ]
            await until(lambda: executor.activity.within in [{5: halves[0]}, {6: halves[1]}])
            seen.touch()
            outcomes = await working
            # Actors tell it a moment later.
            await until(lambda: not executor.activity.within)
        return outcomes

    assert [outcome.row_id for outcome in sorted(run(work()), key=lambda outcome: outcome.row_id)] == [5, 6]


def test_a_page_that_is_left_as_it_is(side: Side, make_settings: MakeSettings) -> None:
    settings = make_settings(skip_larger_than=Bounds.parse("30x40"))
    pages = {"small.png": picture(1), "large.png": picture(2, (31, 32))}

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, tasks_of(pages))

    done, skipped = sorted(run(work()), key=lambda outcome: outcome.row_id)
    assert isinstance(done, PageUpscaled)
    assert isinstance(skipped, PageSkipped)
    assert (skipped.kind, skipped.width, skipped.height) == (LARGE_ENOUGH, 31, 32)


def test_tasks_of_one_content_get_an_outcome_each(side: Side, settings: JobSettings) -> None:
    """A job sends each content once, except rendered pages, whose content it cannot know before."""
    same = picture(1)

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, tasks_of({"a.png": same, "b.png": same, "c.png": same}))

    outcomes = run(work())
    assert sorted(outcome.row_id for outcome in outcomes) == [0, 1, 2]
    assert len({outcome.data for outcome in outcomes if isinstance(outcome, PageUpscaled)}) == 1


def test_no_task_at_all(side: Side, settings: JobSettings) -> None:
    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, tasks_of({}))

    assert run(work()) == []


def test_it_may_be_asked_again(side: Side, settings: JobSettings) -> None:
    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            first = await process(executor, tasks_of(pictures(3)))
            # One of them was lost on its way to its place, or is wanted under another name.
            second = await process(executor, tasks_of({"new.png": picture(50), "again.png": picture(0)}, 10))
            return [*first, *second]

    outcomes = run(work())
    assert sorted(outcome.row_id for outcome in outcomes) == [0, 1, 2, 10, 11]
    assert all(isinstance(outcome, PageUpscaled) for outcome in outcomes)


def test_a_machine_that_tells_each_page_once_is_asked_again_all_the_same(
    tmp_path: Path, settings: JobSettings
) -> None:
    class TellsOnce(FolderMachine):
        told: ClassVar[set[str]] = set()

        def poll(self) -> PollResult:
            result = super().poll()
            new = tuple(page for page in result.pages if page.name not in self.told)
            self.told.update(page.name for page in new)
            return replace(result, pages=new)

    side = Side("remote", tmp_path, TellsOnce)

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            first = await process(executor, tasks_of({"a.png": picture(0)}))
            return [*first, *await process(executor, tasks_of({"again.png": picture(0)}, 1))]

    first, second = run(work())
    assert isinstance(first, PageUpscaled)
    assert isinstance(second, PageUpscaled)
    assert first.data == second.data


def test_more_pages_than_may_be_in_flight_at_once(
    side: Side, settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for two pages; each of the last two is more than that.
    monkeypatch.setattr(devices, "pixel_budget", lambda workers, engines: 2 * 48 * 64)
    pages = pictures(12) | {"large.png": picture(40, (200, 100)), "larger.png": picture(41, (200, 101))}

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine(limit=4)) as executor:
            return await process(executor, tasks_of(pages))

    outcomes = run(work())
    assert sorted(outcome.row_id for outcome in outcomes) == list(range(14))
    assert all(isinstance(outcome, PageUpscaled) for outcome in outcomes)


def test_a_page_that_failed_is_told_again_for_another_of_its_content(
    side: Side, settings: JobSettings
) -> None:
    broken = picture(2)[:-200]

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            first = await process(executor, tasks_of({"a.png": broken}))
            polls = [machine.polls for machine in side.machines]
            second = await process(executor, tasks_of({"b.png": broken}, 1))
            if side.name == "remote":
                assert [machine.polls for machine in side.machines] == polls, "it knows already"
            return [*first, *second]

    first, second = run(work())
    assert isinstance(first, PageFailed)
    assert isinstance(second, PageFailed)
    assert (first.source, second.source) == ("a.png", "b.png")
    assert (first.kind, first.reason) == (second.kind, second.reason)


def test_a_stop_in_the_middle_leaves_the_rest_and_does_not_hang(
    side: Side, settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_pages, "FETCH_PAGES", 2)
    pages, stop = pictures(60), StopRequest()

    async def work() -> list[PageOutcome]:
        outcomes = []
        async with side.open(settings, NearestEngine(pause(0.01))) as executor:
            async for outcome in executor.process(tasks_of(pages), stop):
                outcomes.append(outcome)
                stop.request("enough")
        return outcomes

    outcomes = run(work())
    assert 0 < len(outcomes) < 60
    assert len({outcome.row_id for outcome in outcomes}) == len(outcomes)
    assert all(isinstance(outcome, PageUpscaled) for outcome in outcomes)


def test_a_stop_before_the_beginning(side: Side, settings: JobSettings) -> None:
    stop, engine = StopRequest(), NearestEngine()
    stop.request("at once")

    async def work() -> list[PageOutcome]:
        async with side.open(settings, engine) as executor:
            return await process(executor, tasks_of(pictures(5)), stop)

    assert run(work()) == []
    assert engine.batches == []


def test_a_stop_while_tasks_are_slow_to_come(side: Side, settings: JobSettings) -> None:
    """The source of tasks knows of the stop itself, and ends."""
    stop = StopRequest()

    async def slowly() -> AsyncIterator[PageTask]:
        async for task in tasks_of(pictures(2)):
            yield task
        stop.request("enough")

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine(pause(0.2))) as executor:
            return await process(executor, slowly(), stop)

    assert len(run(work())) <= 2


def test_an_engine_that_dies_ends_it_with_that_error(side: Side, settings: JobSettings) -> None:
    calls = []

    def die(batch: Batch) -> None:
        calls.append(1)
        if len(calls) >= 4:
            raise DeviceError("the GPU fell off the bus")

    engine = NearestEngine(die)
    seen: list[PageOutcome] = []

    async def work() -> list[PageOutcome]:
        async with side.open(settings, engine) as executor:
            async for outcome in executor.process(tasks_of(pictures(20)), StopRequest()):
                seen.append(outcome)
        raise AssertionError("it ended as if nothing had happened")

    with pytest.raises(side.engine_error, match="fell off the bus"):
        run(work())
    assert len(seen) < 20
    assert engine.closed


def test_an_input_that_goes_away_ends_it_with_that_error(side: Side, settings: JobSettings) -> None:
    pages = pictures(5) | {"gone.png": InputError("the input is gone")} | {"more.png": picture(40)}

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, tasks_of(pages))

    with pytest.raises(InputError, match="is gone"):
        run(work())


def test_tasks_that_cannot_be_had_end_it_with_that_error(side: Side, settings: JobSettings) -> None:
    async def broken() -> AsyncIterator[PageTask]:
        async for task in tasks_of(pictures(3)):
            yield task
        raise InputError("the list is torn")

    async def work() -> list[PageOutcome]:
        async with side.open(settings, NearestEngine()) as executor:
            return await process(executor, broken())

    with pytest.raises(InputError, match="torn"):
        run(work())


def test_who_takes_no_more_outcomes_leaves_nothing_running(side: Side, settings: JobSettings) -> None:
    async def work() -> list[PageOutcome]:
        async with (
            side.open(settings, NearestEngine(pause(0.01))) as executor,
            aclosing(executor.process(tasks_of(pictures(30)), StopRequest())) as outcomes,
        ):
            return [await anext(outcomes)]

    assert len(run(work())) == 1


def test_a_caller_that_is_cancelled_is_not_held_up(side: Side, settings: JobSettings) -> None:
    release = threading.Event()

    async def work() -> list[PageOutcome]:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(batch: Batch) -> None:
            loop.call_soon_threadsafe(begun.set)
            release.wait(TIMEOUT)

        async with side.open(settings, NearestEngine(wait)) as executor:
            working = asyncio.create_task(process(executor, tasks_of(pictures(5))))
            await begun.wait()
            working.cancel()
            # The engine's thread cannot be cancelled: it is waited for when the executor is closed.
            threading.Timer(0.1, release.set).start()
            with pytest.raises(asyncio.CancelledError):
                await working
        return []

    assert run(work()) == []


def test_results_do_not_depend_on_the_executor(tmp_path: Path, settings: JobSettings) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 30), np.uint8)).save(buffer, "png")
    pages = pictures(6) | {
        "gray.png": buffer.getvalue(),
        "cut off.png": picture(9)[:-100],
        "none.png": b"none",
    }

    def results(name: str) -> dict[int, tuple[object, ...]]:
        side = Side(name, tmp_path)

        async def work() -> list[PageOutcome]:
            async with side.open(settings, NearestEngine(limit=3)) as executor:
                return await process(executor, tasks_of(pages))

        return {outcome.row_id: _told(outcome) for outcome in run(work())}

    assert results("local") == results("remote")


def _told(outcome: PageOutcome) -> tuple[object, ...]:
    if isinstance(outcome, PageUpscaled):
        return outcome.sha256, outcome.source_sha256, outcome.output_width, outcome.notes, outcome.suspect
    return type(outcome), outcome.source, outcome.kind, outcome.reason
