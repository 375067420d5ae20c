"""Muon: momentum whose steps are made orthogonal, for stacks of convolution kernels.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the size of a step,
which makes Adam's learning rates fit, is that of "Muon is scalable for LLM training" (Moonshot AI, 2025).
`torch.optim.Muon` takes single matrices only, and PyTorch has it since 2.9.
"""

from __future__ import annotations

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, as published."""
_ITERATIONS = 5
_RMS = 0.2
"""Of one step's entries at a learning rate of 1: that of Adam."""


class Muon(torch.optim.Optimizer):
    """Steps for parameters that are stacks of kernels: layers x out x in x height x width.

    Args:
        parameters: each of at least three axes; the first counts the layers.
        lr: learning rate, on Adam's scale.
        momentum: share of the earlier steps.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("momentum", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                towards = parameter.grad.lerp(mean, group["momentum"])
                matrices = towards.flatten(2)
                step = orthogonal(matrices) * (_RMS * max(matrices.shape[-2:]) ** 0.5)
                parameter.sub_(step.view_as(parameter), alpha=group["lr"])


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices with the same singular vectors and all singular values near 1 (0.7..1.2).

    Args:
        matrices: batch x rows x columns, no more rows than columns.
    """
    a, b, c = _COEFFICIENTS
    made = matrices.to(torch.bfloat16 if matrices.is_cuda else matrices.dtype)
    made = made / (made.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = made @ made.mT
        made = a * made + (b * square + c * square @ square) @ made
    return made.to(matrices.dtype)
