"""Batches for training: crops of ground truth, and what a reader would have of them.

A batch is a function of the seed and of its number alone, so that a training run that was stopped goes
on with the batches that it would have seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset

from training.degrade import Damage, shrink, spoil

SHRINKS = ((2.0, 0.4), (2.5, 0.4), (3.0, 0.2))
"""By how much ground truth is shrunk, and how often: the scales that pages are asked at, and the network's own."""
_MARGIN = 12
"""Pixels of ground truth kept around a crop, for the kernel that shrinks it."""
_GRAY_SHARE, _NEGATIVE_SHARE, _SWAP_SHARE = 0.12, 0.08, 0.3


class Batch(NamedTuple):
    """Input and truth of one step."""

    small: torch.Tensor
    """uint8, batch x 3 x patch x patch."""
    truth: torch.Tensor
    """uint8, batch x 3 x shrink*patch x shrink*patch."""


@dataclass(frozen=True, slots=True)
class PatchSettings:
    """What a batch is made of."""

    batch: int
    """Patches of one step."""
    patch: int
    """Side of the input, in pixels; even, so that every shrink of it is whole."""
    seed: int
    """Of everything that is drawn."""
    damage: Damage = "usual"
    """What happened to the inputs."""
    shrinks: tuple[tuple[float, float], ...] = SHRINKS
    """As `SHRINKS`, or some of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Pages of one kind, and how patches are made of them."""

    pages: Sequence[NDArray[np.uint8]]
    """uint8 RGB, height x width x 3, each side at least 3 x patch; one is drawn in proportion to its area."""
    share: float
    """Of all patches, beside the shares of the other sources."""
    soft_share: float = 0.45
    """Of its truths, those that are softened."""
    turned: bool = True
    """Whether its patches are turned and mirrored too: a drawing may be, lettering is not."""
    even: Mapping[float, Sequence[NDArray[np.uint8]]] = field(default_factory=dict)
    """The pages as truths, by the factor that they are shrunk by, where these differ from the pages that inputs are
    made of."""


class Patches(Dataset[Batch]):
    """Item ``i`` is the batch of step ``i``.

    Args:
        sources: the pages by where they are from.
        settings: sizes and the seed.
        steps: how many batches there are.
    """

    def __init__(
        self, sources: Sequence[Source], settings: PatchSettings, steps: int, first: int = 0
    ) -> None:
        self._sources = sources
        self._shares = np.array([source.share for source in sources]) / sum(
            source.share for source in sources
        )
        self._areas = [
            _in_proportion([page.shape[0] * page.shape[1] for page in source.pages]) for source in sources
        ]
        self._settings = settings
        self._first, self._steps = first, steps

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self._settings.seed, self._first + index])
        factors, shares = zip(*self._settings.shrinks, strict=True)
        factor = float(rng.choice(factors, p=np.array(shares) / sum(shares)))
        pairs = [self._pair(factor, rng) for _ in range(self._settings.batch)]
        small, truth = (np.stack(sides) for sides in zip(*pairs, strict=True))
        return Batch(_as_tensor(small), _as_tensor(truth))

    def _pair(self, factor: float, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        number = int(rng.choice(len(self._sources), p=self._shares))
        source = self._sources[number]
        which = int(rng.choice(len(source.pages), p=self._areas[number]))
        side = round(self._settings.patch * factor)
        damage = self._settings.damage
        soft_share = 0.0 if damage == "soft" else source.soft_share
        # The same crop and the same colours for both.
        as_drawn = copy.deepcopy(rng) if factor in source.even else rng
        drawn, box = _crop(source.pages[which], side, rng)
        drawn = truth = _vary(drawn, soft_share, rng)
        if factor in source.even:
            truth = _vary(_crop(source.even[factor][which], side, as_drawn)[0], soft_share, as_drawn)
        small = shrink(Image.fromarray(drawn), (self._settings.patch, self._settings.patch), box, rng, damage)
        spoiled = np.asarray(spoil(small, rng, damage))
        left, top = box[0], box[1]
        truth = truth[top : top + side, left : left + side]
        turns, mirrored = (int(rng.integers(4)), bool(rng.integers(2))) if source.turned else (0, False)
        return _turn(spoiled, turns, mirrored), _turn(truth, turns, mirrored)


def batches(patches: Patches, *, workers: int) -> Iterator[Batch]:
    """Yield the batches in order, made ahead in so many processes; 0 makes them in this one."""
    yield from DataLoader(
        patches, batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=8 if workers else None
    )


def _crop(
    page: NDArray[np.uint8], side: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Cut a square with what lies around it; return that and where in it the square lies."""
    height, width, _ = page.shape
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    above, before = min(top, _MARGIN), min(left, _MARGIN)
    cut = page[top - above : top + side + _MARGIN, left - before : left + side + _MARGIN]
    return cut, (before, above, before + side, above + side)


def _vary(pixels: NDArray[np.uint8], soft_share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Show the same drawing in other colours, in gray, as its negative (white lines on black), or softer.

    Some pages are soft in the original, scans and glows among them: without such truths a network learns
    that every edge is crisp, and sharpens them.
    """
    if rng.random() < _SWAP_SHARE:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < _GRAY_SHARE:
        luma = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
        pixels = np.repeat(luma[..., None], 3, axis=2)
    if rng.random() < _NEGATIVE_SHARE:
        pixels = 255 - pixels
    if rng.random() < soft_share:
        soft = Image.fromarray(np.ascontiguousarray(pixels)).filter(
            ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2)))
        )
        pixels = np.asarray(soft)
    return np.ascontiguousarray(pixels)


def _turn(pixels: NDArray[np.uint8], turns: int, mirrored: bool) -> NDArray[np.uint8]:
    turned = np.rot90(pixels, turns)
    return turned[:, ::-1] if mirrored else turned


def _as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def as_pixels(levels: torch.Tensor) -> torch.Tensor:
    """Return uint8 levels as float32 0..1."""
    return levels.float().div_(255.0)


def _in_proportion(areas: Sequence[int]) -> NDArray[np.float64]:
    weights = np.asarray(areas, dtype=np.float64)
    return np.asarray(weights / weights.sum())
