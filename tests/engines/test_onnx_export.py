"""Networks as ONNX files: the engine onnx makes the pixels of torch with them, and a wrong file is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="torch's exporter needs it")
pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines.base import Batch, EngineResources
from comic_upscale.engines.onnx import OnnxEngine
from comic_upscale.engines.torch import onnx_export
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.onnx_export import LEAST_PSNR, export_onnx
from comic_upscale.errors import WeightsError
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


def bundled(name: str) -> Network:
    return load_network(resolve_weights(name, denoise=None, folders=[], cache=Path()), None)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-best-x3"])
def test_the_networks_of_the_package_make_the_same_page(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    code, out, err = run("models", "export", name, "--output", path)
    assert (code, err) == (0, "")
    assert "dB to PyTorch" in out
    with Image.open(REPOSITORY / "examples" / "pages" / "001.png") as image:
        page = np.asarray(image.convert("RGB"))[100:180, 200:310]
    batch = Batch(page[None], (275, 200))
    by_onnx = OnnxEngine(path, identity="", device="cpu", resources=EngineResources()).upscale(batch).pixels
    by_torch = TorchEngine(bundled(name), device=CPU).upscale(batch).pixels
    error = np.square(by_onnx.astype(float) - by_torch).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > LEAST_PSNR


def test_a_file_that_computes_something_else_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = onnx_export._write

    def write_wrongly(network: Network, path: Path) -> None:
        with torch.no_grad():
            last = list(network.module.parameters())[-1]
            last.add_(0.05)
            right(network, path)
            last.sub_(0.05)

    monkeypatch.setattr(onnx_export, "_write", write_wrongly)
    with pytest.raises(WeightsError, match="differs by"):
        export_onnx(bundled("comic-fast-x2"))
    path = tmp_path / "net.onnx"
    assert run("models", "export", "comic-fast-x2", "--output", path)[0] == 4
    assert not path.exists()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    code, _, err = run("models", "export", "comic-fast-x2", "--output", tmp_path / "net.pth")
    assert (code, "must end in .onnx" in err) == (4, True)
