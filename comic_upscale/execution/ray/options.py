"""Which cluster a run uses, and how. Nothing here imports Ray."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from comic_upscale.errors import SettingsError

_ADDRESS = re.compile(r"auto|(ray://)?[A-Za-z0-9_.\[\]:-]+:[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """A Ray cluster, and the actors that a run starts on it."""

    address: str
    """``auto`` for the cluster that this machine belongs to, ``HOST:PORT`` of its head, or ``ray://HOST:10001``."""
    actors: int | None = None
    """How many actors; None for one on each GPU, or without GPUs as many as the cores allow."""
    cpus: int | None = None
    """Cores of each actor; None for those that a GPU has for itself, or 4 without GPUs, or all of a smaller node."""
    gpus: int | None = None
    """GPUs of each actor, 0 or 1; None for 1 if the cluster has any now. Give 1 where GPUs come with the work."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the actors: the rights to buckets. They appear in no log."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not _ADDRESS.fullmatch(self.address):
            raise SettingsError(
                f"--cluster must be auto, HOST:PORT or ray://HOST:10001, not {self.address[:100]!r}"
            )
        for name, value in (("--cluster-actors", self.actors), ("--cluster-cpus", self.cpus)):
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, not {value}")
        if self.gpus not in (None, 0, 1):
            raise SettingsError(f"--cluster-gpus must be 0 or 1, not {self.gpus}")
