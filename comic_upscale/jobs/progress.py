"""How far a run is: what it has counted, and what a display is shown of it twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from comic_upscale.execution.base import Activity
from comic_upscale.execution.events import Progress, RateMeter
from comic_upscale.ledger.records import PageDone, PageResult, PageSkipped
from comic_upscale.planning.plan import Plan

BUSY_ENOUGH = 0.5
"""A stage that is less busy than this holds nobody back."""


class Tally:
    """Counts what a run has done. Used on the loop's thread alone.

    Args:
        plan: of the run, with the counts to begin from.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rate = RateMeter()
        self.done = 0
        """Pages done by this run."""
        self.copied = 0
        """Those of them whose outputs were copied from the same page."""
        self.failed = 0
        """Pages that failed in this run."""
        self.skipped = 0
        """Pages that this run left as they are."""
        self.adopted = 0
        """Pages that another job had done already."""

    @property
    def pending(self) -> int:
        """Pages of the plan that nothing has become of yet."""
        return len(self._plan.todo) - self.done - self.adopted - self.failed - self.skipped

    def count(self, result: PageResult) -> None:
        """Take in what became of a page."""
        copied = isinstance(result, PageDone) and result.copied_from is not None
        self.copied += copied
        if not copied:
            # A copy says nothing of how long the pages to come will take.
            self._rate.count()
        if isinstance(result, PageDone):
            self.done += 1
        elif isinstance(result, PageSkipped):
            self.skipped += 1
        else:
            self.failed += 1

    def progress(self, activity: Activity, busy: Mapping[str, float], stopping: str | None) -> Progress:
        """How far the run is at this moment.

        Args:
            activity: what the executor is at.
            busy: how busy each stage is, 0 to 1.
            stopping: why the run is about to stop; None where it is not.
        """
        pending, rate = self.pending, self._rate.rate()
        busy = {stage: round(share, 3) for stage, share in busy.items()}
        stage, share = max(busy.items(), key=lambda item: item[1], default=("", 0.0))
        return Progress(
            total=self._plan.total,
            done=self._plan.done + self.adopted + self.done,
            failed=self._plan.failed + self.failed,
            skipped=self._plan.skipped + self.skipped,
            pending=pending,
            pages_per_second=None if rate is None else round(rate, 4),
            eta_seconds=round(pending / rate, 1) if rate else None,
            in_hand=activity.in_hand,
            bottleneck=stage if share >= BUSY_ENOUGH else None,
            busy=busy,
            stopping=stopping,
            doing=activity.doing,
        )


class OpenPages:
    """How many pages are on their way to their record, so that their end can be waited for."""

    def __init__(self) -> None:
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """One more is on its way."""
        self._open += 1
        self._none.clear()

    def end(self) -> None:
        """One less is on its way."""
        self._open -= 1
        if self._open == 0:
            self._none.set()

    async def wait(self) -> None:
        """Wait until none is on its way."""
        await self._none.wait()
