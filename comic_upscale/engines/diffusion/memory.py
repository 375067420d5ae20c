"""Whether a pipeline fits into memory, and how: decided from the sizes of its files, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from comic_upscale.errors import DeviceError

MemoryMode = Literal["auto", "all", "offload", "sequential"]
"""``all``: every part on the device. ``offload``: one part at a time. ``sequential``: one layer at a time, slowest."""
GB = 1e9
_WORK_AT_1024 = 3.5 * GB
"""Bytes that the autoencoder and the transformer need besides their weights, for a tile of 1024 pixels in half
precision: 3 to 4 GB in reports of users. It has not been measured here."""
_STEP_AT_1024 = 1.5 * GB
"""The part of this that the transformer needs; the autoencoder needs the rest, and works before and after it."""
_AUTOENCODER = "vae"
_LAYER_SHARE = 0.05
"""The largest layer, as a share of its part."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the parts of a pipeline are loaded."""

    mode: Literal["all", "offload", "sequential"]
    weights: int
    """Bytes of all parts."""
    needed: int
    """Bytes on the device at most."""
    available: int
    """Bytes that the device has free."""

    def describe(self, device: str) -> str:
        """Return the plan as text for the user."""
        how = {
            "all": f"all on {device}",
            "offload": f"one part at a time on {device}, which takes longer",
            "sequential": f"one layer at a time on {device}, which takes many times as long",
        }[self.mode]
        return f"{self.weights / GB:.1f} GB of weights, {how}: {self.needed / GB:.1f} of {self.available / GB:.1f} GB"


def plan_memory(
    parts: dict[str, int], *, tile: int, available: int, mode: MemoryMode = "auto", widening: float = 1.0
) -> MemoryPlan:
    """Decide how the parts of a pipeline are loaded.

    Args:
        parts: bytes of the weights of each part, as they are in memory.
        tile: side of a tile in pixels.
        available: bytes that the device has free.
        mode: ``auto`` for the fastest one that fits.
        widening: bytes of a number over those of half precision: 2 for float32.

    Raises:
        DeviceError: not even one layer at a time fits, or the mode that the user chose does not.
    """
    grows = widening * (tile / 1024) ** 2
    work, step = round(_WORK_AT_1024 * grows), round(_STEP_AT_1024 * grows)
    total, largest = sum(parts.values()), max(parts.values(), default=0)
    needs: dict[Literal["all", "offload", "sequential"], int] = {
        "all": total + work,
        "offload": max(largest + step, parts.get(_AUTOENCODER, 0) + work),
        "sequential": round(largest * _LAYER_SHARE) + work,
    }
    for name, needed in needs.items():
        if mode in ("auto", name) and needed <= available:
            return MemoryPlan(name, total, needed, available)
    least = needs["sequential"] if mode == "auto" else needs[mode]
    raise DeviceError(
        f"the pipeline needs {least / GB:.1f} GB and {available / GB:.1f} are free: use a quantized transformer "
        "(--engine-option transformer=FILE.gguf), a smaller tile (--engine-option tile=512), or stored embeddings "
        "(--engine-option embeddings=FILE)"
    )
