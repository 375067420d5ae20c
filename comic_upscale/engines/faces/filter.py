"""The page filter that restores faces: finds them in the source, restores them in the enlarged page.

Networks that restore faces know photographs alone. On drawings they put photographic skin and eyes into the line art.
So gray pages and drawn pages are left as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comic_upscale.engines.faces.alignment import Alignment, cut, paste
from comic_upscale.engines.faces.detector import FaceDetector
from comic_upscale.engines.torch.alone import OCCUPANCY
from comic_upscale.engines.torch.device_errors import is_too_much, translate_lost_device
from comic_upscale.imaging.gray import eight_bits, is_gray
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.models.face_restorer import FaceRestorer, load_face_restorer

MOST_FLAT = 0.15
"""A page with a larger share of flat squares is a drawing: a photograph has grain or shading nearly everywhere."""
_FLAT_LEVELS = 1.0
"""The standard deviation of luma below which a square of eight pixels is flat."""
MOST_EDGES = 0.12
"""A page with a larger share of steep edges is a scanned drawing: its paper has grain, but its lines are everywhere."""
_EDGE_LEVELS, _EDGE_SIDE = 40, 800
"""Levels between neighbours at an edge, on a page that is shrunk to this longest side."""
LEAST_SCALE = 0.8
"""A face that has more pixels than the network draws, by this factor, is left as it is."""


class FaceFilter:
    """Restores faces; a `OutputFilter`.

    Args:
        restorer: the network.
        strength: 0..1, how much of the restored face is taken.
        device: where the network runs.
    """

    def __init__(self, restorer: FaceRestorer, strength: float, device: torch.device) -> None:
        self._restorer, self._strength, self._device = restorer, strength, device
        restorer.module.to(device)
        self._detector = FaceDetector()

    @classmethod
    def open(cls, path: Path, strength: float, device: str) -> FaceFilter:
        """Load the network of a file.

        Raises:
            WeightsError: the file is no network that restores faces.
            DeviceError, SettingsError: the device does not exist.
        """
        from comic_upscale.engines.torch.device import choose_device

        return cls(load_face_restorer(path), strength, choose_device(device.partition(",")[0].strip()))

    def apply(self, page: Pixels, source: Pixels) -> Pixels:
        """Return the enlarged page with its faces restored, and a note about what was done.

        Args:
            page: the output of the engine.
            source: its input.

        Raises:
            DeviceError: the device failed.
        """
        small = eight_bits(source.color)
        reason = why_not(small)
        if reason is None:
            try:
                with translate_lost_device(self._device), OCCUPANCY.batch_on(self._device):
                    return self._restore(page, small)
            except (RuntimeError, MemoryError) as error:
                if not is_too_much(error):
                    raise
                reason = "the device has too little memory"
        return replace(page, notes=(*page.notes, f"faces were left as they are: {reason}"))

    def _restore(self, page: Pixels, small: UInt8Array) -> Pixels:
        levels = np.float32(np.iinfo(page.color.dtype).max / 255)
        large = eight_bits(page.color)
        ratio = np.array([large.shape[1] / small.shape[1], large.shape[0] / small.shape[0]])
        canvas = None
        restored = too_large = failed = 0
        for face in self._detector.find(small):
            alignment = Alignment.of(face.points * ratio)
            if alignment.scale < LEAST_SCALE:
                too_large += 1
                continue
            aligned = torch.from_numpy(np.array(cut(large, alignment))).permute(2, 0, 1)[None]
            made = self._restorer.run(aligned.to(self._device, torch.float32) / 255)
            if not torch.isfinite(made).all():
                failed += 1
                continue
            pixels = made[0].permute(1, 2, 0).float().cpu().numpy() * np.float32(255 * levels)
            canvas = page.color.astype(np.float32) if canvas is None else canvas
            paste(canvas, pixels, alignment, self._strength)
            restored += 1
        notes = [f"{restored} face{'s' if restored != 1 else ''} restored"]
        if too_large:
            notes.append(f"{too_large} left as they are: they have more pixels than the network draws")
        if failed:
            notes.append(f"{failed} left as they are: the network gives numbers that are not finite")
        if canvas is None:
            return replace(page, notes=(*page.notes, *notes))
        white = np.iinfo(page.color.dtype).max
        color = np.rint(np.clip(canvas, 0, white)).astype(page.color.dtype)
        return replace(page, color=color, notes=(*page.notes, *notes))


def why_not(page: UInt8Array) -> str | None:
    """Return why faces of a page are not restored; None for a photograph in colour.

    Args:
        page: uint8, height x width x C.
    """
    if page.shape[2] == 1 or is_gray(page, None):
        return "the page is gray"
    if flat_share(page) > MOST_FLAT or edge_share(page) > MOST_EDGES:
        return "the page is drawn, and the network knows photographs alone"
    return None


def edge_share(page: UInt8Array) -> float:
    """Return the share of pixels at a steep edge, on a page of a common size."""
    image = Image.fromarray(page).convert("L")
    image.thumbnail((_EDGE_SIDE, _EDGE_SIDE), Image.Resampling.BOX)
    luma = np.asarray(image, np.float32)
    if min(luma.shape) < 2:
        return 0.0
    down, right = np.abs(np.diff(luma, axis=0)), np.abs(np.diff(luma, axis=1))
    return float((np.maximum(down[:, :-1], right[:-1]) > _EDGE_LEVELS).mean())


def flat_share(page: UInt8Array) -> float:
    """Return the share of squares of eight pixels in which nothing varies."""
    luma = page.mean(axis=2, dtype=np.float32)
    rows, columns = luma.shape[0] // 8, luma.shape[1] // 8
    if not rows or not columns:
        return 1.0
    squares = luma[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8)
    return float((squares.std(axis=(1, 3)) < _FLAT_LEVELS).mean())
