"""Weights of the peers, which are there for ncnn alone, as the state of the torch network that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

_HALF = 0x01306B47
"""Stands before weights of 16 bits."""


def read_layers(param: Path) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return kind, flat weights and bias of each layer that has any, in order, out of ``.param`` and ``.bin``."""
    data, place = param.with_suffix(".bin").read_bytes(), 0
    layers = []
    for line in param.read_text(encoding="ascii").splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        facts = dict(part.split("=", 1) for part in rest[int(inputs) + int(outputs) :])
        if kind not in ("Convolution", "Deconvolution", "InnerProduct"):
            continue
        is_dense = kind == "InnerProduct"
        count = int(facts["2"] if is_dense else facts["6"])
        assert facts["1" if is_dense else "5"] == "1", "every layer has a bias"
        flag = int.from_bytes(data[place : place + 4], "little")
        place += 4
        assert flag in (0, _HALF), f"weights of another kind: {flag:#x}"
        kind_of = np.float16 if flag else np.float32
        weights = np.frombuffer(data, kind_of, count, place).astype(np.float32)
        place += -(-weights.size * np.dtype(kind_of).itemsize // 4) * 4
        bias = np.frombuffer(data, np.float32, int(facts["0"]), place)
        place += 4 * bias.size
        layers.append((kind, torch.from_numpy(weights.copy()), torch.from_numpy(bias.copy())))
    assert place == len(data), "the file ends where its last layer does"
    return layers


def fill_cunet(module: torch.nn.Module, param: Path) -> torch.nn.Module:
    """Fill a Real-CUGAN or waifu2x cunet network of spandrel's (``UpCunet2x``, ``UpCunet3x``) with ncnn's weights.

    ncnn lists the layers in the order in which they are computed, which is the order of the names here: within
    a block with squeeze-and-excitation the two convolutions of the latter come last.
    """
    order = (
        "conv1.conv.0", "conv1.conv.2", "conv1_down", "conv2.conv.0", "conv2.conv.2", "conv2.seblock.conv1",
        "conv2.seblock.conv2", "conv2_up", "conv3", "conv_bottom",
    )  # fmt: skip
    second = (
        "conv1.conv.0", "conv1.conv.2", "conv1_down", "conv2.conv.0", "conv2.conv.2", "conv2.seblock.conv1",
        "conv2.seblock.conv2", "conv2_down", "conv3.conv.0", "conv3.conv.2", "conv3.seblock.conv1",
        "conv3.seblock.conv2", "conv3_up", "conv4.conv.0", "conv4.conv.2", "conv4.seblock.conv1",
        "conv4.seblock.conv2", "conv4_up", "conv5", "conv_bottom",
    )  # fmt: skip
    names = [*(f"unet1.{name}" for name in order), *(f"unet2.{name}" for name in second)]
    layers = read_layers(param)
    assert len(layers) == len(names)
    modules = dict(module.named_modules())
    with torch.no_grad():
        for name, (kind, weights, bias) in zip(names, layers, strict=True):
            layer = modules[name]
            shape = layer.weight.shape
            if kind == "Deconvolution":
                # ncnn keeps outputs first, torch inputs.
                weights = weights.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
            layer.weight.copy_(weights.reshape(shape))
            layer.bias.copy_(bias)
    return module
