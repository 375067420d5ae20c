"""The end of a run: copy sidecars and other files, update the ledger, and sum up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from comic_upscale.execution.events import JobFinished
from comic_upscale.imaging.encode import LOST_TEXTS
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.earlier import find_earlier
from comic_upscale.jobs.paid_answers import find_unneeded
from comic_upscale.jobs.replace import ReplaceResult, replace_sources
from comic_upscale.jobs.sidecar_copy import (
    CopyFailure,
    CopyLeft,
    CopyTask,
    copy_files,
    find_stale_copies,
    plan_copies,
)
from comic_upscale.ledger.changes import EarlierOutput
from comic_upscale.ledger.records import FAILED_PAGES, TOO_LARGE, CopiedFile
from comic_upscale.library.books.names import is_further_part
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.settings.paths import path_text
from comic_upscale.storage.base import size_of

SHOWN_FAILURES = 20
COPIED_AT_ONCE = 64
"""Files that are copied before the ledger records them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How the pages of a run ended."""

    state: str = "finished"
    """``finished``, or ``interrupted``."""
    reason: str | None = None
    """Why it was interrupted."""
    done_now: int = 0
    """Pages done by the run."""
    copied_now: int = 0
    """Pages among them that are copies of duplicates."""
    seconds: float = 0.0
    """Duration of processing the pages."""
    step: str | None = None
    """The only step of a remote run that was requested, if it completed."""


@dataclass(slots=True)
class _Copies:
    """What became of the files that are not pages."""

    copied: int = 0
    failures: list[CopyFailure] = field(default_factory=list)
    left: int = 0
    """Files that the next run copies, because this one was stopped."""


async def finish_run(context: JobContext, end: RunEnd) -> JobFinished:
    """End a run, and return and emit its last event.

    Args:
        context: of the run.
        end: how its pages ended.

    Raises:
        OutputError: no more files can be copied.
        LedgerError: the ledger cannot be used.
    """
    copies = await _copy_files(context)
    ledger, on_ledger, job_id = context.ledger, context.on_ledger, context.job_id
    replaced = await _replace_sources(context)
    if end.state == "finished" and (copies.left or replaced.left):
        # Its pages are done, but it is not.
        end = replace(end, state="interrupted", reason=context.stop.reason)
    await on_ledger(ledger.end_run, context.run_id, end.state, end.reason)
    counts = await on_ledger(ledger.counts, job_id)
    if set(counts) <= {"done"}:
        await on_ledger(_forget_answers, context)
    failed_pages = await on_ledger(ledger.failures, job_id, SHOWN_FAILURES)
    volumes, volumes_done, volumes_cut = await on_ledger(ledger.volume_counts, job_id)
    suspects = await on_ledger(ledger.suspects, job_id)
    orphans = await on_ledger(ledger.count_orphans, job_id)
    earlier = await _find_earlier(context)
    done, seconds, spending = end.done_now, end.seconds, context.spending
    finished = JobFinished(
        state=end.state,
        reason=end.reason,
        total=sum(counts.values()),
        done=counts.get("done", 0),
        done_now=done,
        failed=counts.get("failed", 0),
        skipped=counts.get("skipped", 0),
        pending=counts.get("pending", 0) + counts.get("working", 0),
        seconds=round(seconds, 3),
        pages_per_second=round(done / seconds, 4) if done and seconds else None,
        output=path_text(context.settings.output),
        ledger=path_text(context.settings.ledger_path),
        failures=tuple(failed_pages),
        volumes=volumes,
        volumes_done=volumes_done,
        volumes_cut=volumes_cut,
        carried_now=copies.copied,
        warnings=(
            *_left_by_the_stop(copies.left, replaced.left),
            *(f"{file.source} was not copied: {file.reason}" for file in copies.failures),
            *replaced.describe_kept(SHOWN_FAILURES),
            *itertools.islice(_odd_volumes(await on_ledger(ledger.volume_notes, job_id)), SHOWN_FAILURES),
            *_lost_texts(await on_ledger(ledger.count_noted, job_id, f"{LOST_TEXTS} (")),
        ),
        stopped_by=context.stop.kind if end.state == "interrupted" else None,
        step=end.step,
        spent=None if spending is None else round(spending.spent(), 6),
        price=None if spending is None else spending.price,
        suspects=suspects,
        copied_now=end.copied_now,
        orphans=orphans,
        earlier=len(earlier),
        earlier_bytes=sum(each.size or 0 for each in earlier),
        moved_now=len(context.moved),
        output_bytes=await on_ledger(ledger.output_bytes, job_id) + await _further_bytes(context),
        replaced_now=replaced.replaced,
        replaced=replaced.in_all,
    )
    context.emit(finished)
    return finished


async def _find_earlier(context: JobContext) -> list[EarlierOutput]:
    """Return the outputs of earlier settings that this job left beside its own."""
    if context.settings.replace_sources:
        return []
    found = await context.on_ledger(find_earlier, context.ledger, context.job_id, context.stores.outputs)
    return [each for each in found if each.instead is not None]


async def _further_bytes(context: JobContext) -> int:
    """Return the bytes of the further files of split books. The ledger has the size of the first one."""
    if context.settings.max_volume_size is None:
        return 0
    known = await context.on_ledger(context.ledger.carried, context.settings.output)
    outputs = context.stores.outputs
    further = [name for name in known if is_further_part(name)]
    return await asyncio.to_thread(lambda: sum(size_of(outputs, name) or 0 for name in further))


def _left_by_the_stop(files: int, originals: int) -> Iterator[str]:
    """Yield a sentence for other files and one for originals that a stop left to the next run."""
    if originals:
        what = "1 original is" if originals == 1 else f"{originals:,} originals are"
        yield f"{what} not replaced yet: the run was stopped, and the next one goes on there"
    if files:
        what = "1 other file is" if files == 1 else f"{files:,} other files are"
        yield f"{what} not copied yet: the run was stopped, and the next one goes on there"


def _odd_volumes(noted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a sentence for each written volume that is not as it was asked for."""
    for source, notes in noted:
        odd = [note for note in notes.split("; ") if note.endswith((FAILED_PAGES, TOO_LARGE))]
        if odd:
            yield f"{source}: {'; '.join(odd)}"


def _lost_texts(count: int) -> tuple[str, ...]:
    """Return the sentence about prompts and other texts of PNGs that the format of the outputs cannot hold."""
    if not count:
        return ()
    pages = "1 page has" if count == 1 else f"{count:,} pages have"
    return (f"{pages} lost the texts of the PNG, such as the prompt: --format png keeps them",)


def _forget_answers(context: JobContext) -> None:
    """Delete what is left of answers that were paid for, once every page is done. On the thread of the ledger."""
    context.answers.forget(find_unneeded(context.answers, context.ledger, context.job_id))


async def _replace_sources(context: JobContext) -> ReplaceResult:
    """Replace the originals whose outputs are done, until the user wants the run to end."""
    if not context.settings.replace_sources:
        return ReplaceResult()
    rows = await context.on_ledger(context.ledger.done_rows, context.job_id)
    # Windows neither moves nor removes a volume that is open.
    await asyncio.to_thread(context.sources.close)
    return await asyncio.to_thread(replace_sources, context, rows)


async def _copy_files(context: JobContext) -> _Copies:
    """Copy the files that belong to finished pages, and other files until a stop."""
    settings, discovery, on_ledger = context.settings, context.discovery, context.on_ledger
    # Where originals are replaced, the files beside them are in their places already.
    sidecars = settings.sidecars == "copy" and not settings.replace_sources
    in_volumes = any(file.member is not None for file in discovery.files)
    if not (settings.copy_others or in_volumes or (sidecars and discovery.files) or context.moved):
        return _Copies()
    rows = await on_ledger(context.ledger.rows, context.job_id)
    planned = plan_copies(discovery, rows, sidecars=sidecars, others=settings.copy_others)
    known = await on_ledger(context.ledger.carried, settings.output)
    tasks = [copy for copy in planned if isinstance(copy, CopyTask)]
    stale = find_stale_copies(context.moved, discovery, tasks, known, context.stores.outputs)
    if stale:
        await asyncio.to_thread(context.stores.outputs.delete, stale)
        await on_ledger(context.ledger.forget_copies, settings.output, stale)
    copies = _Copies(failures=[copy for copy in planned if isinstance(copy, CopyFailure)])
    store = context.stores.sources
    with contextlib.closing(SourceReader(store, discovery.volumes, settings.volume_rules)) as sources:
        results = copy_files(
            tasks,
            known,
            sources,
            context.stores.outputs,
            context.source_folders,
            overwrite=settings.overwrite,
            stop=context.stop,
        )
        while batch := await asyncio.to_thread(list, itertools.islice(results, COPIED_AT_ONCE)):
            files = [result for result in batch if isinstance(result, CopiedFile)]
            await on_ledger(context.ledger.record_carried, context.job_id, files)
            copies.copied += len(files)
            copies.failures += [result for result in batch if isinstance(result, CopyFailure)]
            copies.left += sum(isinstance(result, CopyLeft) for result in batch)
    return copies
