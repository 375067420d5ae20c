"""Looks at the watched folders whose leases this server has, and queues a job when something in one is due.

The server lists names, sizes and times. Only workers open what is there. What is due, and when a file counts as still,
is decided in `watching.folder`, as for ``comic-upscale watch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError, SettingsError
from comic_upscale.server import watches
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.ids import new_id
from comic_upscale.server.roots import find_below, is_folder
from comic_upscale.server.services import Services
from comic_upscale.server.words import as_sentence
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.settings.selection import Selection, write_selection
from comic_upscale.watching.folder import (
    MOST_NAMED,
    Clock,
    Due,
    WatchedFolder,
    seconds_to_next_look,
)

log = logging.getLogger(__name__)

ROUND_SECONDS = 5.0
POLL_SECONDS = 20.0
"""Seconds between two looks at a folder; more if a look takes long."""
ANSWER_SECONDS = 30.0
"""A folder whose list takes longer than this counts as not answering, until it does."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Held:
    """A watched folder whose lease this server has."""

    folder: WatchedFolder
    next_look: float = 0.0
    task: asyncio.Task[None] | None = None
    began: float = 0.0
    is_late: bool = False
    """Whether it was said that the folder does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a look has found."""

    problem: str | None = None
    due: Due | None = None
    has_results: bool = False
    pages: int | None = None


@dataclass(slots=True, eq=False)
class FolderWatch:
    """Watches the folders of a server. Used on the event loop."""

    services: Services
    clock: Clock = time.monotonic
    holder: str = field(default_factory=new_id)
    """The name of this server in the leases."""
    _held: dict[str, _Held] = field(default_factory=dict)
    _roots: list[Path] = field(default_factory=list)
    """The real roots whose drives have answered, each found once: the event loop must not wait for a drive."""
    _root_threads: dict[Path, Future[Path]] = field(default_factory=dict)
    """The threads that find them."""
    _threads: dict[tuple[str, str], Future[_Look]] = field(default_factory=dict)
    """The threads that look, by input and output. A drive that does not answer holds back its own folders only."""

    async def run(self) -> None:
        """Look again and again, until cancelled. An error is logged, and the next round may succeed."""
        try:
            while True:
                try:
                    await self.look()
                except DatabaseError as error:
                    log.error("watched folders: %s", error)
                except Exception:
                    # The server goes on, which would end with this task.
                    log.exception("watched folders: an unexpected error")
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            # Another server need not wait for them.
            holder = self.holder
            with contextlib.suppress(DatabaseError):
                await self.services.database.write_async(lambda c: watches.end_leases(c, holder))

    async def look(self) -> None:
        """Look once at every folder whose turn it is. Returns when they were looked at, or after a round."""
        await self.services.live.refresh()
        await self._find_roots()
        rows, now = await self._take()
        for watch_id in list(self._held):
            # Without the lease, it may have been paused and resumed, or another server may have begun jobs for it.
            if watch_id not in rows or rows[watch_id]["holder"] != self.holder:
                self._forget(watch_id)
        self._threads = {key: thread for key, thread in self._threads.items() if not thread.done()}
        for watch_id, row in rows.items():
            await self._begin_look(watch_id, row, now)
        tasks = [held.task for held in self._held.values() if held.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=ROUND_SECONDS)

    async def _find_roots(self) -> None:
        """Find the real roots that are not known yet. Those that do not answer are waited for once, and found later."""
        new = []
        for root in self.services.settings.root_folders:
            if root not in self._root_threads:
                self._root_threads[root] = _in_thread(root.resolve)
                new.append(asyncio.wrap_future(self._root_threads[root]))
        if new:
            try:
                await asyncio.wait(new, timeout=ROUND_SECONDS)
            finally:
                for each in new:
                    each.cancel()
        for root, thread in list(self._root_threads.items()):
            if thread.done() and (error := thread.exception()) is not None:
                log.error("watched folders: %s cannot be used: %s", root, error)
                del self._root_threads[root]
            elif thread.done() and thread.result() not in self._roots:
                self._roots.append(thread.result())

    async def _take(self) -> tuple[dict[str, Mapping[str, Any]], int]:
        """Return the rows of the folders whose leases this server has now, and the time of the database."""
        rows, now = await self.services.database.read_async(
            lambda connection: (watches.list_all(connection), connection.scalar(sa.select(now_ms())) or 0)
        )
        here = {row["id"]: row for row in rows if not row["paused"] and self._is_here(row)}
        soon = now + int(watches.LEASE_SECONDS * 500)
        kept = {
            name for name, row in here.items() if row["holder"] == self.holder and row["lease_until"] > soon
        }
        if len(kept) < len(here):
            holder, ids = self.holder, list(here)
            kept = await self.services.database.write_async(lambda c: watches.take(c, holder, ids))
        return {watch_id: row for watch_id, row in here.items() if watch_id in kept}, now

    def _is_here(self, row: Mapping[str, Any]) -> bool:
        """Return whether a folder is below a root of this server. Another server may have other roots."""
        return any(Path(row["input"]).is_relative_to(root) for root in self._roots)

    def _forget(self, watch_id: str) -> None:
        held = self._held.pop(watch_id)
        if held.task is not None:
            held.task.cancel()

    async def _begin_look(self, watch_id: str, row: Mapping[str, Any], at: int) -> None:
        held = self._held.get(watch_id)
        if held is None:
            held = self._held[watch_id] = _Held(self._open(row))
        now = self.clock()
        if held.task is not None and not held.task.done():
            if now - held.began > ANSWER_SECONDS and not held.is_late:
                held.is_late = True
                await self._record(watch_id, problem=f"{row['input']} does not answer. Is its drive there?")
            return
        if held.task is not None and not held.task.cancelled() and (error := held.task.exception()):
            held.next_look = max(held.next_look, now + POLL_SECONDS)
            await self._note_error(watch_id, row, error)
        held.task = None
        if now >= held.next_look:
            held.began, held.is_late = now, False
            held.task = asyncio.create_task(self._look_at(watch_id, row, held, at))

    async def _note_error(self, watch_id: str, row: Mapping[str, Any], error: BaseException) -> None:
        if isinstance(error, DatabaseError):
            log.error("the watched folder %s: %s", row["input"], error)
            return
        log.error("the watched folder %s: an unexpected error", row["input"], exc_info=error)
        text = (
            f"{row['input']} cannot be looked at ({type(error).__name__}). The log of the server says more."
        )
        await self._record(watch_id, problem=text, looked_at=now_ms())

    def _open(self, row: Mapping[str, Any]) -> WatchedFolder:
        return WatchedFolder(
            Path(row["input"]),
            leave_out=[Path(row["output"])],
            settle=row["settle"],
            within=self._roots,
            clock=self.clock,
        )

    async def _look_at(self, watch_id: str, row: Mapping[str, Any], held: _Held, at: int) -> None:
        roots, folder, key = tuple(self._roots), held.folder, (row["input"], row["output"])
        if key in self._threads:
            # It may hang since before a pause. A drive that does not answer gets no second thread.
            with contextlib.suppress(Exception):
                await asyncio.wrap_future(self._threads[key])
        thread = self._threads[key] = _in_thread(lambda: _look(roots, row, folder, at))
        found = await asyncio.wrap_future(thread)
        held.next_look = self.clock() + seconds_to_next_look([folder], POLL_SECONDS)
        problem = found.problem
        if found.due is not None and problem is None:
            problem = await self._begin_job(watch_id, folder, found.due)
        seen: dict[str, Any] = {"problem": problem, "looked_at": now_ms()}
        if found.pages is not None:
            seen["pages"] = found.pages
        if found.has_results:
            seen["has_results"] = True
        await self._record(watch_id, **seen)

    async def _begin_job(self, watch_id: str, folder: WatchedFolder, due: Due) -> str | None:
        """Queue a job for what is due, and return what is in its way, in sentences; None if nothing is."""
        done, part = folder.digest_after(due), due.selection(Selection())
        selection = None if part.is_everything else write_selection(part)
        settings, holder = self.services.settings, self.holder

        def write(connection: Connection) -> watches.Begun:
            return watches.begin(connection, settings, holder, watch_id, done=done, selection=selection)

        begun = await self.services.database.write_async(write)
        if begun.job_id is not None or begun.is_known:
            folder.note_done(due)
        if begun.job_id is not None:
            log.info("the watched folder %s has changed: job %s", folder.root, begun.job_id)
            self.services.wake()
        return begun.problem

    async def _record(self, watch_id: str, **seen: Any) -> None:
        holder = self.holder
        await self.services.database.write_async(
            lambda connection: watches.record(connection, holder, watch_id, **seen)
        )


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Begin blocking work in a thread of its own, which the end of the process does not wait for."""
    done = Future[T]()
    # It cannot be cancelled any more.
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="watch", daemon=True).start()
    return done


def _look(roots: tuple[Path, ...], row: Mapping[str, Any], folder: WatchedFolder, now: int) -> _Look:
    """Look at a folder and at the place of its results. Blocks.

    Args:
        roots: the real ones of the server.
        row: of the watched folder.
        folder: the same folder.
        now: the time of the database, in milliseconds.
    """
    try:
        if is_folder(folder.root):
            # A folder above it may have become a link.
            find_below(roots, row["input"])
        due = folder.look()
        if folder.problem is not None:
            return _Look(problem=as_sentence(folder.problem), pages=0 if folder.away is None else None)
        output = find_below(roots, row["output"], must_exist=False)
    except SettingsError as error:
        return _Look(problem=as_sentence(str(error)))
    except OSError as error:
        return _Look(problem=_cannot_be_used(row["input"], error))
    pages = folder.pages_found
    try:
        has_results = is_folder(output / MARKER_FOLDER)
    except OSError as error:
        return _Look(problem=_cannot_be_used(row["output"], error), pages=pages)
    due = _wanted(row, folder, due, now)
    return _Look(
        problem=_why_not(row, folder, pages, due, has_results=has_results),
        due=due,
        has_results=has_results,
        pages=pages,
    )


def _why_not(
    row: Mapping[str, Any], folder: WatchedFolder, pages: int, due: Due | None, *, has_results: bool
) -> str | None:
    """Return why no job begins for what is due, in sentences; None if one may."""
    if folder.outside:
        return f"{folder.root / folder.outside[0]} is a link that leads out of the library: remove it."
    if not pages:
        return "There are no pages and no volumes in it."
    if row["has_results"] and not has_results and row["job_status"] not in ("queued", "running"):
        return (
            f"The results in {row['output']} are gone. The watch goes on when they are back: is their drive there? To "
            "begin again without them, pause and resume it."
        )
    if due is not None and len(due.unsettled) > MOST_NAMED:
        return f"{len(due.unsettled):,} files still change. A job begins once at most {MOST_NAMED} do."
    return None


def _wanted(row: Mapping[str, Any], folder: WatchedFolder, due: Due | None, now: int) -> Due | None:
    """Return what is due: all of it if the last job was not completed."""
    if watches.may_try_again(row, now) or (due is not None and watches.is_unfinished(row)):
        return folder.everything()
    return due


def _cannot_be_used(path: str, error: OSError) -> str:
    return f"{path} cannot be used: {error.strerror or type(error).__name__}. Is its drive there?"
