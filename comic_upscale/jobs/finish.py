"""The end of a run: copy sidecars and other files, update the ledger, and sum up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from comic_upscale.execution.events import JobFinished
from comic_upscale.imaging.encode import LOST_TEXTS
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.paid_answers import find_unneeded
from comic_upscale.jobs.replace import ReplaceResult, count_replaced, replace_sources
from comic_upscale.jobs.sidecar_copy import CopyFailure, CopyTask, copy_files, find_stale_copies, plan_copies
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


async def finish_run(context: JobContext, end: RunEnd) -> JobFinished:
    """End a run, and return and emit its last event.

    Args:
        context: of the run.
        end: how its pages ended.

    Raises:
        OutputError: no more files can be copied.
        LedgerError: the ledger cannot be used.
    """
    copied, failures = await _copy_files(context)
    ledger, on_ledger, job_id = context.ledger, context.on_ledger, context.job_id
    replaced = await _replace_sources(context)
    await on_ledger(ledger.end_run, context.run_id, end.state, end.reason)
    counts = await on_ledger(ledger.counts, job_id)
    if set(counts) <= {"done"}:
        await on_ledger(_forget_answers, context)
    failed_pages = await on_ledger(ledger.failures, job_id, SHOWN_FAILURES)
    volumes, volumes_done, volumes_cut = await on_ledger(ledger.volume_counts, job_id)
    suspects = await on_ledger(ledger.suspects, job_id)
    orphans = await on_ledger(ledger.count_orphans, job_id)
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
        carried_now=copied,
        warnings=(
            *(f"{file.source} was not copied: {file.reason}" for file in failures),
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
        moved_now=len(context.moved),
        output_bytes=await on_ledger(ledger.output_bytes, job_id) + await _further_bytes(context),
        replaced_now=replaced.replaced,
        replaced=replaced.in_all,
    )
    context.emit(finished)
    return finished


async def _further_bytes(context: JobContext) -> int:
    """Return the bytes of the further files of split books. The ledger has the size of the first one."""
    if context.settings.max_volume_size is None:
        return 0
    known = await context.on_ledger(context.ledger.carried, context.settings.output)
    outputs = context.stores.outputs
    further = [name for name in known if is_further_part(name)]
    return await asyncio.to_thread(lambda: sum(size_of(outputs, name) or 0 for name in further))


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
    """Replace the originals whose outputs are done, unless the user wants the run to end."""
    if not context.settings.replace_sources:
        return ReplaceResult()
    if context.stop.requested:
        return ReplaceResult(in_all=await asyncio.to_thread(count_replaced, context))
    rows = await context.on_ledger(context.ledger.done_rows, context.job_id)
    return await asyncio.to_thread(replace_sources, context, rows)


async def _copy_files(context: JobContext) -> tuple[int, list[CopyFailure]]:
    """Copy the files that belong to finished pages; return the number copied, and the failures."""
    settings, discovery, on_ledger = context.settings, context.discovery, context.on_ledger
    # Where originals are replaced, the files beside them are in their places already.
    sidecars = settings.sidecars == "copy" and not settings.replace_sources
    in_volumes = any(file.member is not None for file in discovery.files)
    if not (settings.copy_others or in_volumes or (sidecars and discovery.files) or context.moved):
        return 0, []
    rows = await on_ledger(context.ledger.rows, context.job_id)
    # After a stop, finished pages still get their sidecars, but no other files are copied.
    members = not context.stop.requested
    others = settings.copy_others and members
    copies = plan_copies(discovery, rows, sidecars=sidecars, others=others, members=members)
    known = await on_ledger(context.ledger.carried, settings.output)
    tasks = [copy for copy in copies if isinstance(copy, CopyTask)]
    stale = find_stale_copies(context.moved, discovery, tasks, known, context.stores.outputs)
    if stale:
        await asyncio.to_thread(context.stores.outputs.delete, stale)
        await on_ledger(context.ledger.forget_copies, settings.output, stale)
    copied = 0
    failures = [copy for copy in copies if isinstance(copy, CopyFailure)]
    store = context.stores.sources
    with contextlib.closing(SourceReader(store, discovery.volumes, settings.volume_rules)) as sources:
        results = copy_files(
            tasks,
            known,
            sources,
            context.stores.outputs,
            context.source_folders,
            overwrite=settings.overwrite,
        )
        while batch := await asyncio.to_thread(list, itertools.islice(results, COPIED_AT_ONCE)):
            files = [result for result in batch if isinstance(result, CopiedFile)]
            await on_ledger(context.ledger.record_carried, context.job_id, files)
            copied += len(files)
            failures += [result for result in batch if isinstance(result, CopyFailure)]
    return copied, failures
