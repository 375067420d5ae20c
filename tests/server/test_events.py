"""Changes of jobs reach their viewers: every last state, no one else's, and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server import events, queue
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.events import Hub
from tests.server.test_queue import RESULT, add, job, taken

PATIENCE = 60


async def next_of(stream: AsyncIterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await asyncio.wait_for(anext(stream), PATIENCE)


def test_a_viewer_sees_a_job_from_now_to_its_end(database: Database) -> None:
    job_id = add(database)

    async def watch() -> list[tuple[str, int]]:
        hub, seen = Hub(database), []
        async for state in hub.follow(job_id, None):
            seen.append((state["status"], state["pages"]["done"]))
            if len(seen) == 1:
                held = await asyncio.to_thread(taken, database)
            elif len(seen) == 2:
                await database.write_async(lambda c, held=held: queue.heartbeat(c, held, pages_done=5))
            elif len(seen) == 3:
                await database.write_async(lambda c, held=held: queue.complete(c, held, RESULT))
        assert hub.viewers == 0
        hub.close()
        return seen

    assert asyncio.run(asyncio.wait_for(watch(), PATIENCE)) == [
        ("queued", 0), ("running", 0), ("running", 5), ("completed", 1),
    ]  # fmt: skip


def test_a_viewer_that_comes_back_gets_what_it_missed_and_nothing_twice(database: Database) -> None:
    job_id = add(database)
    taken(database)
    revision = job(database, job_id)["revision"]

    async def watch() -> None:
        hub = Hub(database)
        stream = hub.follow(job_id, revision)
        waiting = asyncio.ensure_future(next_of(stream))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await database.write_async(lambda c: queue.request_cancel(c, job_id))
        assert (await waiting)["cancel_requested"] is True
        await stream.aclose()
        behind = hub.follow(job_id, revision)
        assert (await next_of(behind))["revision"] == revision + 1
        await behind.aclose()
        hub.close()

    asyncio.run(watch())


def test_a_job_that_ended_before_is_told_once(database: Database) -> None:
    job_id = add(database)
    database.write(lambda c: queue.request_cancel(c, job_id))
    revision = job(database, job_id)["revision"]

    async def watch(seen: int | None) -> list[str]:
        hub = Hub(database)
        return [state["status"] async for state in hub.follow(job_id, seen)]

    assert asyncio.run(watch(None)) == ["canceled"]
    assert asyncio.run(watch(revision)) == []


def test_the_stream_of_a_deleted_job_ends_and_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOKS_FOR_DELETED", 1)
    job_id, other = add(database), add(database)

    async def watch() -> None:
        hub = Hub(database)
        stream, stays = hub.follow(job_id, None), hub.follow(other, None)
        await next_of(stream)
        await next_of(stays)
        waiting = asyncio.ensure_future(next_of(stays))
        await database.write_async(lambda c: c.execute(sa.delete(jobs).where(jobs.c.id == job_id)))
        with pytest.raises(StopAsyncIteration):
            await next_of(stream)
        await database.write_async(lambda c: queue.request_cancel(c, other))
        assert (await waiting)["status"] == "canceled"
        await stays.aclose()
        hub.close()

    asyncio.run(watch())


def test_a_list_tells_of_the_users_jobs_alone(database: Database) -> None:
    mine, theirs = add(database, "me"), add(database, "them")
    owner = job(database, mine)["owner_id"]

    async def watch() -> None:
        hub = Hub(database)
        own, everything = hub.follow_all(owner), hub.follow_all(None)
        first, all_first = asyncio.ensure_future(next_of(own)), asyncio.ensure_future(next_of(everything))
        await asyncio.sleep(0)
        await database.write_async(lambda c: queue.request_cancel(c, theirs))
        await database.write_async(lambda c: queue.request_cancel(c, mine))
        assert (await first)["job_id"] == mine
        ids = {(await all_first)["job_id"]}
        while len(ids) < 2:
            ids.add((await next_of(everything))["job_id"])
        assert ids == {mine, theirs}
        await own.aclose()
        await everything.aclose()
        hub.close()

    asyncio.run(watch())


def test_many_viewers_cost_one_look(database: Database) -> None:
    job_id, number = add(database), 200

    async def watch() -> None:
        hub, looks = Hub(database), 0
        real = database.read_async

        async def counted(work: Any) -> Any:
            nonlocal looks
            looks += 1
            return await real(work)

        database.read_async = counted  # type: ignore[method-assign]
        streams = [hub.follow(job_id, None) for _ in range(number)]
        await asyncio.gather(*(next_of(stream) for stream in streams))
        looks = 0
        waiting = [asyncio.ensure_future(next_of(stream)) for stream in streams]
        await database.write_async(lambda c: queue.request_cancel(c, job_id))
        assert {(await each)["status"] for each in waiting} == {"canceled"}
        assert looks < number / 4
        hub.close()

    asyncio.run(watch())


def test_closing_ends_all_streams(database: Database) -> None:
    job_id = add(database)

    async def watch() -> None:
        hub = Hub(database)
        stream, listing = hub.follow(job_id, None), hub.follow_all(None)
        await next_of(stream)
        ends = [asyncio.ensure_future(next_of(each)) for each in (stream, listing)]
        await asyncio.sleep(0)
        hub.close()
        for end in ends:
            with pytest.raises(StopAsyncIteration):
                await end

    asyncio.run(watch())


def test_a_lost_lease_is_no_change_of_the_job(database: Database) -> None:
    job_id = add(database)
    taken(database)
    before = job(database, job_id)["revision"]
    assert database.write(lambda c: queue.end_leases(c, "w1")) == 1
    assert job(database, job_id)["revision"] == before
