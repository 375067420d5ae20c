"""Finds faces in photographs: Google's BlazeFace in PyTorch.

The weights are those of MediaPipe's model for the back camera (Apache-2.0), which `scripts/convert_face_detector.py`
converted. The network sees 256 x 256 pixels. So a page is searched as a whole and in overlapping squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from comic_upscale.engines.feathering import plan_axis
from comic_upscale.errors import WeightsError
from comic_upscale.imaging.pixels import UInt8Array

SIDE = 256
"""Side of the picture that the network sees, in pixels."""
LEAST_SCORE = 0.65
"""The score above which MediaPipe takes a find for a face."""
_SAME = 0.3
"""Finds that share more than this of their areas are one face."""
_LAYERS = 69
"""Convolutions of the network."""
_BLOCKS = ((24, 7), (24, 7), (48, 7), (96, 7))
"""Channels, and blocks at one size, of each stage."""
_FEWEST = 256
"""Squares with a shorter side, in source pixels, are not searched: faces in them are too small to restore."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    points: NDArray[np.float64]
    """(x, y) in pixels of: left eye, right eye, nose, middle of the mouth, as the viewer sees them."""
    score: float
    """0 to 1."""

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


def weights_path() -> Path:
    """Return the file of the weights: in the package, or in a clone beside it."""
    name = "blazeface-back.safetensors"
    packaged = files("comic_upscale") / "weights" / name
    if packaged.is_file():
        with as_file(packaged) as path:
            return path
    return Path(__file__).parents[3] / "weights" / name


class FaceDetector:
    """The network, on the CPU: it takes some milliseconds for a square.

    Raises:
        WeightsError: its weights are missing or damaged.
    """

    def __init__(self) -> None:
        path = weights_path()
        try:
            state = load_file(path)
            self._layers = [
                (state[f"{number:02}.weight"].float(), state[f"{number:02}.bias"].float())
                for number in range(_LAYERS)
            ]
        except Exception as error:
            # Whatever happened to the file.
            raise WeightsError(
                f"the weights that find faces, {path}, are missing or damaged: install comic-upscale again"
            ) from error
        self._anchors = _anchors()

    def find(self, picture: UInt8Array) -> list[Face]:
        """Return the faces of a picture, the best first.

        Args:
            picture: uint8, height x width x 3.
        """
        found: list[Face] = []
        threads = torch.get_num_threads()
        # Its sixty small layers take several times as long if other threads must be waited for.
        torch.set_num_threads(1)
        try:
            for left, top, side in _squares(picture.shape[1], picture.shape[0]):
                found += self._find_in(picture, left, top, side)
        finally:
            torch.set_num_threads(threads)
        return _merge(found)

    def run(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network.

        Args:
            pictures: N x 3 x `SIDE` x `SIDE`, -1 to 1.

        Returns:
            N x 896 x 16 numbers of boxes and points, and N x 896 scores before the sigmoid.
        """
        layers = iter(self._layers)

        def convolve(x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
            weight, bias = next(layers)
            kernel = weight.shape[2]
            # As TensorFlow pads: one pixel more at the end if the total is odd.
            total = max(kernel - stride, 0)
            padded = functional.pad(x, (total // 2, total - total // 2) * 2)
            return functional.conv2d(padded, weight, bias, stride, groups=groups)

        def block(x: torch.Tensor, channels: int, stride: int) -> torch.Tensor:
            made = convolve(convolve(x, stride, x.shape[1]))
            kept = functional.max_pool2d(x, 2) if stride == 2 else x
            kept = functional.pad(kept, (0, 0, 0, 0, 0, channels - kept.shape[1]))
            return functional.relu(kept + made)

        with torch.inference_mode():
            x = functional.relu(convolve(pictures, 2))
            for stage, (channels, count) in enumerate(_BLOCKS):
                if stage:
                    x = block(x, channels, 2)
                for _ in range(count):
                    x = block(x, channels, 1)
            small = functional.relu(convolve(convolve(x, 2, x.shape[1])))
            heads = [convolve(source) for source in (x, small, x, small)]
            flat = [head.permute(0, 2, 3, 1).flatten(1) for head in heads]
            count = len(pictures)
            scores = torch.cat(flat[:2], dim=1)
            numbers = torch.cat([part.reshape(count, -1, 16) for part in flat[2:]], dim=1)
            return numbers, scores

    def _find_in(self, picture: UInt8Array, left: int, top: int, side: int) -> Iterator[Face]:
        part = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
        square = Image.new("RGB", (side, side))
        square.paste(part)
        small = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
        tensor = torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)[None]
        numbers, raw = (each[0].numpy() for each in self.run(tensor))
        scores = 1 / (1 + np.exp(-np.clip(raw, -80, 80)))
        for index in np.flatnonzero(scores >= LEAST_SCORE):
            row = numbers[index].reshape(8, 2) / SIDE
            center, size = row[0] + self._anchors[index], row[1]
            corners = np.concatenate([center - size / 2, center + size / 2]) * side + [left, top] * 2
            points = (row[2:6] + self._anchors[index]) * side + [left, top]
            box = tuple(float(each) for each in corners)
            yield Face((box[0], box[1], box[2], box[3]), points.astype(np.float64), float(scores[index]))


def _anchors() -> NDArray[np.float64]:
    """Return the middle (x, y) of each of the 896 places, 0 to 1."""
    parts = []
    for cells, count in ((16, 2), (8, 6)):
        middle = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
        parts.append(np.repeat(grid, count, axis=0))
    return np.concatenate(parts)


def _squares(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Yield left, top and side of the squares to search: the page, and squares of a half and a quarter of it."""
    longest = max(width, height)
    for share in (1, 2, 4):
        side = longest // share
        if share > 1 and side < _FEWEST:
            return
        across, down = (plan_axis(length, min(side, length), side // 3).starts for length in (width, height))
        yield from ((left, top, side) for top in down for left in across)


def _merge(found: list[Face]) -> list[Face]:
    """Return each face once."""
    kept: list[Face] = []
    for face in sorted(found, key=lambda each: -each.score):
        if all(_shared(face.box, other.box) < _SAME for other in kept):
            kept.append(face)
    return kept


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the area that two boxes share, as a part of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0.0, width) * max(0.0, height) / max(min(areas), 1e-9)
