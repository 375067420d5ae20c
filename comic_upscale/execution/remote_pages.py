"""The pages of a remote job: equal pages are one, named by their content."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from comic_upscale.errors import PageError
from comic_upscale.execution.base import PageTask, sha256_of_source
from comic_upscale.execution.remote_host import RemotePageResult
from comic_upscale.execution.remote_run import GRACE_SECONDS
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.imaging.decode import read_header

FETCH_BYTES, FETCH_PAGES = 32 << 20, 100
"""The size of one batch to fetch, which is held in memory."""


@dataclass(slots=True)
class Content:
    """Pages with the same content and extension: a single page for the remote machine."""

    sha256: str
    """Of the content."""
    size: tuple[int, int] = (0, 0)
    """(width, height), upright."""
    tasks: list[PageTask] = field(default_factory=list)
    """The tasks without an outcome."""
    result: RemotePageResult | None = None
    """The latest result that the machine reported."""
    failure: PageError | None = None
    """Why every task with this content fails."""


def pop_tasks(content: Content) -> list[PageTask]:
    """Return the tasks that wait for a content, and forget them."""
    tasks, content.tasks = content.tasks, []
    return tasks


def inspect(data: bytes, sha256: str) -> Content:
    """Read the header of a page, and hash the page if its hash is unknown.

    Raises:
        PageError: the page is not a readable image.
    """
    header = read_header(data)
    return Content(sha256 or sha256_of_source(data), (header.width, header.height))


async def pause(seconds: float, stop: StopRequest) -> None:
    """Wait, or until a stop is requested."""
    for _ in range(max(1, round(seconds * 5))):
        if stop.requested:
            return
        await asyncio.sleep(0.2)


def in_batches(wanted: Mapping[str, RemotePageResult]) -> Iterator[dict[str, RemotePageResult]]:
    """Yield outputs in groups that fit into memory."""
    batch: dict[str, RemotePageResult] = {}
    size = 0
    for name, page in wanted.items():
        if batch and (len(batch) >= FETCH_PAGES or size + page.size > FETCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = page
        size += page.size
    if batch:
        yield batch


def seconds_left_after(stop: StopRequest) -> float | None:
    """Return how long a call may still go on."""
    if not stop.requested:
        return None
    return 0.0 if stop.kind == CEILING else GRACE_SECONDS
