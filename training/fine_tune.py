"""Train a network of the package further, on a CPU: ``python -m training.fine_tune --network fast --out FOLDER``.

By default the inputs have heavy damage, which makes the network's denoising partner: the same network, begun with
the shipped weights, that removes JPEG artifacts. The program mixes the weights of both (``--denoise``). Soft inputs
make a network that draws crisp contours: comic-crisp. Truths with even tones make one that invents no dots. Both heads
are trained at once, or with ``--only`` one of them. Stop it at any time, or give it ``--minutes``: the same command
continues.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from safetensors.torch import load_file

from training.checkpoint import FineTuning, ForeignCheckpointError, Progress, resume, save, write_weights
from training.degrade import Damage
from training.ground_truth import draw_even, draw_lettering, draw_pages, read_pages, validation_paths
from training.network import Chain, activate_on_cpu
from training.objective import edge_loss, halo_loss, patch_loss, white_loss
from training.on_gpu import BEST, FACTORS, FAST, AtFactor, gather_sources
from training.patches import SHRINKS, Batch, Patches, PatchSettings, as_pixels, batches
from training.train import follow, has_bfloat16, learning_rate
from training.validation import Tracks, psnr_by_track, tracks, white_by_track

_PLANS = {"fast": FAST, "best": BEST, "crisp": BEST}
_SUFFIXES: Mapping[Damage, str] = {"usual": "", "heavy": "-dn", "soft": "-crisp"}
"""What the names of the files end in, by the damage that the network learned to undo."""
_SAVE_SECONDS = 120.0
_HALO = 4.0
"""Weight of halos beside that of edges."""
_QUALITIES = (30, 50, 75)
"""Of the JPEG tracks that decide which weights are kept."""


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and weights.")],
    network: Annotated[
        Literal["fast", "best", "crisp"], typer.Option(help="The network to train further.")
    ] = "fast",
    begin_with: Annotated[Path, typer.Option(help="Folder with comic-fast-x2.safetensors and so on.")] = Path(
        "weights"
    ),
    damage: Annotated[
        Damage,
        typer.Option(
            help="heavy: JPEG of quality 10 to 75, for a denoising partner. soft: blurred, for crisp contours. "
            "usual: as for the network itself."
        ),
    ] = "heavy",
    drawings: Annotated[
        Path | None, typer.Option(help="Folder for the drawn pages; OUT/drawn by default.")
    ] = None,
    shared: Annotated[Path, typer.Option(help="Folder with dev.json and dev/.")] = Path("../shared/comics"),
    minutes: Annotated[
        float, typer.Option(help="Stop after this many minutes. The same command continues.")
    ] = math.inf,
    validate_every: Annotated[int, typer.Option(help="Steps between two validations.")] = 500,
    watch: Annotated[int, typer.Option(help="Use every Nth of the validation pages.")] = 2,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 1,
    steps: int = 6000,
    batch: int = 16,
    patch: int = 64,
    rate: float = 3e-4,
    white: Annotated[float, typer.Option(help="Weight of the loss of white areas.")] = 0.5,
    edges: Annotated[float, typer.Option(help="Weight of the loss of edges and halos.")] = 0.0,
    even: Annotated[
        bool, typer.Option(help="Draw tones that an input does not hold as an even gray in the truths.")
    ] = False,
    only: Annotated[
        int | None,
        typer.Option(help="2 or 3: train the network with this factor alone, instead of both at once."),
    ] = None,
    reach: Annotated[
        float,
        typer.Option(help="Share of the way from the shipped weights to the trained ones that is written."),
    ] = 0.33,
    drawn: Annotated[int, typer.Option(help="Pages to draw first, if the folder has fewer.")] = 220,
    lettered: Annotated[int, typer.Option(help="Pages of lettering to draw first.")] = 90,
    seed: int = 21,
) -> None:
    """Train a network of the package further, or go on where the last stretch stopped."""
    started = time.monotonic()
    paths = {factor: begin_with / f"comic-{network}-x{factor}.safetensors" for factor in FACTORS}
    recipe = FineTuning(
        network=network,
        damage=damage,
        begun_with=hashlib.sha256(b"".join(path.read_bytes() for path in paths.values())).hexdigest(),
        steps=steps,
        batch=batch,
        patch=patch,
        rate=rate,
        white=white,
        edges=edges,
        even=even,
        only=_factor(only),
        drawn=drawn,
        lettered=lettered,
        shared=(shared / "dev.json").is_file(),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    progress = begin(recipe, {factor: load_file(path) for factor, path in paths.items()})
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file():
        try:
            resume(checkpoint, recipe, progress, torch.device("cpu"))
        except ForeignCheckpointError as error:
            raise SystemExit(f"error: {error}") from None
        print(f"continuing at step {progress.step}", flush=True)
    folder = drawings or out / "drawn"
    draw_lettering(folder, lettered, seed=seed * 1_000_000, processes=2)
    draw_pages(folder, drawn, seed=seed * 1_000_000, processes=2)
    shrinks = shrinks_for(recipe.only)
    factors = [factor for factor, _ in shrinks] if even else []
    draw_even(folder, factors, processes=2)
    smallest_side = math.ceil(patch * max(factor for factor, _ in SHRINKS))
    given = Patches(
        gather_sources(folder, shared, None, smallest_side=smallest_side, even=factors),
        PatchSettings(batch, patch, seed, damage, shrinks),
        steps,
        progress.step,
    )
    pages = validation_paths(shared)[::watch] if recipe.shared else []
    shipped = {factor: load_file(path) for factor, path in paths.items()}
    run = _Run(recipe, out, tracks(read_pages(pages), _QUALITIES), shipped, reach)
    run.stretch(progress, given, started + minutes * 60, validate_every, workers)


def begin(recipe: FineTuning, weights: Mapping[int, Mapping[str, torch.Tensor]]) -> Progress:
    """Return a network with these weights and what trains it.

    Args:
        recipe: of the run.
        weights: of the plain network, by the factor of its head.
    """
    torch.manual_seed(recipe.seed)
    if has_bfloat16(torch.device("cpu")):
        Chain.precision = torch.bfloat16
    Chain.activate = staticmethod(activate_on_cpu)
    first = weights[FACTORS[0]]
    convolutions = sum(name.endswith(".bias") for name in first) - 2
    one_slope = _PLANS[recipe.network].one_slope
    network = Chain(len(first["body.0.bias"]), convolutions, FACTORS, one_slope=one_slope)
    if recipe.only is not None:
        # Networks that were trained alone have layers of their own; those of this one train.
        weights = _with_layers_of(recipe.only, weights)
    try:
        network.load_plain(weights)
    except ValueError as error:
        raise SystemExit(f"error: {error}: train one network alone, with --only 2 or --only 3") from None
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=follow)
    trained = [values for values in network.parameters() if values.requires_grad]
    return Progress(network, average, torch.optim.Adam(trained, recipe.rate, betas=(0.9, 0.99)))


def shrinks_for(only: int | None) -> tuple[tuple[float, float], ...]:
    """Return those of `SHRINKS` that the head with this factor is asked at; all of them for None."""
    heads = {factor: 2 if factor <= 2 else 3 for factor, _ in SHRINKS}
    return tuple((factor, share) for factor, share in SHRINKS if only in (None, heads[factor]))


def judged(scores: Mapping[str, float], only: int | None) -> list[float]:
    """Return the scores that decide which weights are kept: those of the JPEG tracks of the heads that are trained.

    A head that is not trained loses, since the layers below it move.

    Args:
        scores: by track, such as ``x2.5 jpeg75``.
        only: the factor of the head that is trained alone; None for both.
    """
    asked = {f"x{factor:g}" for factor, _ in shrinks_for(only)}
    return [score for track, score in scores.items() if "jpeg" in track and track.split()[0] in asked]


def _factor(only: int | None) -> Literal[2, 3] | None:
    if only not in (None, 2, 3):
        raise SystemExit(f"error: --only is 2 or 3, not {only}")
    return only  # type: ignore[return-value]


def file_name(recipe: FineTuning, factor: int) -> str:
    """Return the name of the file that training writes for the factor of a head."""
    what = _SUFFIXES[recipe.damage]
    # comic-crisp that is trained further stays comic-crisp.
    return f"comic-{recipe.network}-x{factor}{'' if what == f'-{recipe.network}' else what}.safetensors"


def _with_layers_of(
    only: int, weights: Mapping[int, Mapping[str, torch.Tensor]]
) -> dict[int, dict[str, torch.Tensor]]:
    """Return the weights with all layers but the heads from the network with this factor."""
    last = max(int(name.split(".")[1]) for name in weights[only])
    heads = {f"body.{last}.weight", f"body.{last}.bias"}
    return {
        factor: {name: (own if name in heads else weights[only])[name] for name in own}
        for factor, own in weights.items()
    }


def train_step(recipe: FineTuning, progress: Progress, batch: Batch) -> float:
    """Do one step; return its loss."""
    for group in progress.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, progress.step)
    small = as_pixels(batch.small).contiguous(memory_format=torch.channels_last)
    truth = as_pixels(batch.truth)
    made = progress.network(small, 2 if truth.shape[-1] <= 2 * small.shape[-1] else 3)
    total = patch_loss(made, truth) + recipe.white * white_loss(made, truth)
    if recipe.edges:
        total = total + recipe.edges * (edge_loss(made, truth) + _HALO * halo_loss(made, truth))
    return progress.learn_from(total)


@dataclass(slots=True)
class _Run:
    """A stretch of training, and what it leaves in its folder."""

    recipe: FineTuning
    out: Path
    watched: Tracks
    shipped: Mapping[int, Mapping[str, torch.Tensor]]
    """The weights that training began with, by the factor of the head."""
    reach: float
    """Share of the way from these to the trained weights that is written."""

    def stretch(
        self, progress: Progress, given: Patches, deadline: float, validate_every: int, workers: int
    ) -> None:
        """Train until the recipe's steps are done or the deadline (of the monotonic clock) has come."""
        losses: list[float] = []
        saved = begun = time.monotonic()
        before = progress.seconds
        if not progress.step:
            self._validate(progress, losses)
        for batch in batches(given, workers=workers):
            losses.append(train_step(self.recipe, progress, batch))
            now = time.monotonic()
            progress.seconds = before + now - begun
            last = progress.step == self.recipe.steps or now > deadline
            if progress.step % validate_every == 0 or last:
                self._validate(progress, losses)
                losses.clear()
            if now - saved > _SAVE_SECONDS or last:
                save(self.out / "checkpoint.pt", self.recipe, progress)
                saved = now
            if last:
                return

    def _validate(self, progress: Progress, losses: list[float]) -> None:
        """Log the scores of the weights that would be written, and keep them if they are the best so far."""
        plain = {factor: progress.average.module.plain(factor) for factor in FACTORS}
        # The networks of the package are stored in half precision, which changes no pixel by a level.
        halves = {
            factor: {
                name: self.shipped[factor][name].float().lerp(values, self.reach).half()
                for name, values in weights.items()
            }
            for factor, weights in plain.items()
        }
        if self.recipe.only is not None:
            halves = _with_layers_of(self.recipe.only, halves)
        written = copy.deepcopy(progress.average.module)
        written.load_plain(halves)
        scores = psnr_by_track(AtFactor(written), self.watched, torch.device("cpu"))
        white = white_by_track(AtFactor(written), self.watched, torch.device("cpu"))
        on_jpeg = judged(scores, self.recipe.only)
        line = {
            "step": progress.step,
            "seconds": round(progress.seconds, 1),
            "loss": round(sum(losses) / max(1, len(losses)), 5),
            "mean": round(sum(on_jpeg) / max(1, len(on_jpeg)), 4),
            "psnr": {track: round(score, 3) for track, score in scores.items()},
            "white": {track: round(share, 4) for track, share in white.items()},
        }
        log = self.out / "log.jsonl"
        earlier = (
            [json.loads(text)["mean"] for text in log.read_text("utf-8").splitlines()]
            if log.is_file()
            else []
        )
        with log.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(line) + "\n")
        told = "  ".join(f"{track} {score:.2f} ({white[track]:.1%})" for track, score in scores.items())
        print(f"step {line['step']}  {line['seconds']:.0f} s  loss {line['loss']:.4f}  {told}", flush=True)
        # Crisp contours and even tones lose some PSNR, so the last weights of such a run are the ones.
        keeps_last = self.recipe.damage == "soft" or self.recipe.even
        if progress.step and (keeps_last or not earlier or line["mean"] >= max(earlier)):
            for factor in FACTORS if self.recipe.only is None else [self.recipe.only]:
                path = self.out / file_name(self.recipe, factor)
                recipe = json.dumps({**asdict(self.recipe), "step": progress.step})
                write_weights(path, halves[factor], {"recipe": recipe})


if __name__ == "__main__":
    typer.run(main)
