"""A page in flight, and what the stages have made of it so far."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from comic_upscale.errors import PageError
from comic_upscale.execution.base import PageOutcome, PageTask, PageUpscaled, failed_page, skipped_page
from comic_upscale.execution.quality_gate import recorded_scores
from comic_upscale.gate.verdict import Verdict
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.library.page_rules import Matches, Network


@dataclass(slots=True)
class PageInFlight:
    """A task on its way through the stages."""

    task: PageTask
    size: tuple[int, int] = (0, 0)
    """(width, height) of the source, upright."""
    target: tuple[int, int] = (0, 0)
    """(width, height) of the output."""
    budget: int = 0
    """Pixels that it has taken from the budget."""
    sha256: str = ""
    """Of the source."""
    pixels: Pixels | None = None
    """The result of the last stage."""
    before: Pixels | None = None
    """The input of the network, kept for the quality gate."""
    network: Network = ("", None)
    """The model and the denoise strength for the page."""
    matches: Matches = ()
    """The rules that match it."""
    own_settings: str = ""
    """Its `OwnSettings` as JSON."""
    engine_index: int = 0
    """Index of the engine that upscaled it."""
    engine_notes: tuple[str, ...] = ()
    """The notes that came with the output of its engine."""
    answers: tuple[str, ...] = ()
    """Pages in `AnswerStore` whose answers are kept until it is recorded."""
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    ready: float = 0.0
    """When the last stage finished, by `time.perf_counter`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds in each stage."""
    waited: dict[str, float] = field(default_factory=dict)
    """Seconds of waiting before each stage."""

    @property
    def input_pixels(self) -> int:
        """The number of pixels of the source."""
        return self.size[0] * self.size[1]

    @property
    def batch_key(self) -> Hashable:
        """Equal for pages that can go through the network together."""
        assert self.pixels is not None
        return (
            self.network,
            self.pixels.color.shape,
            self.pixels.bits,
            self.pixels.alpha is None,
            self.target,
        )

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add time spent in a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_notes(self, notes: tuple[str, ...]) -> None:
        """Add notes for the user, each sentence once."""
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))

    def upscaled(self, data: bytes, sha256: str) -> PageOutcome:
        """Return the outcome of the finished page.

        Args:
            data: the output.
            sha256: of the output.
        """
        return PageUpscaled(
            row_id=self.task.row_id,
            source_sha256=self.sha256,
            width=self.size[0],
            height=self.size[1],
            output_width=self.target[0],
            output_height=self.target[1],
            data=data,
            sha256=sha256,
            seconds=self.seconds,
            waited=self.waited,
            notes=self.notes,
            scores={} if self.verdict is None else recorded_scores(self.verdict),
            suspect=() if self.verdict is None else self.verdict.reasons,
            own_settings=self.own_settings or None,
            answers=self.answers,
            made_at=time.perf_counter(),
        )

    def skipped(self, kind: str, reason: str) -> PageOutcome:
        """Return the outcome of a page that is skipped."""
        task = self.task
        return skipped_page(task.row_id, task.source, kind, reason, size=self.size, seconds=self.seconds)

    def failed(self, error: PageError) -> PageOutcome:
        """Return the outcome of a page that failed."""
        task = self.task
        return failed_page(task.row_id, task.source, error, size=self.size, seconds=self.seconds)


def input_pixels(pages: Sequence[PageInFlight]) -> int:
    """Return the number of source pixels of a batch."""
    return sum(page.input_pixels for page in pages)
