"""The recorder by itself: what was not taken is not waited for, and large outputs do not pile up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.execution.base import PageUpscaled
from comic_upscale.execution.local.executor import LocalExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs import recorder as recorder_module
from comic_upscale.jobs.begin import begin_run, open_ledger
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.progress import OpenPages, Tally
from comic_upscale.jobs.recorder import Recorder
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.records import PageFailed
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.model_selection import SelectedModel
from comic_upscale.planning.resolve import JobHistory, resolve
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.stores import open_stores
from tests.conftest import draw

TIMEOUT = 60.0
"""Seconds after which something hangs."""


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    for number in range(8):
        draw(tmp_path / "in" / f"{number}.png", number)
    return JobSettings(input=tmp_path / "in", output=tmp_path / "out", model="any.pth", workers=2)


@asynccontextmanager
async def run_of(settings: JobSettings) -> AsyncIterator[JobContext]:
    """A run that has begun, over the pages that are there."""
    job = resolve(settings, JobHistory(), SelectedModel("any", "0" * 64))
    assert job is not None
    with ThreadPoolExecutor(2) as files:
        stores = open_stores(settings.input, settings.output, files)
        discovery = find_pages(settings, stores.sources)
        async with (
            open_ledger(settings) as (ledger, on_ledger),
            begin_run(
                job,
                discovery,
                stores,
                files,
                ledger,
                on_ledger,
                lambda event: None,
                StopRequest(),
                LocalExecutor(lambda *_: []),
            ) as context,
        ):
            yield context


def with_recorder(settings: JobSettings, test: Callable[[JobContext, Recorder, OpenPages], Any]) -> None:
    async def work() -> None:
        async with run_of(settings) as context:
            writer, open_pages = VolumeWriter(context), OpenPages()
            await test(context, Recorder(context, writer, Tally(context.plan), open_pages), open_pages)
            writer.shut_down()

    asyncio.run(asyncio.wait_for(work(), TIMEOUT))


def failure(context: JobContext, number: int) -> PageFailed:
    page = context.plan.todo[number]
    return PageFailed(row_id=page.row_id, source=page.source, kind="odd", reason="a reason")


def output(context: JobContext, number: int, size: int) -> PageUpscaled:
    page = context.plan.todo[number]
    return PageUpscaled(
        row_id=page.row_id, source_sha256="0" * 64, width=1, height=1, output_width=2, output_height=2,
        data=bytes(size), sha256="1" * 64,
    )  # fmt: skip


def test_an_outcome_that_was_not_taken_is_not_waited_for(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_RESULTS", 1)

    async def test(context: JobContext, recorder: Recorder, open_pages: OpenPages) -> None:
        await recorder.take(failure(context, 0))
        blocked = asyncio.create_task(recorder.take(failure(context, 1)))
        await asyncio.sleep(0)
        assert not blocked.done(), "the first one still waits for the ledger"
        blocked.cancel()
        await asyncio.wait({blocked})
        recorded: list[int] = []
        running = asyncio.create_task(recorder.run(lambda row_id, done: recorded.append(row_id)))
        await open_pages.wait()
        await recorder.finish()
        await running
        assert recorded == [context.plan.todo[0].row_id]

    with_recorder(settings, test)


def test_no_more_is_asked_for_while_more_than_the_bound_waits_for_its_place(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "HELD_BYTES", 1000)

    async def test(context: JobContext, recorder: Recorder, open_pages: OpenPages) -> None:
        # Nobody places yet: what is taken waits.
        await recorder.take(output(context, 0, 600))
        large = asyncio.create_task(recorder.take(output(context, 1, 600)))
        await asyncio.sleep(0.01)
        assert not large.done()
        running = asyncio.create_task(recorder.run(lambda row_id, done: None))
        await large
        await open_pages.wait()
        await recorder.finish()
        await running
        assert sorted(path.name for path in settings.output.glob("*.png")) == ["0.png", "1.png"]

    with_recorder(settings, test)
