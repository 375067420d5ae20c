"""The GPUs of this machine, and what this process uses, for the health report and the page of workers."""

from __future__ import annotations

import sys
from typing import Any

import psutil


class OwnUsage:
    """The memory and the processor time of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        # The first call has nothing to compare with.
        self._process.cpu_percent()

    def memory(self) -> int:
        """Return the bytes of memory that this process uses."""
        return int(self._process.memory_info().rss)

    def cores(self) -> float:
        """Return how many cores were busy with this process on average since the last call."""
        return float(self._process.cpu_percent()) / 100


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
