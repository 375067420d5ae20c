"""Weights out of a package for ncnn: every number under its name, and nothing of another network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from spandrel import ModelLoader

from benchmarks.blind import count
from benchmarks.rrdb_weights import NAMES, main, read_rrdb
from benchmarks.validation import AbsentError
from tests.benchmarks.test_blind import judged


def _write(path: Path, *, blocks: int = 1, kind: int = 0x01306B47) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Write an RRDB network as ncnn has it, and return its weights and biases in their order."""
    dense = [(64, 32), (96, 32), (128, 32), (160, 32), (192, 64)]
    shapes = [(3, 64), *(dense * 3 * blocks), *[(64, 64)] * 4, (64, 3)]
    lines, content, tensors = ["7767517", "", "Input input 0 1 data"], b"", []
    for number, (inputs, outputs) in enumerate(shapes):
        weight = torch.randn(outputs, inputs, 3, 3).half()
        bias = torch.randn(outputs)
        tensors.append((weight.float(), bias))
        lines.append(
            f"Convolution Conv_{number} 1 1 {number} {number + 1} 0={outputs} 1=3 4=1 5=1 6={weight.numel()}"
        )
        lines.append(f"Split split_{number} 1 2 a b c")
        content += kind.to_bytes(4, "little") + weight.numpy().tobytes() + bias.numpy().tobytes()
    path.with_name(path.name + ".param").write_text("\n".join(lines), "ascii")
    path.with_name(path.name + ".bin").write_bytes(content)
    return tensors


def test_every_number_has_its_place(tmp_path: Path) -> None:
    written = _write(tmp_path / "net", blocks=2)
    found = read_rrdb(tmp_path / "net")
    assert len(found) == 2 * len(written)
    for (weight, bias), name in zip(written, list(found)[::2], strict=True):
        assert torch.equal(found[name], weight)
        assert torch.equal(found[name.replace(".weight", ".bias")], bias)
    assert list(found)[-1] == "conv_last.bias"


def test_the_command_writes_files_that_load(tmp_path: Path) -> None:
    for theirs in NAMES:
        _write(tmp_path / theirs)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 0
    for name in NAMES.values():
        assert len(load_file(tmp_path / "out" / f"{name}.safetensors")) == 42
        network = ModelLoader().load_from_file(tmp_path / "out" / f"{name}.safetensors")
        assert network.scale == 4


@pytest.mark.parametrize("fault", ["cut", "longer", "another precision", "another network", "absent"])
def test_what_is_no_such_network_is_refused(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "realesrgan-x4plus-anime"
    if fault != "absent":
        _write(path, kind=0 if fault == "another precision" else 0x01306B47)
    weights = path.with_name(path.name + ".bin")
    if fault == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    if fault == "longer":
        weights.write_bytes(weights.read_bytes() + b"more")
    if fault == "another network":
        path.with_name(path.name + ".param").write_text("Convolution a 1 1 a b 0=1 5=1 6=9\n", "ascii")
    with pytest.raises(AbsentError):
        read_rrdb(path)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "realesrgan" in capsys.readouterr().err


def test_they_do_not_count_as_ours(tmp_path: Path) -> None:
    folder = judged(tmp_path, {"1": "01 ABC\n02 ABC"})
    key = (folder / "key.json").read_text("utf-8").replace('"best"', '"RealESRGAN_x4plus"')
    (folder / "key.json").write_text(key, "utf-8")
    assert list(count(folder)["without our others"]) == ["fast"]
