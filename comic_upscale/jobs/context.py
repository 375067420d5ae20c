"""What is settled once for a run, and what all of its parts share."""

from __future__ import annotations

from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from pathlib import PurePath

from comic_upscale.costs.spending import Spending
from comic_upscale.execution.events import Listener
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.plan import Plan
from comic_upscale.planning.resolve import ResolvedJob
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.stores import Stores


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One run of one job."""

    job: ResolvedJob
    discovery: Discovery
    """What was found in the input."""
    source_folders: frozenset[PurePath]
    """Where the pages really are, links followed; nothing is written there."""
    stores: Stores
    """Where the input is, and where outputs go."""
    files: Pool
    """Threads that read and write files."""
    sources: SourceReader
    """Reads pages and other files of the input."""
    ledger: Ledger
    """Used on its own thread alone."""
    on_ledger: AsyncLedger
    """That thread."""
    job_id: int
    """Of the job in the ledger."""
    plan: Plan
    """What there is to do, and the counts to begin from."""
    run_id: int
    """Of this run in the ledger."""
    emit: Listener
    """Takes the events."""
    stop: StopRequest
    """Asks for a graceful stop."""
    spending: Spending | None
    """The meter that may call for one; None where nothing is paid."""

    @property
    def settings(self) -> JobSettings:
        """Of the job, with nothing left open."""
        return self.job.settings

    @property
    def fingerprint(self) -> str:
        """Of the job."""
        return self.job.fingerprint

    def is_at_ceiling(self, seconds: float = 0.0) -> bool:
        """Ask for a stop where the money does not last for this many more seconds; say whether."""
        if self.spending is None or self.spending.allows(seconds=seconds):
            return False
        self.stop.request(self.spending.why(seconds), CEILING)
        return True
