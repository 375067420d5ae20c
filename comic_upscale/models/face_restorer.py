"""Load weights that restore faces: GFPGAN and RestoreFormer, whose architectures spandrel has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from comic_upscale.errors import WeightsError
from comic_upscale.models.architectures import spandrel
from comic_upscale.models.limits import BoundedTensors, TooLargeError
from comic_upscale.models.network import read_state

SIDE = 512
"""Side of the aligned face that these networks take and return, in pixels."""
_WAY_OUT = "Use GFPGANv1.3, GFPGANv1.4 or RestoreFormer (.pth)."


@dataclass(frozen=True, slots=True, eq=False)
class FaceRestorer:
    """A network that restores an aligned face."""

    module: torch.nn.Module
    """In evaluation mode, without gradients."""
    architecture: str
    """``"GFPGAN"`` or ``"RestoreFormer"``."""

    def run(self, faces: torch.Tensor) -> torch.Tensor:
        """Restore faces.

        Args:
            faces: N x 3 x `SIDE` x `SIDE`, 0..1, on the device of the module.

        Returns:
            The same shape, 0..1.
        """
        # Both were trained on -1..1. GFPGAN adds noise, of which the file has a fixed one.
        options = {"randomize_noise": False} if self.architecture == "GFPGAN" else {}
        with torch.inference_mode():
            made = self.module(faces * 2 - 1, **options)
        first: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return ((first + 1) / 2).clamp(0, 1)


def load_face_restorer(path: Path) -> FaceRestorer:
    """Load a network from a file, on the CPU.

    Args:
        path: ``.pth`` or ``.safetensors``. Only tensors are read.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, or no network that restores faces.
    """
    state = read_state(path)
    try:
        with BoundedTensors.for_building(state):
            descriptor = spandrel.MAIN_REGISTRY.load(state)
    except TooLargeError as error:
        raise WeightsError(f"--face-model {path} was refused: {error}. {_WAY_OUT}") from error
    except Exception as error:
        # Weights that only resemble an architecture can fail anywhere.
        raise WeightsError(f"--face-model {path} is not a network that spandrel knows. {_WAY_OUT}") from error
    name = str(descriptor.architecture.id)
    if name not in ("GFPGAN", "RestoreFormer"):
        raise WeightsError(f"--face-model {path} is a network ({name}) that restores no faces. {_WAY_OUT}")
    module: torch.nn.Module = descriptor.model
    return FaceRestorer(module.float().eval().requires_grad_(False), name)
