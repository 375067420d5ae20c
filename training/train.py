"""Train the compact network on comic pages: ``python -m training.train --out FOLDER``.

Draws the pages first, then trains, says how it goes, and leaves ``weights.safetensors`` in the folder.
Stop it at any time, or give it ``--minutes``: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file
from spandrel.architectures.Compact import Compact

from comic_upscale.models.digest import sha256_of
from training.checkpoint import AnyRecipe, ForeignCheckpointError, Progress, Recipe, export, resume, save
from training.ground_truth import (
    draw_lettering,
    draw_pages,
    read_lettering,
    read_pages,
    shared_pages,
    validation_paths,
)
from training.objective import loss
from training.patches import SHRINKS, Batch, Patches, PatchSettings, Source, as_pixels, batches
from training.validation import Tracks, psnr_by_track, tracks

_WARM_UP = 500
"""Steps over which the learning rate rises, so that the first gradients do no harm."""
_AVERAGE_DECAY = 0.999
_SAVE_SECONDS = 120.0
_DEFAULT = Recipe()


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and weights.")],
    drawings: Annotated[
        Path | None, typer.Option(help="Folder for the drawn pages; OUT/drawn by default.")
    ] = None,
    shared: Annotated[
        Path, typer.Option(help="Folder with dev.json and dev/: real pages, for training and for validation.")
    ] = Path("../shared/comics"),
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    minutes: Annotated[float, typer.Option(help="Stop after so many, to be continued.")] = math.inf,
    validate_every: Annotated[int, typer.Option(help="Steps between two validations.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 1,
    features: int = _DEFAULT.features,
    convolutions: int = _DEFAULT.convolutions,
    steps: int = _DEFAULT.steps,
    batch: int = _DEFAULT.batch,
    patch: int = _DEFAULT.patch,
    rate: float = _DEFAULT.rate,
    drawn: int = _DEFAULT.drawn,
    drawn_share: float = _DEFAULT.drawn_share,
    lettered: Annotated[int, typer.Option(help="Pages drawn for their lettering.")] = _DEFAULT.lettered,
    lettered_share: float = _DEFAULT.lettered_share,
    seed: int = _DEFAULT.seed,
    begin_with: Annotated[
        Path | None,
        typer.Option(help="Weights (.safetensors) to train further: of as many features, of no more layers."),
    ] = None,
) -> None:
    """Train the compact network on comic pages, or go on where the last stretch stopped."""
    started = time.monotonic()
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    recipe = Recipe(
        features=features,
        convolutions=convolutions,
        steps=steps,
        batch=batch,
        patch=patch,
        rate=rate,
        drawn=drawn,
        drawn_share=drawn_share,
        lettered=lettered,
        lettered_share=lettered_share,
        seed=seed,
        shared=(shared / "dev.json").is_file(),
        begun_with=sha256_of(begin_with) if begin_with else "",
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        progress = begin(recipe, on, begin_with)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file():
        try:
            resume(checkpoint, recipe, progress, on)
        except ForeignCheckpointError as error:
            raise SystemExit(f"error: {error}") from None
        print(f"continuing at step {progress.step}")
    patches = _patches(recipe, drawings or out / "drawn", shared, progress.step)
    watched = tracks(read_pages(validation_paths(shared))) if recipe.shared else {}
    run_stretch(recipe, progress, patches, watched, out, on, minutes * 60 + started, validate_every, workers)
    export(out / "weights.safetensors", progress.average.module, {"recipe": json.dumps(asdict(recipe))})


def begin(recipe: Recipe, device: torch.device, weights: Path | None = None) -> Progress:
    """Return a network with what trains it; the seed decides its weights, or they are those of a file."""
    torch.manual_seed(recipe.seed)
    network = Compact(num_feat=recipe.features, num_conv=recipe.convolutions, upscale=recipe.scale)
    if weights:
        network.load_state_dict(deepened(load_file(weights), recipe.convolutions))
    else:
        _begin_as_identity(network)
    network = network.to(device, memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=follow)
    optimizer = torch.optim.Adam(network.parameters(), recipe.rate, betas=(0.9, 0.99))
    return Progress(network, average, optimizer)


def deepened(weights: Mapping[str, torch.Tensor], convolutions: int) -> dict[str, torch.Tensor]:
    """Return the weights of a compact network with inner layers put in at its middle that hand their input on.

    So the deeper network computes what the other one did, and training goes on from there.

    Args:
        weights: of a compact network, as its ``state_dict`` names them.
        convolutions: inner ones that the network is to have.

    Raises:
        ValueError: it has more already.
    """
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        _, number, of_layer = name.split(".")
        layers.setdefault(int(number), {})[of_layer] = value
    chain = [layers[number] for number in sorted(layers)]
    # Convolution and PReLU in turn: a first pair, the inner ones, and the last convolution.
    missing = convolutions - (len(chain) - 3) // 2
    if missing < 0:
        raise ValueError(f"the weights have {convolutions - missing} convolutions, more than {convolutions}")
    middle = 2 + (len(chain) - 3) // 4 * 2
    kernel, slopes = chain[2]["weight"], chain[3]["weight"]
    for _ in range(missing):
        handing_on = {
            "weight": torch.nn.init.dirac_(torch.empty_like(kernel)),
            "bias": torch.zeros(len(kernel)),
        }
        chain[middle:middle] = [handing_on, {"weight": torch.ones_like(slopes)}]
    return {
        f"body.{number}.{name}": value for number, layer in enumerate(chain) for name, value in layer.items()
    }


def _begin_as_identity(network: Compact) -> None:
    """Let every inner layer hand its input on, with a little noise, and the last add almost nothing.

    A plain chain of convolutions begun at random takes several times as long to beat interpolation.
    """
    first, *inner, last = (layer for layer in network.body if isinstance(layer, torch.nn.Conv2d))
    torch.nn.init.kaiming_normal_(first.weight, a=0.25)
    for layer in inner:
        torch.nn.init.dirac_(layer.weight)
        layer.weight.data.add_(torch.randn_like(layer.weight), alpha=0.02)
    torch.nn.init.normal_(last.weight, std=0.01)
    for layer in (first, *inner, last):
        torch.nn.init.zeros_(layer.bias)


@torch.no_grad()
def follow(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor) -> None:
    """Move the running mean towards the weights: at first quickly, so that it soon forgets the beginning."""
    done = float(updates)
    decay = min(_AVERAGE_DECAY, (1 + done) / (10 + done))
    torch._foreach_lerp_(averaged, current, 1 - decay)


def learning_rate(recipe: AnyRecipe, step: int) -> float:
    """Return the rate of a step: up in a line over the first few hundred, then down in half a cosine."""
    warm_up = min(_WARM_UP, recipe.steps // 10)
    if step < warm_up:
        return recipe.rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, recipe.steps - warm_up)
    return recipe.rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * done)))


def train_step(recipe: Recipe, progress: Progress, batch: Batch, device: torch.device) -> float:
    """Do one step; return its loss."""
    for group in progress.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, progress.step)
    small = as_pixels(batch.small.to(device, memory_format=torch.channels_last, non_blocking=True))
    truth = as_pixels(batch.truth.to(device, non_blocking=True))
    # bfloat16 halves the time of a step also on CPUs that have it; weights and loss stay float32.
    with torch.autocast(device.type, dtype=torch.bfloat16) if has_bfloat16(device) else nullcontext():
        detail = functools.reduce(lambda signal, layer: layer(signal), progress.network.body, small)
    # The sum in float32: bfloat16 has no room for 256 levels.
    base = torch.nn.functional.interpolate(small, scale_factor=recipe.scale, mode="nearest")
    return progress.learn_from(loss(progress.network.upsampler(detail.float()) + base, truth))


def run_stretch(
    recipe: Recipe,
    progress: Progress,
    patches: Patches,
    watched: Tracks,
    out: Path,
    device: torch.device,
    deadline: float,
    validate_every: int,
    workers: int,
) -> None:
    """Train until the recipe's steps are done or the deadline (of the monotonic clock) has come."""
    losses: list[float] = []
    saved = begun = time.monotonic()
    before = progress.seconds
    for batch in batches(patches, workers=workers):
        losses.append(train_step(recipe, progress, batch, device))
        now = time.monotonic()
        progress.seconds = before + now - begun
        last = progress.step == recipe.steps or now > deadline
        if progress.step % validate_every == 0 or last:
            _say(out, progress, losses, psnr_by_track(progress.average.module, watched, device))
            losses.clear()
        if now - saved > _SAVE_SECONDS or last:
            save(out / "checkpoint.pt", recipe, progress)
            saved = now
        if last:
            return


def _patches(recipe: Recipe, drawings: Path, shared: Path, first: int) -> Patches:
    # The largest crop is that of the largest shrink.
    smallest_side = math.ceil(recipe.patch * max(factor for factor, _ in SHRINKS))
    sources = []
    if recipe.drawn:
        paths = draw_pages(drawings, recipe.drawn, seed=recipe.seed * 1_000_000, processes=2)
        sources.append(
            Source(read_pages(paths), recipe.drawn_share - (recipe.lettered_share if recipe.lettered else 0))
        )
    if recipe.lettered:
        paths = draw_lettering(drawings, recipe.lettered, seed=recipe.seed * 1_000_000, processes=2)
        lettering = read_lettering(paths, smallest_side=smallest_side)
        # Crisp and upright, as print is: softened truths close the gaps that tell letters apart.
        sources.append(Source(lettering, recipe.lettered_share, soft_share=0.1, turned=False))
    if recipe.shared:
        real = [pixels for _, pixels in shared_pages(shared, smallest_side=smallest_side)]
        sources.append(Source(real, 1 - recipe.drawn_share))
    return Patches(sources, PatchSettings(recipe.batch, recipe.patch, recipe.seed), recipe.steps, first)


def _say(out: Path, progress: Progress, losses: list[float], scores: dict[str, float]) -> None:
    line = {
        "step": progress.step,
        "seconds": round(progress.seconds, 1),
        "loss": round(sum(losses) / max(1, len(losses)), 5),
        "psnr": {track: round(score, 3) for track, score in scores.items()},
    }
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    told = "  ".join(f"{track} {score:.2f}" for track, score in scores.items())
    print(f"step {line['step']}  {line['seconds']:.0f} s  loss {line['loss']:.4f}  {told}", flush=True)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16."""
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


if __name__ == "__main__":
    typer.run(main)
