"""A training run as a file: everything that it needs to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file

from training.degrade import Damage


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the weights that come out; a run goes on only with the recipe that it began with, steps aside."""

    features: int = 32
    convolutions: int = 16
    scale: int = 3
    """The network's own factor."""
    steps: int = 21_000
    batch: int = 8
    patch: int = 64
    """Side of an input, in pixels."""
    rate: float = 1e-3
    """Learning rate at its highest."""
    drawn: int = 600
    """Pages drawn by the generator."""
    drawn_share: float = 0.6
    """Of the patches, those from drawn pages; the others are from shared pages."""
    lettered: int = 0
    """Pages drawn for their lettering alone."""
    lettered_share: float = 0.25
    """Of the patches, those from around lettering, where such pages were drawn; it is taken from the drawn pages'."""
    seed: int = 1
    shared: bool = True
    """Whether the shared pages were at hand."""
    begun_with: str = ""
    """SHA-256 of the weights that were trained further, of no more layers; empty where training began at nothing."""


@dataclass(frozen=True, slots=True)
class FineTuning:
    """As `Recipe`, for a network of the package that is trained further, with both of its heads or one."""

    network: Literal["fast", "best", "crisp"]
    damage: Damage
    """What happened to the inputs."""
    begun_with: str
    """SHA-256 of the weights of both heads."""
    steps: int
    batch: int
    patch: int
    """Side of an input, in pixels."""
    rate: float
    """Learning rate at its highest."""
    white: float
    """Weight of the loss of white areas."""
    drawn: int
    """Pages drawn by the generator, without those of lettering."""
    lettered: int
    """Pages drawn for their lettering alone."""
    shared: bool
    """Whether the shared pages were at hand."""
    seed: int
    edges: float = 0.0
    """Weight of the loss of edges and halos."""
    even: bool = False
    """Whether tones that an input does not hold are even in the truths."""
    only: Literal[2, 3] | None = None
    """The factor of the head that is trained alone; None for both."""


@dataclass(frozen=True, slots=True)
class Int8Training:
    """As `Recipe`, for the weights in 8 bits of a network of the package."""

    begun_with: str
    """SHA-256 of the network's own weights."""
    steps: int
    batch: int
    patch: int
    """Side of an input, in pixels."""
    rate: float
    """Learning rate at its highest."""
    drawn: int
    """Pages drawn by the generator, without those of lettering."""
    lettered: int
    """Pages drawn for their lettering alone."""
    shared: bool
    """Whether the shared pages were at hand."""
    seed: int


@dataclass(slots=True)
class Progress:
    """A run between two steps."""

    network: torch.nn.Module
    average: torch.optim.swa_utils.AveragedModel
    """The running mean of the weights, which is what is kept in the end."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent on them, over all stretches."""

    def learn_from(self, loss: torch.Tensor) -> float:
        """Do a step down a loss, and return it."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())


AnyRecipe: TypeAlias = Recipe | FineTuning | Int8Training


class ForeignCheckpointError(Exception):
    """The checkpoint belongs to another recipe."""


def save(path: Path, recipe: AnyRecipe, progress: Progress) -> None:
    """Write the checkpoint, whole or not at all."""
    state = {
        "recipe": asdict(recipe),
        "network": progress.network.state_dict(),
        "average": progress.average.state_dict(),
        "optimizer": progress.optimizer.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def resume(path: Path, recipe: AnyRecipe, progress: Progress, device: torch.device) -> None:
    """Bring ``progress`` to where the checkpoint left it.

    The number of steps alone may differ: a run can be made longer or shorter on the way.

    Raises:
        ForeignCheckpointError: it was made with another recipe.
    """
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    later = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    # A checkpoint may be older than the last options, which then had their defaults.
    made_with = {**later, **state["recipe"], "steps": recipe.steps}
    if made_with != asdict(recipe):
        changed = {key: (made_with.get(key), value) for key, value in asdict(recipe).items()}
        differing = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in changed.items() if was != now)
        raise ForeignCheckpointError(
            f"{path} was made with another recipe ({differing}): give the same options, or another --out."
        )
    progress.network.load_state_dict(state["network"])
    progress.average.load_state_dict(state["average"])
    progress.optimizer.load_state_dict(state["optimizer"])
    progress.step, progress.seconds = state["step"], state["seconds"]


def export(path: Path, network: torch.nn.Module, metadata: dict[str, str]) -> None:
    """Write the weights as safetensors, float32, for every program that reads the compact architecture."""
    tensors = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    write_weights(path, tensors, metadata)


def write_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    # safetensors makes its file for the owner alone; this one is for everybody.
    partial.chmod(0o644)
    partial.replace(path)
