"""`ResourceSettings`: devices, threads and memory of the machine that executes a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Group, Opt, check

MACHINE = "Machine"

DEVICE_NAME = re.compile(r"(?P<kind>cuda|xpu|mps|cpu)(?::(?P<index>\d+))?")
"""The name of a device of PyTorch."""


def parse_auto_or_number(text: str, option: str) -> int | None:
    """Read a whole number; ``auto`` gives None.

    Raises:
        SettingsError: the text is neither.
    """
    if text.strip().lower() == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{option} must be auto or a whole number, not {text!r}") from None


def check_device_name(name: str) -> None:
    """Check the name of a device of PyTorch, or ``auto``.

    Raises:
        SettingsError: no device has such a name.
    """
    if name != "auto" and DEVICE_NAME.fullmatch(name) is None:
        raise SettingsError(f"there is no device {name!r}: use auto, cpu, cuda, cuda:0, cuda:1, xpu or mps")


def _parse_batch(text: str) -> int | None:
    return parse_auto_or_number(text, "--batch")


def _parse_tile(text: str) -> int | None:
    return parse_auto_or_number(text, "--tile")


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """Devices, threads and memory of the machine that executes the job.

    Only the options that the user gave are sent to a remote machine. It uses its own defaults for the rest.

    Raises:
        SettingsError: a value is out of range.
    """

    GROUP: ClassVar[Group] = Group("resources", sent="if-given")

    device: Annotated[
        str,
        Opt(
            "auto, cpu, cuda, cuda:1, xpu or mps. Separate several with commas: cuda:0,cuda:1.",
            flags=("--device", "-d"), panel=MACHINE,
        ),
    ] = "auto"  # fmt: skip
    batch: Annotated[
        int | None, Ge(1),
        Opt(
            "Pages in one call of the network. auto: as many as fit in memory.",
            metavar="auto|N", default_text="auto", panel=MACHINE, parse=_parse_batch,
        ),
    ] = None  # fmt: skip
    # Hashed as requested, so that a job with auto continues on a different machine.
    tile: Annotated[
        int | None, Ge(64),
        Opt(
            "Longest side in input pixels that the network processes in one piece. auto: as large as fits in memory.",
            metavar="auto|N", default_text="auto", panel=MACHINE, parse=_parse_tile, fingerprint="always",
        ),
    ] = None  # fmt: skip
    workers: Annotated[
        int, Ge(1),
        Opt(
            "Workers that decode and encode.",
            flags=("--workers", "-w"), default_text="one per core", panel=MACHINE,
        ),
    ] = 4  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
