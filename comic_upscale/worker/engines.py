"""Engines that stay open between jobs, and that two jobs use at the same time, one batch after the other.

An interactive job never waits for a job of the batch lane. It shares the engine with it, and its batches go first, so a
page waits for at most the one batch that is on the device already.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from comic_upscale.engines.base import Batch, Engine, KeptOpen, OnPart, Upscaled
from comic_upscale.engines.registry import OpenEngines, find_factory, open_engines
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings

MOST_MODELS = 3
"""Models that are open at the same time; the one used longest ago is closed for another."""

_Key: TypeAlias = tuple[object, ...]


class Turn:
    """Lets one batch at a time use an engine. Batches of interactive jobs go before all others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._first_waiting = 0

    @contextmanager
    def take(self, *, first: bool) -> Iterator[None]:
        """Wait for the engine, and hold it inside the ``with`` block.

        Args:
            first: whether to go before all who are not.
        """
        with self._changed:
            self._first_waiting += first
            try:
                self._changed.wait_for(lambda: not self._is_taken and (first or not self._first_waiting))
                self._is_taken = True
            finally:
                self._first_waiting -= first
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


class _Shared(KeptOpen):
    """An engine of one job, which another job may use between its batches."""

    # Each batch waits for the turn of its job.
    batches_at_once = 1

    def __init__(self, engine: Engine, turn: Turn, lease: _Lease, *, first: bool) -> None:
        super().__init__(engine)
        self._turn, self._lease, self._first = turn, lease, first
        self._on_part: OnPart | None = None

    def upscale(self, batch: Batch) -> Upscaled:
        """Upscale when it is this job's turn."""
        with self._turn.take(first=self._first):
            # Another job may have used it since.
            super().follow(self._on_part)
            return super().upscale(batch)

    def follow(self, on_part: OnPart | None) -> None:
        """Let the engine tell what it does in this job's turns."""
        self._on_part = on_part

    def close(self) -> None:
        """Leave the engine open, and note that this job no longer uses it."""
        self._lease.end()


@dataclass(slots=True, eq=False)
class _Entry:
    model: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the model is loaded; never taken by who holds the lock of the cache."""
    engines: list[Engine] | None = None
    turns: list[Turn] = field(default_factory=list)
    users: int = 0
    """Jobs that use the model or wait for it. The lock of the cache guards it."""


class _Lease:
    """The use of a model by one job, which counts as a user already; ends once."""

    def __init__(self, entry: _Entry, lock: threading.Lock) -> None:
        self._entry, self._lock = entry, lock
        self._has_ended = False

    def end(self) -> None:
        with self._lock:
            if not self._has_ended:
                self._has_ended = True
                self._entry.users -= 1


class EngineCache:
    """Opens engines like the registry, and keeps them. Jobs may use it at the same time; close it at the end.

    Args:
        opener: opens engines that are not open yet.
        most: the number of models that stay open. More stay open only while all of them are in use.
    """

    def __init__(self, opener: OpenEngines = open_engines, most: int = MOST_MODELS) -> None:
        self._opener, self._most = opener, most
        self._lock = threading.Lock()
        self._open: OrderedDict[_Key, _Entry] = OrderedDict()

    @property
    def models(self) -> list[str]:
        """The names of the open models, the one used last at the end."""
        with self._lock:
            return [entry.model for entry in self._open.values()]

    def open_engines(
        self, settings: JobSettings, weights: ResolvedWeights | None, *, first: bool = False
    ) -> list[Engine]:
        """Return the engines of a job; an `OpenEngines`. Closing them leaves them open here.

        Args:
            settings: as for the registry.
            weights: as for the registry.
            first: whether batches of this job go before those of others.
        """
        if find_factory(settings.backend).billing == "call":
            # Each job counts its own calls.
            return self._opener(settings, weights)
        entry, lease = self._take(_key(settings, weights), settings.model)
        with entry.lock:
            # Another job that wants the same model waits here until it is loaded. One with another model does not.
            if entry.engines is None:
                try:
                    entry.engines = self._opener(settings, weights)
                except BaseException:
                    lease.end()
                    self._forget_unused(entry)
                    raise
                entry.turns = [Turn() for _ in entry.engines]
            pairs = zip(entry.engines, entry.turns, strict=True)
            return [_Shared(engine, turn, lease, first=first) for engine, turn in pairs]

    def close(self) -> None:
        """Close all engines, for instance after an error of the device."""
        with self._lock:
            entries = list(self._open.values())
            self._open.clear()
        for entry in reversed(entries):
            _close(entry)

    def _take(self, key: _Key, model: str) -> tuple[_Entry, _Lease]:
        unused: list[_Entry] = []
        with self._lock:
            entry = self._open.pop(key, None)
            if entry is None:
                for other_key, other in list(self._open.items()):
                    if len(self._open) >= self._most and not other.users:
                        unused.append(self._open.pop(other_key))
                entry = _Entry(model)
            self._open[key] = entry
            entry.users += 1
        for each in unused:
            _close(each)
        return entry, _Lease(entry, self._lock)

    def _forget_unused(self, entry: _Entry) -> None:
        """Forget a model that could not be opened, unless another job waits for it and tries to open it next."""
        with self._lock:
            if entry.users:
                return
            for key in [key for key, each in self._open.items() if each is entry]:
                del self._open[key]


def _key(settings: JobSettings, weights: ResolvedWeights | None) -> _Key:
    return (
        settings.backend, settings.model, settings.denoise, settings.engine_options, settings.device,
        settings.precision, settings.batch, settings.tile, settings.tta, weights,
    )  # fmt: skip


def _close(entry: _Entry) -> None:
    for engine in entry.engines or ():
        engine.close()
