"""`RunSettings`: copies, retries and limits of a run, for the machine that coordinates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Unit

from comic_upscale.settings.limits import (
    DEFAULT_MAX_MEMBERS,
    DEFAULT_MAX_RATIO,
    DEFAULT_MAX_UNPACKED,
    FailureLimit,
    parse_bytes,
)
from comic_upscale.settings.options import Group, Opt, check
from comic_upscale.settings.processing import LIMITS, OUTPUTS, VOLUMES

SidecarsMode: TypeAlias = Literal["copy", "skip"]
COST = "Cost"

NO_PRICE = "--max-cost needs the price of an hour on this machine: add --price, for example --price 0.20"
"""The message about a cost ceiling without a price."""


def _parse_unpacked(text: str) -> int:
    return parse_bytes(text, "--max-unpacked")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What else is copied, what is retried, and when a run stops. No option here changes a pixel.

    Raises:
        SettingsError: a value is out of range.
    """

    GROUP: ClassVar[Group] = Group("run", sent="never")

    sidecars: Annotated[
        SidecarsMode,
        Opt(
            "copy: copy files named like a page (.txt, .caption, .json, .xmp) next to its output. skip: leave them.",
            panel=OUTPUTS,
        ),
    ] = "copy"  # fmt: skip
    copy_others: Annotated[
        bool,
        Opt("Also copy all other files, and the pages that --skip-larger-than leaves out.", panel=OUTPUTS),
    ] = False
    overwrite: Annotated[
        bool, Opt("Replace files in the output folder that comic-upscale did not write.", panel=OUTPUTS)
    ] = False
    replace_sources: Annotated[
        bool,
        Opt(
            "Replace each page and volume of the input by its output, once the quality gate has accepted it and it was "
            "read back. The originals stay in .comic-upscale/trash of the input until `prune --trash`; `restore` puts "
            "them back.",
            flags=("--replace",), panel=OUTPUTS,
        ),
    ] = False  # fmt: skip
    keep_original_on_failure: Annotated[
        bool,
        Opt(
            "If a page of a volume failed, put the original page into the CBZ instead of leaving the volume "
            "unfinished.",
            panel=VOLUMES,
        ),
    ] = False  # fmt: skip
    max_members: Annotated[
        int, Ge(1),
        Opt(
            "Refuse volumes with more files than this.",
            metavar="N", default_text=f"{DEFAULT_MAX_MEMBERS:,}", panel=VOLUMES,
        ),
    ] = DEFAULT_MAX_MEMBERS  # fmt: skip
    max_unpacked: Annotated[
        int, Ge(1),
        Opt(
            "Refuse volumes that unpack to more than this.",
            metavar="BYTES", default_text="16G", panel=VOLUMES, parse=_parse_unpacked,
        ),
    ] = DEFAULT_MAX_UNPACKED  # fmt: skip
    max_ratio: Annotated[
        float, Ge(1),
        Opt(
            "Refuse volumes that unpack to more than N times their own size.",
            metavar="N", default_text=f"{DEFAULT_MAX_RATIO:g}", panel=VOLUMES,
        ),
    ] = DEFAULT_MAX_RATIO  # fmt: skip
    retry_failed: Annotated[bool, Opt("Retry pages that failed in an earlier run.", panel=LIMITS)] = False
    max_failures: Annotated[
        FailureLimit | None,
        Opt(
            "Stop when more pages than this have failed in this run.",
            metavar="N|N%", panel=LIMITS, parse=FailureLimit.parse, write=str, read=FailureLimit.read,
        ),
    ] = None  # fmt: skip
    # Sent to a remote machine, which counts the cost of its own time.
    price: Annotated[
        float | None, Ge(0), Unit("dollars"),
        Opt(
            "Price of this machine in dollars per hour. The job remembers it, and `status` calculates with it.",
            metavar="$/h", panel=COST, sent="always",
        ),
    ] = None  # fmt: skip
    max_cost: Annotated[
        float | None, Ge(0), Unit("dollars"),
        Opt(
            "Stop before the job, including its earlier runs, costs more dollars than this. Needs --price.",
            metavar="$", panel=COST, sent="always",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
