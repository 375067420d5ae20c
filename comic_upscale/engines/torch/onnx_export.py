"""Write a network as ONNX, for GPUs that PyTorch does not reach: DirectML on Windows, CoreML on a Mac, OpenVINO.

The file is opened by the engine ``onnx`` and compared with PyTorch before it counts, since exporters make mistakes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from comic_upscale.engines.base import Batch, EngineResources
from comic_upscale.engines.onnx import OnnxEngine
from comic_upscale.engines.reach import draw_test_image
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.errors import WeightsError
from comic_upscale.models.network import Network

LEAST_PSNR = 50.0
"""In dB: below it the file does not compute the same network. Correct ones have 70 and more."""
_SIDES = {0: "n", 2: "height", 3: "width"}
"""Axes of any length."""
_TRIED = (75, 90)
"""Height and width of the picture for the comparison: not those with which the network is written."""
_WRITTEN_WITH = (32, 48)


def export_onnx(network: Network) -> tuple[bytes, float]:
    """Return the ONNX file of a network in float32, for pages of any size, compared with PyTorch on the CPU.

    Args:
        network: the network.

    Returns:
        The file, and the PSNR in dB between a picture by ONNX and by PyTorch; infinite if they are equal.

    Raises:
        WeightsError: the network cannot be written as ONNX, or the file does not compute the same.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            _write(network, path)
        except Exception as error:
            # The exporter raises whatever its many parts raise.
            raise WeightsError(f"this network cannot be written as ONNX: {_first_line(error)}") from error
        psnr = _compare(network, path)
        if psnr < LEAST_PSNR:
            raise WeightsError(
                f"as ONNX this network differs by {psnr:.1f} dB from PyTorch, so it is not written"
            )
        return path.read_bytes(), psnr


def _write(network: Network, path: Path) -> None:
    drawn = torch.rand(1, network.input_channels, *_WRITTEN_WITH)
    with warnings.catch_warnings():
        # torch says at every call that another exporter is the default. That one takes 15 seconds.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.module.float().cpu().eval(), (drawn,), str(path), dynamo=False, input_names=["page"],
            output_names=["larger"], dynamic_axes={"page": _SIDES, "larger": _SIDES},
        )  # fmt: skip


def _compare(network: Network, path: Path) -> float:
    height, width = _TRIED
    picture = draw_test_image(_TRIED, network.input_channels)[None]
    batch = Batch(picture, (width * network.native_scale, height * network.native_scale))
    by_torch = TorchEngine(network, device=torch.device("cpu"))
    by_onnx = OnnxEngine(path, identity="", device="cpu", resources=EngineResources())
    try:
        expected, made = (engine.upscale(batch).pixels.astype(np.float64) for engine in (by_torch, by_onnx))
    finally:
        by_torch.close()
        by_onnx.close()
    square = float(np.square(expected - made).mean())
    return float("inf") if square == 0 else 10 * float(np.log10(255**2 / square))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
