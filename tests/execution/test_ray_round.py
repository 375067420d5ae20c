"""A round over actors in this process: who gets which page, what happens when actors die, and what is done twice."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comic_upscale.engines.base import Batch
from comic_upscale.errors import ComicUpscaleError, DeviceError, RemoteError
from comic_upscale.execution.base import CRASH, Activity, ExecutorInfo, PageOutcome, PageTask, PageUpscaled
from comic_upscale.execution.ray import executor as executors
from comic_upscale.execution.ray import pool as pools
from comic_upscale.execution.ray import round as rounds
from comic_upscale.execution.ray.actor import ActorSetup, ActorTask, PageActor
from comic_upscale.execution.ray.executor import RayExecutor
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.execution.ray.page_server import PageServer
from comic_upscale.execution.ray.pool import Actor
from comic_upscale.execution.ray.round import Round
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_protocol import VERSION
from comic_upscale.imaging.encode import check_encoded
from comic_upscale.ledger.records import PageFailed
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.rules import Conditions, Rule
from comic_upscale.storage.base import Token
from tests.archives import picture
from tests.execution.test_executors import pictures, tasks_of
from tests.fakes import NearestEngine, pause
from tests.storage.conftest import OpenBucket, bucket_of, open_bucket, servers
from tests.storage.memory import MemoryOutputStore

__all__ = ["open_bucket", "servers"]

ray = pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")


class Handle:
    """Calls an actor of this process as Ray calls one of another.

    Args:
        actor: started.
        kills: says of a task whether it ends the actor.
    """

    def __init__(self, actor: PageActor, kills: Callable[[ActorTask], bool] = lambda _: False) -> None:
        self.actor, self.seen = actor, list[str]()
        self._kills = kills
        self._is_dead = asyncio.Event()
        self.do = SimpleNamespace(remote=self._do)
        self.stop = SimpleNamespace(remote=lambda: asyncio.ensure_future(actor.stop()))

    async def _do(self, task: ActorTask) -> dict[str, Any]:
        self.seen.append(task.source)
        if self._kills(task):
            self._is_dead.set()
        doing = asyncio.ensure_future(self.actor.do(task))
        dying = asyncio.ensure_future(self._is_dead.wait())
        try:
            await asyncio.wait({doing, dying}, return_when=asyncio.FIRST_COMPLETED)
            if self._is_dead.is_set():
                raise ray.exceptions.RayActorError()
            return doing.result()
        finally:
            for each in (doing, dying):
                each.cancel()
            await asyncio.gather(doing, dying, return_exceptions=True)


class Pool:
    """Actors of this process, of which a new one takes the place of each that dies."""

    def __init__(self, make: Callable[[], Awaitable[Actor]]) -> None:
        self.actors: list[Actor] = []
        self.changed = asyncio.Event()
        self.failure: ComicUpscaleError | None = None
        self.retired: list[Actor] = []
        self._make = make
        self._making: set[asyncio.Task[None]] = set()

    async def add(self) -> None:
        self.actors.append(await self._make())
        self.changed.set()

    def note_success(self) -> None:
        pass

    def retire(self, actor: Actor, why: ComicUpscaleError | None = None) -> None:
        if actor in self.actors:
            self.actors.remove(actor)
            self.retired.append(actor)
            self._making.add(asyncio.ensure_future(self.add()))

    async def close(self) -> None:
        await asyncio.gather(*self._making)
        for actor in (*self.actors, *self.retired):
            await actor.handle.actor.close()


class Tools(SimpleNamespace):
    """A pool and a server, as a round gets them from its executor."""

    pool: Pool
    server: PageServer


@asynccontextmanager
async def opened(
    folder: Path,
    engines: list[NearestEngine],
    kills: Callable[[ActorTask], bool] = lambda _: False,
    slots: int = 3,
) -> AsyncIterator[Tools]:
    """Tools with an actor for each engine; those that come later have the last one."""
    weights = folder / "any.safetensors"
    weights.write_bytes(b"weights")
    settings = JobSettings(
        input=folder / "in", output=folder / "out", model=str(weights), workers=2, scale=2.0
    )
    server = PageServer()
    address = await server.start("127.0.0.1")
    waiting = iter(engines)

    async def make() -> Actor:
        engine = next(waiting, engines[-1])
        actor = PageActor()
        found = await actor.start(
            ActorSetup(
                version=VERSION, settings=settings, model="any", fingerprint="f" * 32, open_engines=lambda *_: [engine],
                weights=b"weights", pages=address, environment={},
            )
        )  # fmt: skip
        info = ExecutorInfo(**{**found, "warnings": tuple(found["warnings"])})
        return Actor(Handle(actor, kills), "node", info, slots)

    pool = Pool(make)
    for _ in engines:
        await pool.add()
    try:
        yield Tools(
            pool=pool, server=server, spending=None, stored_below=None, leftovers=set(), twice=0, activity=Activity(),
        )  # fmt: skip
    finally:
        await pool.close()
        await server.close()


async def outcomes_of(tools: Any, pages: Any, stop: StopRequest | None = None) -> list[PageOutcome]:
    round_ = Round(tools, 1, tasks_of(pages), stop or StopRequest())
    return [outcome async for outcome in round_.outcomes()]


def test_an_actor_gets_the_weights_of_rules(tmp_path: Path) -> None:
    # The files of the user's machine: none of them is on the actor's.
    nets = [str(tmp_path / name / "net.safetensors") for name in ("a", "b")]
    rule = Rule(Conditions(gray=True), (("model", nets[1]),))
    settings = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", model=nets[0], workers=2, scale=2.0, rules=(rule,)
    )

    async def work() -> None:
        server, actor = PageServer(), PageActor()
        try:
            started = await actor.start(
                ActorSetup(
                    version=VERSION, settings=settings, model="any", fingerprint="f" * 32,
                    open_engines=lambda *_: [NearestEngine()], weights=b"first",
                    pages=await server.start("127.0.0.1"), environment={}, rule_weights={nets[1]: b"second"},
                )
            )  # fmt: skip
            assert "device" in started, started
        finally:
            await actor.close()
            await server.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        picture(1, (48, 64))[:20],
        picture(1, (7, 9)),
        picture(1, (48, 64), "JPEG"),
        b"<html>a proxy</html>",
    ],
    ids=["empty", "truncated", "size", "format", "no-image"],
)
def test_an_output_that_is_not_the_page_does_not_count(tmp_path: Path, broken: bytes) -> None:
    """Its hash is right: the actor itself is broken. Another one does its pages."""

    async def work() -> None:
        async with opened(tmp_path, [NearestEngine(), NearestEngine()]) as tools:
            bad = tools.pool.actors[0]
            answer = bad.handle.actor._answer

            def answer_wrongly(outcome: PageOutcome) -> tuple[dict[str, Any], bytes]:
                fields, _ = answer(outcome)
                return {**fields, "sha256": hashlib.sha256(broken).hexdigest()}, broken

            bad.handle.actor._answer = answer_wrongly
            found = await outcomes_of(tools, pictures(8))
            assert tools.pool.retired == [bad]
            assert sorted(outcome.row_id for outcome in found) == list(range(8))
            for outcome in found:
                assert isinstance(outcome, PageUpscaled)
                check_encoded(outcome.data, (outcome.output_width, outcome.output_height))

    asyncio.run(work())


def test_slow_pages_are_done_twice_at_the_end_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "TWICE_AFTER_SECONDS", 0.2)
    release = threading.Event()
    pages = pictures(8)

    async def work() -> None:
        # The first actor hangs over its pages until the others have done everything.
        async with opened(
            tmp_path,
            [NearestEngine(lambda _: bool(release.wait(20)) and None), NearestEngine(), NearestEngine()],
        ) as tools:
            found = await outcomes_of(tools, pages)
            release.set()
            assert sorted(outcome.row_id for outcome in found) == list(range(8))
            assert all(isinstance(outcome, PageUpscaled) for outcome in found)
            assert tools.activity.in_hand in pages, "the one that was handed out last"
            assert tools.twice >= 1
            seen = Counter(name for actor in tools.pool.actors for name in actor.handle.seen)
            assert max(seen.values()) == 2
            # Nothing of a page that counts is kept.
            assert (tools.server.tasks, tools.server.outputs) == ({}, {})

    asyncio.run(work())


def test_nothing_is_done_twice_while_pages_are_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "TWICE_AFTER_SECONDS", 0.02)
    release = threading.Event()
    twice: list[int] = []

    async def work() -> None:
        async with opened(
            tmp_path, [NearestEngine(lambda _: bool(release.wait(20)) and None), NearestEngine()], slots=1
        ) as tools:

            async def slowly() -> AsyncIterator[PageTask]:
                async for task in tasks_of(pictures(4)):
                    if task.row_id == 3:
                        # The others are done, one hangs, and an actor has nothing to do.
                        await asyncio.sleep(1)
                        twice.append(tools.twice)
                    yield task

            found = [outcome async for outcome in Round(tools, 1, slowly(), StopRequest()).outcomes()]
            release.set()
            assert sorted(outcome.row_id for outcome in found) == list(range(4))
            assert (twice, tools.twice) == ([0], 1)

    asyncio.run(work())


def test_a_page_that_kills_is_alone_before_it_is_set_aside(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(
            tmp_path,
            [NearestEngine(pause(0.02)), NearestEngine(pause(0.02))],
            lambda task: task.source == "03.png",
        ) as tools:
            found = await outcomes_of(tools, pictures(10))
            (failed,) = [outcome for outcome in found if isinstance(outcome, PageFailed)]
            assert (failed.source, failed.kind) == ("03.png", CRASH)
            assert len(found) == 10
            assert len({outcome.row_id for outcome in found}) == 10
            assert len(tools.pool.retired) == 3
            # The last two had no other page when it came: so no other page is blamed.
            assert [actor.handle.seen[-1] for actor in tools.pool.retired[1:]] == ["03.png", "03.png"]

    asyncio.run(work())


def test_pages_that_all_kill_are_not_at_fault(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, [NearestEngine()], lambda _: True) as tools:
            with pytest.raises(DeviceError, match="the pages are not at fault"):
                await outcomes_of(tools, pictures(6))

    asyncio.run(work())


def test_a_device_that_fails_leaves_its_pages_to_another(tmp_path: Path) -> None:
    def fail(_: Batch) -> None:
        raise DeviceError("the GPU fell off the bus")

    async def work() -> None:
        async with opened(tmp_path, [NearestEngine(fail), NearestEngine()]) as tools:
            found = await outcomes_of(tools, pictures(10))
            assert len(found) == 10
            assert all(isinstance(outcome, PageUpscaled) for outcome in found)
            assert len(tools.pool.retired) == 1

    asyncio.run(work())


def test_a_node_that_is_drained_gets_no_more_pages(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path, [NearestEngine(pause(0.02)), NearestEngine(pause(0.02))]) as tools:
            draining = tools.pool.actors[0]
            round_ = Round(tools, 1, tasks_of(pictures(20)), StopRequest())
            found = []
            async for outcome in round_.outcomes():
                found.append(outcome)
                if len(found) == 1:
                    draining.is_draining = True
                    had = len(draining.handle.seen)
            assert len(found) == 20
            assert len(draining.handle.seen) == had

    asyncio.run(work())


def test_a_stop_drops_what_no_engine_has_begun(tmp_path: Path) -> None:
    stop = StopRequest()

    async def work() -> None:
        async with opened(tmp_path, [NearestEngine(pause(0.05))], slots=8) as tools:
            round_ = Round(tools, 1, tasks_of(pictures(40)), stop)
            found = []
            async for outcome in round_.outcomes():
                found.append(outcome)
                stop.request("enough")
            assert 0 < len(found) < 40
            # The actors go on with the next round.
            again = await outcomes_of(tools, {"again.png": picture(90)})
            assert [type(outcome) for outcome in again] == [PageUpscaled]

    began = time.monotonic()
    asyncio.run(work())
    assert time.monotonic() - began < 30


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(RemoteError, match="no Ray cluster answers at"):
            pools.connect(RayOptions(address=address))


class FakeRay:
    """The functions of Ray for a connection, of which a process has at most one."""

    def __init__(self) -> None:
        self.address: str | None = None

    def init(self, address: str, **_: object) -> None:
        assert self.address is None
        self.address = address

    def is_initialized(self) -> bool:
        return self.address is not None

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": 1.0}

    def shutdown(self) -> None:
        self.address = None


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(pools, "import_ray", lambda: fake)
    monkeypatch.setattr(pools, "_users", 0)
    return fake


@pytest.fixture
def addresses() -> Iterator[tuple[str, str]]:
    """Two addresses where something answers."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        yield f"127.0.0.1:{first.getsockname()[1]}", f"127.0.0.1:{second.getsockname()[1]}"


def on_cluster(address: str) -> RayExecutor:
    return RayExecutor(RayOptions(address=address), lambda *_: [NearestEngine()])


def test_a_run_on_another_cluster_after_one_with_model_auto_uses_that_cluster(
    fake_ray: FakeRay, addresses: tuple[str, str]
) -> None:
    settings: Any = SimpleNamespace(device="auto")

    async def work() -> None:
        for address in addresses:
            executor = on_cluster(address)
            # For `--model auto`, before it is opened.
            assert await executor.has_accelerator(settings, lambda event: None)
            await executor._connect()
            assert fake_ray.address == address
            await executor.close()
            assert fake_ray.address is None

    asyncio.run(work())


def test_two_runs_share_a_connection_and_another_cluster_is_refused_meanwhile(
    fake_ray: FakeRay, addresses: tuple[str, str]
) -> None:
    async def work() -> None:
        one, two, other = (on_cluster(address) for address in (addresses[0], *addresses))
        await one._connect()
        await two._connect()
        with pytest.raises(RemoteError, match=f"connected to the Ray cluster at {addresses[0]}"):
            await other._connect()
        await other.close()
        await one.close()
        assert fake_ray.address == addresses[0]
        await two.close()
        await other._connect()
        assert fake_ray.address == addresses[1]
        await other.close()

    asyncio.run(work())


def test_a_connection_of_the_caller_stays(fake_ray: FakeRay, addresses: tuple[str, str]) -> None:
    fake_ray.init(addresses[0])

    async def work() -> None:
        executor = on_cluster(addresses[0])
        await executor._connect()
        await executor.close()

    asyncio.run(work())
    assert fake_ray.address == addresses[0]


def test_a_run_writes_and_deletes_below_a_name_of_its_own(
    open_bucket: OpenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = bucket_of(open_bucket("moto"))
    mine, other = (
        RayExecutor(RayOptions(address="127.0.0.1:6379"), lambda *_: [NearestEngine()]) for _ in range(2)
    )
    for executor in (mine, other):
        executor._stored = bucket
        assert executor.stored_below is not None
        bucket.put(f"{executor.stored_below}/1-1-1", b"output")
        executor.leftovers.add(f"{executor.stored_below}/1-1-1")
    # Both have a page of row 1 in their first round.
    assert mine.stored_below != other.stored_below
    # A run that begins leaves what is young.
    executors._delete_old(bucket)
    assert len([*bucket.walk(rounds.STORED)]) == 2
    asyncio.run(mine._sweep())
    assert [each.key for each in bucket.walk(rounds.STORED)] == [f"{other.stored_below}/1-1-1"]
    monkeypatch.setattr(executors, "OLD_SECONDS", -60.0)
    executors._delete_old(bucket)
    assert [*bucket.walk(rounds.STORED)] == []


class Garbling(MemoryOutputStore):
    """A store that flips a bit of its first objects."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    async def put(self, name: str, data: bytes, token: Token) -> None:
        if self._times > 0:
            self._times -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        await super().put(name, data, token)


@pytest.mark.parametrize(("times", "is_done"), [(0, True), (1, True), (9, False)])
def test_an_output_in_a_bucket_counts_if_it_is_what_was_made(
    tmp_path: Path, times: int, is_done: bool
) -> None:
    async def run() -> tuple[dict[str, Any], Garbling]:
        store = Garbling(times)
        async with opened(tmp_path, [NearestEngine()]) as tools:
            actor = tools.pool.actors[0].handle.actor
            actor._outputs = store
            (task,) = [each async for each in tasks_of(pictures(1))]
            tools.server.tasks["1-1-1"] = task
            said = await actor.do(
                ActorTask(
                    key="1-1-1", row_id=task.row_id, source=task.source, format=task.format,
                    extension=task.extension, sha256=task.sha256, address=None, stored_as="below/1-1-1",
                    points=task.points,
                )
            )  # fmt: skip
            return said, store

    said, store = asyncio.run(run())
    if is_done:
        assert said["stored"]["size"] == len(store.read("below/1-1-1"))
        assert hashlib.sha256(store.read("below/1-1-1")).hexdigest() == said["sha256"]
    else:
        assert "stored" not in said and said["state"] == "failed"
