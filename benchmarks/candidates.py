"""Who takes part in a comparison: plain Lanczos, networks through our own `Upscaler`, and the peers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.peers import PEERS, PeerNetwork, open_peer
from benchmarks.validation import REPOSITORY
from comic_upscale import Upscaler
from comic_upscale.evaluation.shrunk import Track
from comic_upscale.evaluation.trial import LANCZOS, lanczos
from comic_upscale.evaluation.trial import Restore as Upscale
from comic_upscale.models.catalogue import CATALOGUE

REFERENCE = "realesr-animevideov3"
"""The model whose time the others' times are given in."""
OWN = "comic-compact-x3"
"""The model that the project trained itself."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of upscaling, not opened yet."""

    name: str
    """What the tables call it; the variants of a peer share it, and the best of them stands for all."""
    variant: str
    """Which of several; empty where there is one."""
    open: Callable[[int], AbstractContextManager[Upscale]]
    """Prepares it to work with this number of threads, and frees its memory at the end."""
    network: PeerNetwork | None = None
    """The peer's network; None for what is no peer."""

    @property
    def label(self) -> str:
        """Name and variant."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    def fits(self, track: Track) -> bool:
        """Tell whether it takes part: what denoises where there is noise, and no larger factor than helps."""
        if self.network is None:
            return True
        if self.network.denoises and not track.noisy:
            return False
        return track.factor > 2 or self.network.scale == 2


def gather(models: Sequence[str], *, peers: bool) -> list[Candidate]:
    """Return Lanczos, the reference, our own model where there is one, the models named, and the peers.

    Args:
        models: names of the catalogue, or paths of files of weights; with ``@int8`` after it, in that precision.
        peers: whether the peers take part.
    """
    names = [REFERENCE, *([OWN] if OWN in CATALOGUE else []), *models]
    found = [Candidate(LANCZOS, "", lambda threads: nullcontext(lanczos))]
    # A name given twice takes part once.
    found += [Candidate(model_name(name), "", partial(open_network, name)) for name in dict.fromkeys(names)]
    if peers:
        folder = weights_folders()[0] / "peers"
        found += [
            Candidate(network.peer, network.variant, partial(open_peer, network, folder), network)
            for network in PEERS
        ]
    return found


def model_name(model: str) -> str:
    """What the tables call a model: its name, or the bare name of its file."""
    return model if model.partition("@")[0] in CATALOGUE else Path(model).stem


def weights_folders() -> list[Path]:
    """Where weights may be on this machine."""
    named = os.environ.get("COMIC_UPSCALE_WEIGHTS")
    return [Path(named)] if named else [REPOSITORY.parent / "shared" / "weights", REPOSITORY / "weights"]


@contextmanager
def open_network(model: str, threads: int) -> Iterator[Upscale]:
    """Give the upscaling of a model through our own `Upscaler` on the CPU.

    Raises:
        WeightsError: the weights are not there.
    """
    torch.set_num_threads(threads)
    name, _, precision = model.partition("@")
    with Upscaler(
        name, device="cpu", precision=precision or "auto", weights_folders=weights_folders()
    ) as upscaler:
        yield upscaler.upscale
