"""Signals wait while a machine is being ended: an end that is broken off leaves a machine that is billed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _State:
    depth: int = 0
    """How many blocks of `ending` are open."""
    is_interrupted: bool = False
    """Whether a signal came meanwhile."""


_STATE = _State()


def defer_interrupt() -> bool:
    """Return whether a machine is being ended now. If so, the end is followed by a `KeyboardInterrupt`."""
    if _STATE.depth:
        _STATE.is_interrupted = True
    return _STATE.depth > 0


@contextmanager
def ending() -> Iterator[None]:
    """Mark a block that ends a machine, and what must be written down about it.

    Raises:
        KeyboardInterrupt: a signal came in the block, which ended well. An error of the block itself comes first.
    """
    _STATE.depth += 1
    try:
        yield
    finally:
        _STATE.depth -= 1
        is_interrupted = _STATE.is_interrupted and not _STATE.depth
        if not _STATE.depth:
            _STATE.is_interrupted = False
    if is_interrupted:
        raise KeyboardInterrupt
