"""The GPUs of this machine, for the health report."""

from __future__ import annotations

import sys
from typing import Any


def describe_gpus() -> list[dict[str, Any]]:
    """Return name and free memory of each GPU that CUDA sees; none before an engine has loaded torch.

    Looking must not load torch: a worker that waits for its first job stays small.
    """
    torch = sys.modules.get("torch")
    # Another thread may be importing it just now.
    if torch is None or getattr(torch.__spec__, "_initializing", False) or not torch.cuda.is_initialized():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"name": torch.cuda.get_device_name(index), "memory_free": free, "memory_total": total})
    return found
