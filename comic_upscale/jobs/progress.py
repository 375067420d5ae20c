"""The progress of a run: its counts, and the event that a display gets twice a second."""

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
        """Pages of the plan without a result yet."""
        return len(self._plan.todo) - self.done - self.adopted - self.failed - self.skipped

    def count(self, result: PageResult) -> None:
        """Count the result of a page."""
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
        """Return the progress of the run at this moment.

        Args:
            activity: of the executor.
            busy: how busy each stage is, 0 to 1.
            stopping: the reason of a stop; None if none is requested.
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
    """Counts the pages on their way to their record, so that a run can wait for the last one."""

    def __init__(self) -> None:
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """Count one more."""
        self._open += 1
        self._none.clear()

    def end(self) -> None:
        """Count one less."""
        self._open -= 1
        if self._open == 0:
            self._none.set()

    async def wait(self) -> None:
        """Wait until there is none."""
        await self._none.wait()
