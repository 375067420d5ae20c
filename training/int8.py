"""Train the weights in 8 bits of a network: ``python -m training.int8 --model comic-fast-x3 --out FOLDER``.

The network computes with all roundings of `comic_upscale.engines.torch.int8`, and learns to give the pages that it
gives without them. So the truths are its own outputs. Stop the command at any time, or give it ``--minutes``: the same
command continues.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from spandrel.architectures.Compact import Compact
from torch.nn import functional

from comic_upscale.engines.torch.int8 import LARGEST, activate, even_areas, without_noise
from comic_upscale.models.digest import sha256_of
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import ResolvedWeights
from training.checkpoint import ForeignCheckpointError, Int8Training, Progress, resume, save, write_weights
from training.ground_truth import draw_lettering, draw_pages, read_pages, validation_paths
from training.on_gpu import gather_sources
from training.patches import SHRINKS, Patches, PatchSettings, as_pixels, batches
from training.train import follow, has_bfloat16, learning_rate
from training.validation import tracks

_SLOPE = 3 / 16
"""Of the activation of whole numbers, below 0."""
_STEP_SHARE = 0.3
"""The learning rate of the steps between codes, relative to that of the weights."""
_CALIBRATION_BATCHES = 6
_ZEROS = range(16, 129, 16)
"""The codes that may stand for 0."""
_REACHES = (1.0, 0.8, 0.6, 0.45, 0.35)
"""Shares of the largest number that the largest code may stand for."""
_SAMPLES = 60_000
"""Numbers of a layer by which its codes are chosen."""


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and weights.")],
    model: Annotated[str, typer.Option(help="The network: a file MODEL.safetensors in --weights.")],
    weights: Annotated[Path, typer.Option(help="Folder of the network.")] = Path("weights"),
    drawings: Annotated[
        Path | None, typer.Option(help="Folder for the drawn pages; OUT/drawn by default.")
    ] = None,
    shared: Annotated[Path, typer.Option(help="Folder with dev.json and dev/.")] = Path("../shared/comics"),
    minutes: Annotated[
        float, typer.Option(help="Stop after this many minutes. The same command continues.")
    ] = math.inf,
    validate_every: Annotated[int, typer.Option(help="Steps between two validations.")] = 250,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 1,
    steps: int = 1200,
    batch: int = 12,
    patch: int = 64,
    rate: float = 1e-4,
    drawn: Annotated[int, typer.Option(help="Pages to draw first, if the folder has fewer.")] = 220,
    lettered: Annotated[int, typer.Option(help="Pages of lettering to draw first.")] = 90,
    seed: int = 21,
) -> None:
    """Train the weights in 8 bits of a network, or go on where the last stretch stopped."""
    deadline = time.monotonic() + minutes * 60
    path = weights / f"{model}.safetensors"
    recipe = Int8Training(
        begun_with=sha256_of(path),
        steps=steps,
        batch=batch,
        patch=patch,
        rate=rate,
        drawn=drawn,
        lettered=lettered,
        shared=(shared / "dev.json").is_file(),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    folder = drawings or out / "drawn"
    draw_lettering(folder, lettered, seed=seed * 1_000_000, processes=2)
    draw_pages(folder, drawn, seed=seed * 1_000_000, processes=2)
    sources = gather_sources(folder, shared, None, smallest_side=math.ceil(patch * SHRINKS[-1][0]))
    settings = PatchSettings(batch, patch, seed)

    exact = load_exact(path)
    rounded = RoundedNetwork(exact)
    inputs = [
        as_pixels(each.small) for each in islice(Patches(sources, settings, steps), _CALIBRATION_BATCHES)
    ]
    rounded.choose_codes(inputs)
    progress = begin(recipe, rounded)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file():
        try:
            resume(checkpoint, recipe, progress, torch.device("cpu"))
        except ForeignCheckpointError as error:
            raise SystemExit(f"error: {error}") from None
        print(f"continuing at step {progress.step}", flush=True)
    watched = _watched(validation_paths(shared)) if recipe.shared else []
    patches = Patches(sources, settings, steps, progress.step)
    for small in (as_pixels(each.small) for each in batches(patches, workers=workers)):
        train_step(recipe, progress, exact, small)
        is_last = progress.step == steps or time.monotonic() > deadline
        if progress.step % validate_every == 0 or is_last:
            _say(out, progress, distances(progress.average.module, exact, watched))
            save(checkpoint, recipe, progress)
        if is_last:
            break
    write(out / f"{model}-int8.safetensors", progress.average.module, recipe)


def load_exact(path: Path) -> Compact:
    """Return a network of the package in float32."""
    network = load_network(ResolvedWeights(path.stem, path, sha256_of(path)), None).module
    assert isinstance(network, Compact)
    return network


class _RoundedWeights(torch.autograd.Function):
    """Rounds to whole numbers; the gradient passes."""

    @staticmethod
    def forward(_: Any, weights: torch.Tensor) -> torch.Tensor:
        return weights.round()

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class _RoundedActivation(torch.autograd.Function):
    """The activation by codes. The gradient of the step is that of LSQ (Esser et al., 2020)."""

    @staticmethod
    def forward(context: Any, numbers: torch.Tensor, step: torch.Tensor, zero: int) -> torch.Tensor:
        exact = numbers / step
        steps = exact.round().clamp(-zero, LARGEST - zero)
        context.save_for_backward(exact, steps)
        context.zero = zero
        return activate(steps) * step

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        exact, steps = context.saved_tensors
        is_inside = (exact >= -context.zero - 0.5) & (exact <= LARGEST - context.zero + 0.5)
        gradient = gradients[0] * torch.where(steps >= 0, 1.0, _SLOPE)
        of_step = (gradient * torch.where(is_inside, steps - exact, steps)).sum()
        return gradient * is_inside, of_step.reshape(1) / math.sqrt(exact.numel() * LARGEST / 2), None


class RoundedNetwork(torch.nn.Module):
    """A compact network that computes with the roundings of 8 bits.

    Args:
        exact: the network; it is copied.
    """

    def __init__(self, exact: Compact) -> None:
        super().__init__()
        convolutions = [layer for layer in exact.body if isinstance(layer, torch.nn.Conv2d)]
        self.weights = torch.nn.ParameterList(layer.weight.detach().clone() for layer in convolutions)
        self.biases = torch.nn.ParameterList(layer.bias.detach().clone() for layer in convolutions)
        self.steps = torch.nn.ParameterList(torch.ones(1) for _ in convolutions[1:])
        """Of the codes between two layers."""
        self.zeros = [16] * len(self.steps)
        """The codes that stand for 0."""
        self._scale = int(exact.upscale)

    def forward(self, page: torch.Tensor) -> torch.Tensor:
        """Return the enlarged page, float32, not clipped."""
        signal = page
        for index, bias in enumerate(self.biases):
            weight, scale = self.rounded(index)
            signal = functional.conv2d(signal, weight * scale, bias, padding=1)
            if index < len(self.steps):
                # In float32, whatever the convolutions compute in.
                signal = _RoundedActivation.apply(signal.float(), self.steps[index], self.zeros[index])
        near = functional.interpolate(page, scale_factor=self._scale, mode="nearest")
        even = even_areas((page * LARGEST).round().to(torch.uint8))
        detail = without_noise(signal.float(), even)
        return functional.pixel_shuffle(detail, self._scale) + near

    def rounded(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of a layer as whole numbers of 8 bits, and what 1 stands for, by output."""
        weight = self.weights[index]
        scale = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-9) / 127
        return _RoundedWeights.apply(weight / scale), scale

    @torch.no_grad()
    def choose_codes(self, inputs: Sequence[torch.Tensor]) -> None:
        """Choose the codes between the layers by what they round off from these inputs."""
        signals = list(inputs)
        for index, step in enumerate(self.steps):
            signals = [
                functional.conv2d(each, self.weights[index], self.biases[index], padding=1)
                for each in signals
            ]
            numbers = torch.cat([each.flatten() for each in signals])
            numbers = numbers[:: max(1, len(numbers) // _SAMPLES)]
            wanted = functional.leaky_relu(numbers, 0.2)
            top = float(max(each.max() for each in signals))
            chosen: tuple[float, float, int] | None = None
            for reach in _REACHES:
                for zero in _ZEROS:
                    size = top * reach / (LARGEST - zero)
                    codes = (numbers / size).round().clamp(-zero, LARGEST - zero)
                    error = float((activate(codes) * size - wanted).square().mean())
                    if chosen is None or error < chosen[0]:
                        chosen = error, size, zero
            assert chosen is not None
            step.fill_(chosen[1])
            self.zeros[index] = chosen[2]
            signals = [functional.leaky_relu(each, 0.2) for each in signals]


def begin(recipe: Int8Training, network: RoundedNetwork) -> Progress:
    """Return what trains a network."""
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=follow)
    groups = [
        {"params": [*network.weights, *network.biases], "share": 1.0},
        {"params": list(network.steps), "share": _STEP_SHARE},
    ]
    return Progress(network, average, torch.optim.Adam(groups, recipe.rate, betas=(0.9, 0.99)))


def train_step(
    recipe: Int8Training, progress: Progress, exact: torch.nn.Module, small: torch.Tensor
) -> float:
    """Do one step; return its loss."""
    for group in progress.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, progress.step) * group["share"]
    with torch.no_grad():
        truth = exact(small)
    with torch.autocast("cpu", torch.bfloat16) if has_bfloat16(torch.device("cpu")) else nullcontext():
        made = progress.network(small)
    return progress.learn_from((made - truth).square().mean())


@torch.inference_mode()
def distances(
    network: torch.nn.Module, exact: torch.nn.Module, inputs: Sequence[torch.Tensor]
) -> list[float]:
    """Return the PSNR between the pages of two networks in decibels, for each input."""
    return [_psnr(_levels(network(each)), _levels(exact(each))) for each in inputs]


def _levels(page: torch.Tensor) -> torch.Tensor:
    return page.clamp(0, 1).mul(255).round()


def _psnr(made: torch.Tensor, truth: torch.Tensor) -> float:
    return float(20 * np.log10(255) - 10 * np.log10(max(float((made - truth).square().mean()), 1e-6)))


def _watched(paths: Sequence[Path]) -> list[torch.Tensor]:
    crops = tracks(read_pages(paths), (50,))
    return [small for name in ("x2 clean", "x2.5 jpeg50") for small, _ in crops.get(name, ())]


def _say(out: Path, progress: Progress, found: Sequence[float]) -> None:
    line = {"step": progress.step, "psnr": [round(each, 2) for each in found]}
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    told = f"{np.mean(found):.2f} dB, at least {min(found):.2f}" if found else "no pages to watch"
    print(f"step {progress.step}  {told}", flush=True)


def write(path: Path, network: RoundedNetwork, recipe: Int8Training) -> None:
    """Write the weights as the engine reads them."""
    write_weights(path, dict(_tensors(network)), {"recipe": json.dumps(asdict(recipe))})


@torch.no_grad()
def _tensors(network: RoundedNetwork) -> Iterator[tuple[str, torch.Tensor]]:
    for index, bias in enumerate(network.biases):
        weight, scale = network.rounded(index)
        yield f"{index}.weight", weight.to(torch.int8).contiguous()
        yield f"{index}.weight_scale", scale.flatten().float()
        yield f"{index}.bias", bias.detach().float()
        if index < len(network.steps):
            yield f"{index}.scale", network.steps[index].detach().float()
            yield f"{index}.zero", torch.tensor([network.zeros[index]])


if __name__ == "__main__":
    typer.run(main)
