"""Networks as ONNX files: exported by torch, or put together node by node where they are to be odd."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


def export(
    module: torch.nn.Module,
    path: Path,
    *,
    channels: int = 3,
    size: tuple[int, int] = (24, 32),
    fixed: bool = False,
    half: bool = False,
) -> Path:
    """Write a network as ONNX; of any size and number of images, or of the one size."""
    kind = torch.float16 if half else torch.float32
    sides = {0: "n", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # torch tells at every call that another exporter is the default now; that one takes 15 seconds.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.to(kind).eval(),
            (torch.rand(1, channels, *size, dtype=kind),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["larger"],
            dynamic_axes=None if fixed else {"image": sides, "larger": sides},
        )
    return path


def network(
    path: Path,
    nodes: Sequence[Any],
    *,
    shape: Sequence[int | str] = ("n", 3, "h", "w"),
    made: Sequence[int | str] = ("n", 3, "h2", "w2"),
    kind: str = "FLOAT",
    initializers: Sequence[Any] = (),
    domains: Sequence[str] = ("",),
    outputs: int = 1,
    inputs: int = 1,
) -> Path:
    """Write a network of these nodes, from ``x`` to ``y``, whatever it is worth."""
    from onnx import TensorProto, helper, save

    number = getattr(TensorProto, kind)
    given = [helper.make_tensor_value_info("x" * (place + 1), number, shape) for place in range(inputs)]
    results = [helper.make_tensor_value_info("y" * (place + 1), number, made) for place in range(outputs)]
    graph = helper.make_graph(nodes, "test", given, results, list(initializers))
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in domains]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def tensor(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values), name)
