"""The weights in 8 bits: training brings the pages nearer to the network's, continues, and writes what engines read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from spandrel.architectures.Compact import Compact

from comic_upscale.engines.torch.int8 import LARGEST
from training.checkpoint import Int8Training
from training.int8 import RoundedNetwork, begin, distances, main, train_step

RECIPE = Int8Training(
    begun_with="", steps=30, batch=2, patch=24, rate=1e-3, drawn=0, lettered=0, shared=False, seed=1
)


def _network() -> Compact:
    torch.manual_seed(4)
    network = Compact(num_feat=8, num_conv=2, upscale=2).eval().requires_grad_(False)
    for layer in network.body:
        if isinstance(layer, torch.nn.PReLU):
            layer.weight.fill_(0.2)
    # Details that show.
    network.body[-1].weight.mul_(20)
    return network


def test_training_brings_the_pages_nearer() -> None:
    exact = _network()
    rounded = RoundedNetwork(exact)
    inputs = [torch.rand(2, 3, 24, 24) for _ in range(4)]
    rounded.choose_codes(inputs)
    # As where the codes were chosen badly.
    with torch.no_grad():
        rounded.steps[1].mul_(3)
    before = distances(rounded, exact, inputs)
    progress = begin(RECIPE, rounded)
    for step in range(RECIPE.steps):
        train_step(RECIPE, progress, exact, inputs[step % len(inputs)])
    assert min(distances(rounded, exact, inputs)) > max(before)


def test_codes_are_chosen_so_that_little_is_rounded_off() -> None:
    exact = _network()
    rounded = RoundedNetwork(exact)
    page = torch.rand(1, 3, 40, 40)
    rounded.choose_codes([page])
    assert all(zero % 16 == 0 and 0 < zero <= 128 for zero in rounded.zeros)
    assert all(step.item() > 0 for step in rounded.steps)
    # A level or two of 255 for numbers that the network was not trained to keep within a range.
    assert distances(rounded, exact, [page])[0] > 35


def test_the_command_writes_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        tmp_path / "tiny.safetensors",
    )
    options = {
        "model": "tiny", "weights": tmp_path, "shared": tmp_path, "validate_every": 1, "workers": 0, "batch": 1,
        "patch": 8, "rate": 1e-3, "drawn": 1, "lettered": 0, "seed": 1,
    }  # fmt: skip
    main(out=tmp_path / "whole", minutes=1e6, steps=3, drawings=tmp_path / "drawn", **options)
    main(out=tmp_path / "parts", minutes=-1, steps=3, drawings=tmp_path / "drawn", **options)
    main(out=tmp_path / "parts", minutes=1e6, steps=3, drawings=tmp_path / "drawn", **options)
    whole, parts = (load_file(tmp_path / name / "tiny-int8.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["0.weight"].dtype == torch.int8
    assert whole["0.weight"].abs().max() <= LARGEST // 2
    with pytest.raises(SystemExit, match="another recipe"):
        main(
            out=tmp_path / "parts", minutes=-1, steps=3, drawings=tmp_path / "drawn", **{**options, "seed": 2}
        )
