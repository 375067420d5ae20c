"""The progress of a run: its counts, and the event for a display twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from comic_upscale.execution.base import Activity
from comic_upscale.execution.events import Progress, RateMeter
from comic_upscale.ledger.records import PageDone, PageResult, PageSkipped
from comic_upscale.planning.plan import Plan

BUSY_ENOUGH = 0.5
"""A stage that is less busy than this is no bottleneck."""


class Tally:
    """Counts the results of a run. Used on the thread of the event loop only.

    Args:
        plan: of the run, with the counts at the start.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rate = RateMeter()
        self.done = 0
        """Pages done by this run."""
        self.copied = 0
        """Pages among them that are copies of duplicates."""
        self.failed = 0
        """Pages that failed in this run."""
        self.skipped = 0
        """Pages skipped by this run."""
        self.adopted = 0
        """Pages that another job had already done."""

    @property
    def pending(self) -> int:
        """Pages of the plan without a result."""
        return len(self._plan.todo) - self.done - self.adopted - self.failed - self.skipped

    def count(self, result: PageResult) -> None:
        """Count the result of a page."""
        copied = isinstance(result, PageDone) and result.copied_from is not None
        self.copied += copied
        if not copied:
            # A copy does not predict how long the remaining pages will take.
            self._rate.count()
        if isinstance(result, PageDone):
            self.done += 1
        elif isinstance(result, PageSkipped):
            self.skipped += 1
        else:
            self.failed += 1

    def progress(
        self, activity: Activity, busy: Mapping[str, float], stopping: str | None, *, paused: bool = False
    ) -> Progress:
        """Return the current progress of the run.

        Args:
            activity: of the executor.
            busy: how busy each stage is, 0 to 1.
            stopping: why the run is stopping; None if it is not.
            paused: whether the run is paused.
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
            paused=paused,
            within=tuple(activity.within.values()),
        )


class OpenPages:
    """Counts pages that are not recorded yet, so that a caller can wait for them."""

    def __init__(self) -> None:
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """Add a page."""
        self._open += 1
        self._none.clear()

    def end(self) -> None:
        """Remove a page."""
        self._open -= 1
        if self._open == 0:
            self._none.set()

    async def wait(self) -> None:
        """Wait until there is none."""
        await self._none.wait()
