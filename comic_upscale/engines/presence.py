"""What is known of the GPUs of this machine without importing torch, which takes seconds."""

from __future__ import annotations

import importlib.util
import platform
import re
from pathlib import Path

_GPU_FILES = (
    "nvidiactl", "nvidia0", "nvhost-ctrl", "nvmap",  # NVIDIA, also Jetson
    "dxg",  # any GPU in WSL
    "kfd",  # AMD
    "dri",  # AMD and Intel
)  # fmt: skip
"""Without any of these in `_DEVICES`, Linux has no GPU that torch could use."""
_DEVICES = Path("/dev")
_BUILT_FOR = re.compile(r"^(?:cuda|hip|xpu)\b[^=\n]*=\s*['\"]", re.MULTILINE)


def foresee_accelerator(devices: str) -> bool | None:
    """Return whether a run on these devices computes on GPUs only, if that is certain; else None.

    Args:
        devices: as for ``--device``. A run is refused if a GPU in it does not exist.
    """
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if "cpu" in names or ("auto" in names and not _may_have_gpu()):
        return False
    return None if "auto" in names or not names else True


def _may_have_gpu() -> bool:
    system = platform.system()
    if system == "Darwin":
        return platform.machine() == "arm64"
    if system == "Linux" and not any((_DEVICES / name).exists() for name in _GPU_FILES):
        return False
    return _torch_may_use_gpu()


def _torch_may_use_gpu() -> bool:
    """Return whether torch was built for a GPU, as its own file says."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return _BUILT_FOR.search(text) is not None
