"""Test-time augmentation: upscale a page in all eight turns and mirrorings, and average the results.

A network treats the eight turns of a page slightly differently. Their mean has less of the network's own noise, and
takes eight times as long. It works around any engine, however that cuts pages into tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import (
    Batch,
    Engine,
    EngineInfo,
    EnginePart,
    OnPart,
    Upscaled,
    charge,
    follow,
    interrupt,
)
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, SampleArray


@dataclass(frozen=True, slots=True)
class _Turn:
    """One of the eight symmetries of a rectangle on a square grid: first mirrored, then transposed."""

    rows: bool
    """Whether the first row becomes the last."""
    columns: bool
    """Whether the first column becomes the last."""
    transposed: bool

    def apply(self, pages: SampleArray) -> SampleArray:
        """Turn pages, N x height x width x C."""
        pages = self._mirror(pages)
        # A copy: a side of one pixel that was mirrored counts as contiguous, and torch refuses its negative stride.
        return np.array(pages.swapaxes(1, 2) if self.transposed else pages, order="C", copy=True)

    def undo(self, pages: SampleArray) -> SampleArray:
        """Turn pages back."""
        return self._mirror(pages.swapaxes(1, 2) if self.transposed else pages)

    def undo_borders(self, borders: Borders, size: tuple[int, int]) -> Borders:
        """Return borders in a turned page as borders in the page, which has this (width, height)."""
        rows, columns = borders.rows, borders.columns
        if self.transposed:
            rows, columns = columns, rows
        width, height = size
        return Borders(
            tuple(sorted(height - row for row in rows)) if self.rows else rows,
            tuple(sorted(width - column for column in columns)) if self.columns else columns,
        )

    def _mirror(self, pages: SampleArray) -> SampleArray:
        return pages[:, :: -1 if self.rows else 1, :: -1 if self.columns else 1]


TURNS = tuple(
    _Turn(rows, columns, transposed)
    for transposed in (False, True)
    for rows in (False, True)
    for columns in (False, True)
)


class TtaEngine:
    """An engine that returns the mean of the eight turns; an `Engine`.

    Args:
        engine: upscales each turn. It is closed with this engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._on_part: OnPart | None = None

    @property
    def info(self) -> EngineInfo:
        """The properties of the engine."""
        return self._engine.info

    def batch_limit(self, height: int, width: int) -> int:
        """Return the limit of the engine for a page, upright and on its side."""
        return min(self._engine.batch_limit(height, width), self._engine.batch_limit(width, height))

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the mean of the eight turns, rounded; errors as the engine's."""
        width, height = batch.target_size
        is_deep = batch.pixels.dtype == np.uint16
        total: SampleArray | None = None
        borders, cost = NO_BORDERS, 0.0
        notes: tuple[str, ...] = ()
        for turn, made in self._each(batch):
            pixels = turn.undo(made.pixels)
            if total is None:
                # The sum of eight samples of 8 bits has 11.
                total = pixels.astype(np.uint32 if is_deep else np.uint16)
            else:
                np.add(total, pixels, out=total, casting="unsafe")
            borders = borders.join(turn.undo_borders(made.borders, (width, height)))
            cost += made.cost
            notes = tuple(dict.fromkeys((*notes, *made.notes)))
            # The next turn needs the memory.
            del made, pixels
        assert total is not None
        count = len(TURNS)
        mean = ((total + count // 2) // count).astype(batch.pixels.dtype)
        return Upscaled(mean, borders, cost, notes)

    def _each(self, batch: Batch) -> Iterator[tuple[_Turn, Upscaled]]:
        width, height = batch.target_size
        for index, turn in enumerate(TURNS):
            follow(self._engine, self._after_turns(index))
            size = (height, width) if turn.transposed else (width, height)
            yield turn, self._engine.upscale(Batch(turn.apply(batch.pixels), size, batch.conservative))

    def _after_turns(self, turns: int) -> OnPart | None:
        """Return what takes the parts of the next turn as parts of all."""
        on_part = self._on_part
        if on_part is None:
            return None
        return lambda part: on_part(
            EnginePart(part.unit, turns * part.total + part.done, len(TURNS) * part.total)
        )

    def follow(self, on_part: OnPart | None) -> None:
        """Let the engine tell what it has done, if it can."""
        self._on_part = on_part
        follow(self._engine, None)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def charge(self, spending: Spending | None) -> None:
        """Let the engine record its calls, if each is billed."""
        charge(self._engine, spending)

    def interrupt(self) -> None:
        """Make the engine end its current call, if it can."""
        interrupt(self._engine)
