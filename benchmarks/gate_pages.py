"""Pages for the measure of the gate: pieces of real pages, and what the models at hand make of them.

The networks take minutes, the gate milliseconds; so what an engine hands over is kept in a folder, to be judged again
whenever the gate changes. A network runs once for a piece, and its output is brought to each scale from there: the same
bits as from the engine, which is checked on the first piece of each model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.whole_run import REPOSITORY, weights_folders
from comic_upscale.engines.base import Batch
from comic_upscale.engines.pages import prepare
from comic_upscale.engines.tiling import DEFAULT_OVERLAP, borders_of, plan_tiles
from comic_upscale.engines.torch.device import choose_precision
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.engines.torch.resample import resample
from comic_upscale.errors import WeightsError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import is_gray, to_gray
from comic_upscale.imaging.pixels import Borders, Pixels, SampleArray
from comic_upscale.imaging.target_size import target_size
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights

PIECE = (384, 576)
"""Width and height of a piece, at most."""
CPU = torch.device("cpu")
TILE = 192
"""Longest side of a tile's window: a piece is two or three tiles wide and four high."""
UNLAPPED_SCALE, UNLAPPED_EVERY = 2.5, 4
"""What is made once more in tiles without overlap."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model is to make."""

    model: str
    scales: tuple[float, ...]
    every: int
    """The distance between two of them, in pieces."""


SCALES = (1.5, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
"""For the models that take long: a pass of the network costs minutes, another scale next to nothing."""
OWN = "comic-compact-x3"
PLANS = (
    Plan(OWN, (2.5, 2.0, 3.0, 2.25, 1.5), 1),
    Plan("realesr-animevideov3", SCALES, 7),
    Plan("realesr-general-x4v3.from-ncnn-fp16.pth", SCALES, 14),
)


def plan_for(model: str) -> Plan:
    """Return what one of the package's models is to make: the scales that a run uses it for."""
    return Plan(model, (2.0, 1.5, 1.25) if model.endswith("-x2") else (2.5, 2.25, 3.0), 2)


@dataclass(frozen=True, slots=True)
class Made:
    """A piece, and what an engine makes of it."""

    file: str
    """Of the page."""
    model: str
    identity: str
    """The hash of the model's weights."""
    label: str
    """The piece, the model and the scale."""
    page: Pixels
    """As a run prepares it."""
    path: Path
    """Where the engine's output is kept."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return np.load(self.path, mmap_mode="r").shape

    def output(self) -> SampleArray:
        """Return what the engine hands over: uint8, height x width x C."""
        return np.load(self.path)


@lru_cache(maxsize=1)
def pieces(count: int, folder: Path) -> list[tuple[str, Pixels]]:
    """Return pieces of this number of real pages, up to two of each, prepared as a run prepares pages.

    All have three channels, as with ``--gray off``; those of gray pages come once more with one channel. The folder
    keeps them.
    """
    kept = folder / f"pieces-of-{count}"
    if not kept.is_dir():
        started = folder / f"pieces-of-{count}-begun"
        started.mkdir(parents=True, exist_ok=True)
        for label, color in _cut(count):
            np.save(started / f"{label}.npy", color)
        started.rename(kept)
    return [(path.stem, prepare(Pixels(np.load(path)))) for path in sorted(kept.glob("*.npy"))]


def _cut(count: int) -> Iterator[tuple[str, SampleArray]]:
    comics = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    for path in sorted(comics.glob("*"))[:count]:
        yield from _pieces_of(path)


def _pieces_of(path: Path) -> Iterator[tuple[str, SampleArray]]:
    page = decode(path.read_bytes(), max_pixels=10**9, gray="off")
    looks_gray = is_gray(page.color, page.alpha)
    height, width = page.color.shape[:2]
    rows, columns = min(PIECE[1], height), min(PIECE[0], width)
    places = ((0.5, 0.5), (0.1, 0.2))
    for number, (down, right) in enumerate(places[: 2 if height >= 2 * rows else 1]):
        top, left = round(down * (height - rows)), round(right * (width - columns))
        color = page.color[top : top + rows, left : left + columns].copy()
        if color.dtype == np.uint8 and color.std() > 2:
            yield f"{path.stem}-{number}", color
            if looks_gray:
                yield f"{path.stem}-{number}-gray", to_gray(color)


def made(plan: Plan, count: int, folder: Path, *, kept_only: bool = False) -> Iterator[Made]:
    """Yield what a model makes of the pieces of this number of pages; nothing without its weights.

    Args:
        plan: which model, and what.
        count: of pages.
        folder: keeps the outputs, by the hash of the weights.
        kept_only: leave out what the folder does not have yet.
    """
    network = open_network(plan.model)
    if network is None:
        return
    name = network.identity[:12]
    through = _Through(network)
    model = plan.model.partition(".")[0]
    for label, page in pieces(count, folder)[:: 1 if kept_only else plan.every]:
        paths = {scale: folder / f"{name}-x{scale:g}" / f"{label}.npy" for scale in plan.scales}
        if not all(path.is_file() for path in paths.values()):
            if kept_only:
                continue
            through.make(page, paths)
        for scale, path in paths.items():
            file, what = label.removesuffix("-gray")[:-2], f"{label} {model} x{scale:g}"
            yield Made(file, model, network.identity, what, page, path)


def made_without_overlap(
    count: int, folder: Path, *, kept_only: bool = False
) -> list[tuple[Made, SampleArray, Borders]]:
    """Return pieces as the engine makes them in tiles that lack their overlap, with where these meet; as `made`."""
    network = open_network(OWN)
    if network is None:
        return []
    name = network.identity[:12]
    precision = choose_precision("auto", CPU, network)
    engine = TorchEngine(network, device=CPU, precision=precision, tile=TILE, overlap=0)
    whole = replace(PLANS[0], scales=(UNLAPPED_SCALE,), every=UNLAPPED_EVERY)
    done = []
    for each in made(whole, count, folder, kept_only=kept_only):
        height, width = each.shape[:2]
        batch = Batch(each.page.color[None], (width, height))
        path = folder / f"{name}-x{UNLAPPED_SCALE:g}-unlapped" / each.path.name
        if not path.is_file():
            if kept_only:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, engine.upscale(batch).pixels[0])
        tiles = plan_tiles(
            each.page.color.shape[:2],
            (height, width),
            native_scale=network.native_scale,
            longest=TILE,
            overlap=0,
        )
        done.append((each, np.load(path), borders_of(tiles)))
    return done


def tile_borders(each: Made) -> Borders:
    """Return where the tiles of a piece would meet, were it done in tiles."""
    height, width = each.shape[:2]
    tiles = plan_tiles(
        each.page.color.shape[:2], (height, width), native_scale=3, longest=TILE, overlap=DEFAULT_OVERLAP
    )
    return borders_of(tiles)


def open_network(model: str) -> Network | None:
    """Return the network, None where its weights are not here."""
    folders = weights_folders()
    name = next((str(folder / model) for folder in folders if (folder / model).is_file()), model)
    try:
        weights = resolve_weights(name, denoise=None, folders=folders, cache=Path("weights"), download=False)
    except WeightsError as error:
        print(f"without {model}: {error}")
        return None
    return load_network(weights, None)


class _Through:
    """A network whose output is brought to several scales."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._precision = choose_precision("auto", CPU, network)
        self._forward = NetworkPass(network, CPU, self._precision)
        self._is_checked = False

    def make(self, page: Pixels, paths: dict[float, Path]) -> None:
        """Write what the engine would hand over, for each scale to its path."""
        factor = self._network.native_scale
        whole = (page.height * factor, page.width * factor)
        with torch.inference_mode():
            native, _ = self._forward(torch.from_numpy(page.color[None].copy()))
            for scale, path in paths.items():
                width, height = target_size(page.width, page.height, scale)
                larger = resample(native, source_size=whole, target_size=(height, width))
                # Not in place: at the network's own factor this is the native page itself, needed for the next.
                samples = (larger.clamp(0, 1) * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
                self._check(page, samples)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.ascontiguousarray(samples))

    def _check(self, page: Pixels, samples: SampleArray) -> None:
        if not self._is_checked:
            engine = TorchEngine(self._network, device=CPU, precision=self._precision)
            size = (samples.shape[1], samples.shape[0])
            assert (engine.upscale(Batch(page.color[None], size)).pixels[0] == samples).all()
            self._is_checked = True
