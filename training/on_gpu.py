"""Train two networks in some minutes on one GPU: ``python -m training.on_gpu --out FOLDER --minutes 8``.

First ``best``, then ``fast``, which also learns from what ``best`` makes. Each gets a head for 2x and one for 3x on
one trunk. The learning rate follows the clock, so the command ends in time on any GPU. ``--begin-with weights`` trains
the networks of the package further.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file

from training.checkpoint import write_weights
from training.ground_truth import (
    draw_lettering,
    draw_pages,
    drawn_pages,
    even_folder,
    lettered_pages,
    read_lettering,
    read_pages,
    shared_pages,
    validation_paths,
)
from training.muon import Muon
from training.network import Chain, activate
from training.objective import loss, patch_loss, shrink_to
from training.patches import Patches, PatchSettings, Source, as_pixels, batches
from training.train import follow
from training.validation import Tracks, psnr_by_track, tracks

_WARM_UP = 0.03
"""Share of the time over which the learning rate rises."""
_HELD = 1500
"""Batches that stay on the GPU, to be used again where the processor makes them too slowly."""
FACTORS = (2, 3)
_ENDLESS = 10**7
"""Batches: more than any run uses."""
_TAUGHT = 0.6
"""Share of the loss that is the difference from the teacher, where there is one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One network and how it is trained."""

    name: str
    features: int
    convolutions: int
    one_slope: bool
    muon: bool = True
    rate: float = 8e-4
    """Learning rate at its highest; 2e-3 is unstable from the start."""
    squared_from: float = 0.55
    """Share of the time after which the loss is the root of the mean square of each patch."""
    begun_with: str = ""
    """The weights that it begins with, a path with ``{factor}`` in it; empty for random weights."""


BEST = Plan("best", features=64, convolutions=24, one_slope=False)
FAST = Plan("fast", features=32, convolutions=18, one_slope=True)
_TRIALS = (
    replace(BEST, name="adam", muon=False, rate=1e-3),
    replace(BEST, name="muon"),
    replace(BEST, name="muon, half the rate", rate=4e-4),
    replace(BEST, name="muon, squared throughout", squared_from=0.0),
)


class DivergedError(Exception):
    """The loss is no longer a number."""


class Feed:
    """Batches on the device, made in other processes; a batch is used again where no new one is ready."""

    def __init__(self, patches: Patches, device: torch.device, workers: int) -> None:
        self._patches, self._device, self._workers = patches, device, workers
        self._held: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.made = 0
        self.used = 0
        self._ready = threading.Event()
        self.stopped = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make no more batches."""
        self.stopped = True
        self._thread.join()

    def _fill(self) -> None:
        # Somebody waits for a batch, on a machine that costs money.
        try:
            self._make_batches()
        except Exception as error:
            self._failure = error
            self._ready.set()

    def _make_batches(self) -> None:
        for small, truth in batches(self._patches, workers=self._workers):
            on_device = (small.to(self._device), truth.to(self._device))
            if len(self._held) < _HELD:
                self._held.append(on_device)
            else:
                self._held[self.made % _HELD] = on_device
            self.made += 1
            self._ready.set()
            if self.stopped:
                return
            # Never so far ahead that a batch is overwritten unused.
            while self.made - self.used > _HELD // 2 and not self.stopped:
                time.sleep(0.002)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input and truth, float32 0..1.

        Raises:
            Exception: that for which there are no more batches.
        """
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        if self.used < self.made:
            small, truth = self._held[self.used % _HELD]
            self.used += 1
        else:
            small, truth = random.choice(self._held)
        return (
            as_pixels(small).contiguous(memory_format=torch.channels_last),
            as_pixels(truth),
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the patches, those from each kind of page; the rest is from the shared pages."""

    drawn: float = 0.3
    lettered: float = 0.3
    clips: float = 0.12


def main(
    out: Annotated[Path, typer.Option(help="Folder for the weights and the log.")],
    minutes: Annotated[float, typer.Option(help="Time of the training, both networks together.")] = 8,
    best_share: Annotated[float, typer.Option(help="Share of the time for the larger network.")] = 0.7,
    drawings: Annotated[
        Path | None,
        typer.Option(help="Folder of drawn pages, used with what it holds; OUT/drawn by default."),
    ] = None,
    drawn: Annotated[int, typer.Option(help="Pages to draw first, if the folder has fewer.")] = 0,
    lettered: Annotated[int, typer.Option(help="Pages of lettering to draw first.")] = 0,
    clips: Annotated[Path | None, typer.Option(help="Folder with further free drawings.")] = None,
    shared: Annotated[Path, typer.Option(help="Folder with dev.json and dev/.")] = Path("../shared/comics"),
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 14,
    batch: int = 64,
    patch: int = 96,
    seed: int = 11,
    trial_seconds: Annotated[float, typer.Option(help="Compare ways to train for so long each.")] = 0,
    small: Annotated[bool, typer.Option(help="Tiny networks, to rehearse on a CPU.")] = False,
    begin_with: Annotated[
        Path | None, typer.Option(help="Folder with comic-best-x2.safetensors and so on, to train further.")
    ] = None,
    half: Annotated[bool, typer.Option(help="float16 on a GPU, not bfloat16.")] = True,
) -> None:
    """Train two networks on a GPU, or compare ways to do so."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        Chain.activate = staticmethod(torch.compile(activate, dynamic=False))
        Chain.precision = torch.float16 if half else torch.bfloat16
    folder = drawings or out / "drawn"
    draw_lettering(folder, lettered, seed=seed * 1_000_000, processes=max(1, workers))
    draw_pages(folder, drawn, seed=seed * 1_000_000, processes=max(1, workers))
    sources = gather_sources(folder, shared, clips, smallest_side=math.ceil(patch * max(FACTORS)))
    feed = Feed(Patches(sources, PatchSettings(batch, patch, seed), _ENDLESS), device, workers)
    watched = tracks(read_pages(validation_paths(shared))) if (shared / "dev.json").is_file() else {}
    run = _Run(out, feed, watched, device)
    best, fast, *trials = (_tiny(plan) if small else plan for plan in (BEST, FAST, *_TRIALS))
    if begin_with:
        best, fast = _further(best, begin_with), _further(fast, begin_with)
    if trial_seconds:
        for plan in trials:
            run.train(plan, trial_seconds)
    else:
        teacher = run.train(best, minutes * 60 * best_share)
        run.train(fast, minutes * 60 * (1 - best_share), teacher)
    feed.stop()


def _further(plan: Plan, folder: Path) -> Plan:
    path = folder / f"comic-{plan.name}-x{{factor}}.safetensors"
    return replace(plan, begun_with=str(path), rate=plan.rate / 2, squared_from=0.0)


def _tiny(plan: Plan) -> Plan:
    return replace(plan, features=8, convolutions=2)


def gather_sources(
    folder: Path, shared: Path, clips: Path | None, *, smallest_side: int, even: Sequence[float] = ()
) -> list[Source]:
    """Return the pages that patches are cut from: drawn ones, lettering, further drawings and shared pages.

    Args:
        folder: of drawn pages.
        shared: folder with ``dev.json`` and ``dev/``; pages of a free licence are used.
        clips: folder of further free drawings.
        smallest_side: pixels that each side has at least.
        even: factors for which the truths of drawn pages have even tones, as `draw_even` drew them.
    """
    shares = Shares()
    pages, letters = drawn_pages(folder), lettered_pages(folder)
    found = []
    if pages:
        truths = {factor: read_pages(_even_paths(pages, folder, factor)) for factor in even}
        found.append(Source(read_pages(pages), shares.drawn, soft_share=0.35, even=truths))
    if letters:
        boxes = read_lettering(letters, smallest_side=smallest_side)
        truths = {
            factor: read_lettering(_even_paths(letters, folder, factor), smallest_side=smallest_side)
            for factor in even
        }
        found.append(Source(boxes, shares.lettered, soft_share=0.1, turned=False, even=truths))
    if clips:
        drawings = [
            page for page in read_pages(sorted(clips.iterdir())) if min(page.shape[:2]) >= smallest_side
        ]
        found.append(Source(drawings, shares.clips, soft_share=0.3))
    if (shared / "dev.json").is_file():
        real = [pixels for _, pixels in shared_pages(shared, smallest_side=smallest_side)]
        found.append(Source(real, 1 - shares.drawn - shares.lettered - shares.clips))
    print(f"pictures of each source: {[len(source.pages) for source in found]}", flush=True)
    return found


def _even_paths(paths: Iterable[Path], folder: Path, factor: float) -> list[Path]:
    return [even_folder(folder, factor) / path.name for path in paths]


class _Run:
    """What the trainings of one command share."""

    def __init__(self, out: Path, feed: Feed, watched: Tracks, device: torch.device) -> None:
        self._out, self._feed, self._watched, self._device = out, feed, watched, device

    def train(self, plan: Plan, seconds: float, teacher: Chain | None = None) -> Chain:
        """Train one network until its time is over; return the running mean of its weights.

        Raises:
            DivergedError: the loss is no longer a number.
        """
        network = Chain(plan.features, plan.convolutions, FACTORS, one_slope=plan.one_slope)
        if plan.begun_with:
            network.load_plain(
                {factor: load_file(plan.begun_with.format(factor=factor)) for factor in FACTORS}
            )
        network.to(self._device)
        average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=follow)
        optimizers = _optimizers(plan, network)
        # Gradients in float16 would be too small for it.
        scaler = torch.amp.GradScaler(self._device.type, enabled=Chain.precision == torch.float16)
        begun = told = time.monotonic()
        step, sum_of_losses, since = 0, torch.zeros((), device=self._device), 0
        while (elapsed := time.monotonic() - begun) < seconds:
            share = elapsed / seconds
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = plan.rate * _pace(share)
                optimizer.zero_grad(set_to_none=True)
            value = self._loss(plan, network, teacher, squared=share > plan.squared_from)
            scaler.scale(value).backward()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            if not plan.muon:
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            average.update_parameters(network)
            step += 1
            since += 1
            sum_of_losses += value.detach()
            if step % 50 == 0 and self._device.type == "cuda":
                # The clock decides, so the queue of the GPU must not run ahead of it.
                torch.cuda.synchronize()
            if time.monotonic() - told > 30:
                self._say(plan, step, begun, sum_of_losses, since, average)
                sum_of_losses.zero_()
                since, told = 0, time.monotonic()
        self._say(plan, step, begun, sum_of_losses, since, average)
        return average.module

    def _loss(self, plan: Plan, network: Chain, teacher: Chain | None, *, squared: bool) -> torch.Tensor:
        small, truth = self._feed.next()
        asked = truth.shape[-1] / small.shape[-1]
        factor = 2 if asked <= 2 else 3
        made = network(small, factor)
        measure = patch_loss if squared else loss
        value = measure(made, truth)
        if teacher is not None:
            with torch.no_grad():
                shown = shrink_to(teacher(small, factor), truth.shape[-1])
            value = (1 - _TAUGHT) * value + _TAUGHT * measure(made, shown)
        return value

    def _say(
        self,
        plan: Plan,
        step: int,
        begun: float,
        sum_of_losses: torch.Tensor,
        since: int,
        average: torch.optim.swa_utils.AveragedModel,
    ) -> None:
        seconds = time.monotonic() - begun
        if not math.isfinite(float(sum_of_losses)):
            raise DivergedError(f"{plan.name}: the loss is no longer a number after {step} steps")
        scores = psnr_by_track(AtFactor(average.module), self._watched, self._device)
        line = {
            **asdict(plan),
            "step": step,
            "seconds": round(seconds, 1),
            "batches made": self._feed.made,
            "loss": round(float(sum_of_losses) / max(1, since), 5),
            "psnr": {track: round(score, 3) for track, score in scores.items()},
        }
        with (self._out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        told = "  ".join(f"{track} {score:.2f}" for track, score in scores.items())
        print(
            f"{plan.name}: step {step}  {seconds:.0f} s  made {self._feed.made}  loss {line['loss']:.4f}  {told}",
            flush=True,
        )
        for factor in FACTORS:
            path = self._out / f"{plan.name.replace(',', '').replace(' ', '-')}-x{factor}.safetensors"
            write_weights(path, average.module.plain(factor), {"plan": json.dumps(asdict(plan))})


class AtFactor(torch.nn.Module):
    """Makes what `psnr_by_track` asks: the head for 2x at 120 pixels, otherwise the one for 3x."""

    def __init__(self, network: Chain) -> None:
        super().__init__()
        self._network = network

    def forward(self, small: torch.Tensor) -> torch.Tensor:
        """Return a page enlarged by 2 or 3."""
        return self._network(small, 2 if small.shape[-1] == 120 else 3)


def _optimizers(plan: Plan, network: Chain) -> Sequence[torch.optim.Optimizer]:
    values = {name: value for name, value in network.named_parameters() if value.requires_grad}
    inner = [values.pop("inner")] if plan.muon else []
    adam = torch.optim.Adam(values.values(), plan.rate, betas=(0.9, 0.99))
    return [adam, Muon(inner, plan.rate)] if inner else [adam]


def _pace(share: float) -> float:
    """Return the learning rate's share of its highest: up in a line, then down in half a cosine."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))


if __name__ == "__main__":
    typer.run(main)
