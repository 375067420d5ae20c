"""The context that all parts of a run share."""

from __future__ import annotations

from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from pathlib import PurePath

from comic_upscale.costs.spending import Spending
from comic_upscale.execution.events import Listener
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.jobs.page_watch import PageWatch
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.follow_renames import MovedOutput
from comic_upscale.planning.plan import Plan
from comic_upscale.planning.resolve import ResolvedJob
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.selection import Selection
from comic_upscale.storage.answers import AnswerStore
from comic_upscale.storage.stores import Stores


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One run of one job."""

    job: ResolvedJob
    """The job, with nothing left open."""
    discovery: Discovery
    """The contents of the input."""
    source_folders: frozenset[PurePath]
    """The real folders of the pages, with links resolved; nothing is written there."""
    stores: Stores
    """The stores of the input and the outputs."""
    files: Pool
    """Threads that read and write files."""
    sources: SourceReader
    """Reads pages and other files of the input."""
    ledger: Ledger
    """Used on its own thread only."""
    on_ledger: AsyncLedger
    """The thread of the ledger."""
    job_id: int
    """Of the job in the ledger."""
    plan: Plan
    """The pending work, and the counts at the start."""
    run_id: int
    """Of this run in the ledger."""
    moved: tuple[MovedOutput, ...] = ()
    """Outputs that moved with their renamed sources before the plan was made."""
    emit: Listener
    """Takes the events."""
    stop: StopRequest
    """Requests a graceful stop."""
    spending: Spending | None
    """The cost meter, which may request a stop; None without a price."""
    answers: AnswerStore
    """The answers of engines that are billed by call, until their pages are recorded."""
    watch: PageWatch | None = None
    """Watches which pages are in flight."""
    looked_at: Selection | None = None
    """The part of the input that this run looks at; None for all of it."""

    @property
    def settings(self) -> JobSettings:
        """The resolved settings of the job."""
        return self.job.settings

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the job."""
        return self.job.fingerprint

    def is_at_ceiling(self, seconds: float = 0.0) -> bool:
        """Request a stop if this many more seconds would exceed the cost ceiling; return whether they would."""
        if self.spending is None or self.spending.allows(seconds=seconds):
            return False
        self.stop.request(self.spending.why(seconds), CEILING)
        return True
