"""How training is watched: PSNR on crops of pages that are never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.objective import luma, shrink_to, white_areas

Tracks = Mapping[str, Sequence[tuple[torch.Tensor, torch.Tensor]]]
"""By name, inputs and truths: float32 0..1, 1 x 3 x side x side."""

_SIDE = 240
"""Of a crop, in pixels of the original: a multiple of 2 and of 2.5."""
_QUALITIES = (75,)


def tracks(pages: Sequence[NDArray[np.uint8]], qualities: Sequence[int] = _QUALITIES) -> Tracks:
    """Return the four tracks of the quality benchmark, on a crop from the middle of each page.

    Args:
        pages: uint8 RGB, height x width x 3; one with a side below 240 is passed over.
        qualities: of JPEG, in place of the benchmark's 75.
    """
    named: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for pixels in pages:
        if min(pixels.shape[:2]) < _SIDE:
            continue
        top, left = ((side - _SIDE) // 2 for side in pixels.shape[:2])
        crop = Image.fromarray(np.ascontiguousarray(pixels[top : top + _SIDE, left : left + _SIDE]))
        for factor in (2.0, 2.5):
            side = round(_SIDE / factor)
            small = crop.resize((side, side), Image.Resampling.BICUBIC)
            stored = {f"jpeg{quality}": _as_jpeg(small, quality) for quality in qualities}
            for condition, given in {"clean": small, **stored}.items():
                named.setdefault(f"x{factor:g} {condition}", []).append((_as_tensor(given), _as_tensor(crop)))
    return named


@torch.inference_mode()
def psnr_by_track(network: torch.nn.Module, on: Tracks, device: torch.device) -> dict[str, float]:
    """Return the mean luma PSNR in decibels of each track."""
    network.eval()
    scores = {}
    for name, pairs in on.items():
        of_pages = [_psnr(network(small.to(device)), truth.to(device)) for small, truth in pairs]
        scores[name] = float(np.mean(of_pages))
    network.train()
    return scores


def _psnr(made: torch.Tensor, truth: torch.Tensor) -> float:
    rounded = shrink_to(made.float().clamp(0, 1), truth.shape[-1]).clamp(0, 1).mul(255).round().div(255)
    error = (luma(rounded) - luma(truth)).square().mean().item()
    return float(-10 * np.log10(max(error, 1e-10)))


@torch.inference_mode()
def white_by_track(network: torch.nn.Module, on: Tracks, device: torch.device) -> dict[str, float]:
    """Return for each track the share of the white of the truths that comes out as pure white."""
    network.eval()
    shares = {}
    for name, pairs in on.items():
        pixels = pure = 0
        for small, truth in pairs:
            white = white_areas(truth)
            made = shrink_to(network(small.to(device)).float().cpu().clamp(0, 1), truth.shape[-1])
            levels = made.clamp(0, 1).mul(255).round().amin(1, keepdim=True)
            pixels += int(white.sum())
            pure += int((levels[white] == 255).sum())
        shares[name] = pure / max(1, pixels)
    network.train()
    return shares


def _as_jpeg(page: Image.Image, quality: int) -> Image.Image:
    pixels = np.asarray(page)
    gray = bool((pixels == pixels[..., :1]).all())
    stored = BytesIO()
    (page.convert("L") if gray else page).save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert("RGB")


def _as_tensor(page: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(page).transpose(2, 0, 1)[None].copy()).float().div_(255)
