"""The settings of one job: given once, checked once, never changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from comic_upscale.errors import SettingsError
from comic_upscale.settings.engines import EngineOptions
from comic_upscale.settings.limits import (
    DEFAULT_MAX_MEMBERS,
    DEFAULT_MAX_PIXELS,
    DEFAULT_MAX_RATIO,
    DEFAULT_MAX_UNPACKED,
    DEFAULT_PDF_DPI,
    FailureLimit,
    VolumeRules,
    parse_bytes,
)
from comic_upscale.settings.options import (
    Group,
    Opt,
    fingerprint_parts,
    from_json,
    require,
    slice_of,
    to_json,
)
from comic_upscale.settings.paths import absolute, default_ledger
from comic_upscale.settings.processing import (
    AUTO_MODEL,
    NETWORK,
    AnimatedMode,
    ArchiveOutput,
    FormatName,
    GrayMode,
    IccMode,
    ProcessingSettings,
)
from comic_upscale.settings.resources import ResourceSettings
from comic_upscale.settings.run import RunSettings
from comic_upscale.settings.sizes import Scale, Size, number_text

__all__ = [
    "AUTO_MODEL",
    "DEFAULT_MAX_MEMBERS",
    "DEFAULT_MAX_PIXELS",
    "DEFAULT_MAX_RATIO",
    "DEFAULT_MAX_UNPACKED",
    "DEFAULT_PDF_DPI",
    "FORMATS",
    "AnimatedMode",
    "ArchiveOutput",
    "FailureLimit",
    "FormatName",
    "GrayMode",
    "IccMode",
    "JobSettings",
    "VolumeRules",
    "parse_bytes",
]  # fmt: skip

FORMATS: tuple[FormatName, ...] = get_args(FormatName)


GROUPS: Mapping[str, type[Any]] = {
    group.GROUP.name: group for group in (ProcessingSettings, RunSettings, ResourceSettings)
}
"""The groups of a job's options, by the names that programs have for them."""


def _size_parts(size: Size) -> Mapping[str, object]:
    if isinstance(size, Scale):
        return {"scale": float(size.factor)}
    return {"scale": None, "size": str(size)}


def _gray_parts(gray: GrayMode | None) -> Mapping[str, object]:
    return {} if gray == "keep" else {"gray": gray or "auto"}


LEGACY_PARTS: Mapping[str, Callable[[Any], Mapping[str, object]]] = {
    # A job by scale has the fingerprint that it had before there were other sizes.
    "size": _size_parts,
    # A job that keeps what is gray has the fingerprint that it had before there was a choice.
    "gray": _gray_parts,
}
"""Options that go into the fingerprint as the first version to have them put them in, so that its jobs go on."""


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of settings as this version writes it: flat, and with one ``size``.

    Earlier versions had a ``scale``, and beside it a ``size`` that was null. The options of a group may stand in an
    object under the group's name.

    Raises:
        SettingsError: an option is given twice.
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        inner = value if name in GROUPS and isinstance(value, dict) else {name: value}
        for key in inner:
            require(key not in flat, f"{key} is given twice")
        flat.update(inner)
    if "scale" in flat:
        factor = flat.pop("scale")
        size = flat.pop("size", None)
        require(
            factor is None or size is None, "a scale and a size each say how large pages become: give one"
        )
        if factor is not None:
            require(type(factor) in (int, float), f"processing.scale must be a number, not {factor!r}")
            size = f"scale {number_text(factor)}"
        if size is not None:
            flat["size"] = size
    return flat


@dataclass(frozen=True, kw_only=True)
class JobSettings(ResourceSettings, RunSettings, ProcessingSettings):
    """Everything that a job needs to know. Made once; checked when made.

    It is each of its three groups, so that every option is an argument and an attribute of its own; ``processing``,
    ``run`` and ``resources`` give a group by itself.

    Args:
        scale: the same as ``size=Scale(scale)``.

    Raises:
        SettingsError: a value out of its range, or two that contradict each other.
    """

    GROUP: ClassVar[Group] = Group("", sent="never")

    input: Annotated[
        Path,
        Opt(
            "A folder with all its subfolders, one image, or one volume: CBZ, CBR, CB7, CBT, EPUB, PDF, ZIP, RAR, 7z "
            "or tar.",
            flags=("--input", "-i"), metavar="PATH",
        ),
    ]  # fmt: skip
    output: Annotated[
        Path,
        Opt(
            "Folder for the upscaled pages; the tree of the input is kept. Default: beside the input, named after it "
            "and the size.",
            flags=("--output", "-o"), metavar="DIR",
        ),
    ]  # fmt: skip
    ledger: Annotated[
        Path | None,
        Opt("Where to keep the ledger. Default: inside the output folder.", metavar="FILE"),
    ] = None
    weights_folders: Annotated[
        tuple[Path, ...],
        Opt(
            "Folder to search for weights before all others.",
            flags=("--weights-dir",), metavar="DIR", panel=NETWORK,
        ),
    ] = ()  # fmt: skip
    weights_cache: Annotated[
        Path | None,
        Opt("Where downloaded weights are kept; without it, nothing is downloaded.", on_command_line=False),
    ] = None

    def __post_init__(self, scale: float | None = None) -> None:  # noqa: RUF033 - an InitVar
        """Make the three paths absolute, and check every value."""
        for name in ("input", "output", "ledger"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute(path))
        # Checks the options of all groups, since it asks for those of the whole.
        ProcessingSettings.__post_init__(self, scale)
        require(
            self.output.resolve() != self.input.resolve(),
            "the output folder is the input itself: choose another --output, or leave it out",
        )

    @property
    def processing(self) -> ProcessingSettings:
        """What decides what a page becomes."""
        return slice_of(self, ProcessingSettings)

    @property
    def run(self) -> RunSettings:
        """How the run goes about it."""
        return slice_of(self, RunSettings)

    @property
    def resources(self) -> ResourceSettings:
        """What the executing machine works with."""
        return slice_of(self, ResourceSettings)

    @property
    def ledger_path(self) -> Path:
        """Where the ledger of this job is."""
        return self.ledger or default_ledger(self.output)

    @property
    def volume_rules(self) -> VolumeRules:
        """How this job reads volumes."""
        return VolumeRules(self.max_members, self.max_unpacked, self.max_ratio, self.pdf_dpi, self.max_pixels)

    def fingerprint(self, model_identity: str, engine_options: EngineOptions = ()) -> str:
        """Hash what decides the pixels and the bytes of an output, 32 hexadecimal digits.

        Same page and same fingerprint are the same work. Precision and tile go in as asked, so that
        ``auto`` continues on another machine; batch, device and workers do not change what comes out.

        Args:
            model_identity: what computes: for a network the hash of its weights.
            engine_options: those of the engine's own options that decide pixels and are not at their defaults, as
                the engine registry knows them.
        """
        parts = {"model": model_identity, **fingerprint_parts(self, LEGACY_PARTS)}
        if engine_options:
            parts["engine_options"] = dict(engine_options)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def as_json(self) -> str:
        """The settings as one line of JSON, for the ledger: one object, each option under its name."""
        return json.dumps(to_json(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> JobSettings:
        """Read what `as_json` wrote, in this version or an earlier one.

        The options of a group may also stand in an object under the group's name, as a program would write them.
        A path that is not Unicode cannot be read back, since `as_json` shows it in another way.

        Raises:
            SettingsError: it is no such text; the message names an option as a program does, ``processing.pdf_dpi``.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"the settings are not JSON: {error}") from None
        require(isinstance(record, dict), "the settings are not a JSON object")
        return from_json(cls, upgraded(record))
