"""Keeps libraries from reporting to their makers; imports nothing."""

from __future__ import annotations

import os


def disable_telemetry() -> None:
    """Keep libraries from reporting what this machine does to their makers, unless the user has said otherwise.

    onnxruntime does so from its import on, and since 1.29 on Linux, too. diffusers imports it where it is installed.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
