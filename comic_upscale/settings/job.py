"""The settings of one job: given once, checked once, never changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
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
from comic_upscale.settings.option_json import from_json, to_json
from comic_upscale.settings.options import Group, Opt, fingerprint_parts, require, slice_of
from comic_upscale.settings.paths import (
    absolute,
    default_ledger,
    default_output,
    is_default_place,
    path_text,
    replace_folder,
)
from comic_upscale.settings.places import is_bucket, parse_place
from comic_upscale.settings.processing import (
    AUTO_MODEL,
    DEFAULT_SIZE,
    NETWORK,
    AnimatedMode,
    ArchiveOutput,
    FormatName,
    GrayMode,
    IccMode,
    ProcessingSettings,
)
from comic_upscale.settings.resources import ResourceSettings
from comic_upscale.settings.rules import write_rules
from comic_upscale.settings.run import RunSettings
from comic_upscale.settings.selection import Selection, read_selection, write_selection
from comic_upscale.settings.selection_options import SelectionOptions, join_selection
from comic_upscale.settings.sizes import Scale, Size, as_float, number_text

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
"""The groups of a job's options, by their names in JSON."""


def _size_parts(size: Size) -> Mapping[str, object]:
    if isinstance(size, Scale):
        return {"scale": float(size.factor)}
    return {"scale": None, "size": str(size)}


def _gray_parts(gray: GrayMode | None) -> Mapping[str, object]:
    return {} if gray == "keep" else {"gray": gray or "auto"}


LEGACY_PARTS: Mapping[str, Callable[[Any], Mapping[str, object]]] = {
    # Keeps the fingerprint of a job with --scale as it was before other sizes existed.
    "size": _size_parts,
    # Keeps the fingerprint of a job with --gray keep as it was before --gray existed.
    "gray": _gray_parts,
}
"""Options whose part of the fingerprint differs from their name and JSON.

They are hashed as in the first version that had them, so that its jobs continue.
"""


def upgrade_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of settings in the form that this version writes: flat, with one ``size``.

    Earlier versions wrote a ``scale`` and a ``size``, one of them null. The options of a group may be nested in an
    object with the group's name.

    Raises:
        SettingsError: an option is given twice.
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        require(
            name not in GROUPS or isinstance(value, dict), f"{name} must be an object with options by name"
        )
        inner = value if name in GROUPS else {name: value}
        for key in inner:
            require(key not in flat, f"{key} is given twice")
        flat.update(inner)
    if "scale" in flat:
        factor = flat.pop("scale")
        size = flat.pop("size", None)
        require(factor is None or size is None, "a scale and a size exclude each other: give one of them")
        if factor is not None:
            number = as_float(factor)
            if number is None:
                raise SettingsError(f"processing.scale must be a number, not {factor!r}")
            size = f"scale {number_text(number)}"
        if size is not None:
            flat["size"] = size
    return flat


@dataclass(frozen=True, kw_only=True)
class JobSettings(ResourceSettings, RunSettings, ProcessingSettings):
    """All settings of a job. Every value is checked when the object is created.

    The class inherits from the three groups, so every option is an argument and an attribute. ``processing``, ``run``
    and ``resources`` return one group.

    Args:
        scale: short for ``size=Scale(scale)``: give one of them. Beside a `Scale`, the scale counts, because
            `dataclasses.replace` gives the old size along with a new scale.

    Raises:
        SettingsError: a value is out of range, or two values contradict each other.
    """

    GROUP: ClassVar[Group] = Group("", sent="never")

    input: Annotated[
        Path,
        Opt(
            "A folder with all its subfolders, one image, or one volume: CBZ, CBR, CB7, CBT, EPUB, PDF, ZIP, RAR, 7z "
            "or tar. Or these in a bucket: s3://bucket/pages, gs://, az://.",
            flags=("--input", "-i"), metavar="PATH",
        ),
    ]  # fmt: skip
    output: Annotated[
        Path,
        Opt(
            "Folder for the upscaled pages, with the same subfolders as the input. Default: a folder beside the input, "
            "named after the input and the size. Or a place in a bucket: s3://bucket/big.",
            flags=("--output", "-o"), metavar="DIR",
        ),
    ] = None  # type: ignore[assignment]  # fmt: skip
    selection: Annotated[
        Selection | None,
        Opt(
            "The part of the input to look at. Without it, a job continues with what it had; a new one takes all.",
            write=write_selection, read=read_selection, parts=SelectionOptions, join=join_selection,
        ),
    ] = None  # fmt: skip
    profile: Annotated[
        str | None,
        Opt(
            "Options and rules from a profile: a name from `comic-upscale profiles list`, or a TOML file. Options on "
            "the command line win. Default: comic-upscale.toml beside the input or in the current folder, or your "
            "profile named default. none: no profile.",
            metavar="NAME|FILE",
        ),
    ] = None  # fmt: skip
    ledger: Annotated[
        Path | None,
        Opt(
            "File for the ledger. Default: inside the output folder; for a bucket, in a folder of yours.",
            metavar="FILE",
        ),
    ] = None
    weights_folders: Annotated[
        tuple[Path, ...],
        Opt(
            "Search this folder for weights first. Can be repeated.",
            flags=("--weights-dir",), metavar="DIR", panel=NETWORK,
        ),
    ] = ()  # fmt: skip
    weights_cache: Annotated[
        Path | None,
        Opt("Folder for downloaded weights. Without it, nothing is downloaded.", on_command_line=False),
    ] = None

    def __post_init__(self, scale: float | None = None) -> None:  # noqa: RUF033 - an InitVar
        """Choose the output if none is given, make the paths absolute, and check every value."""
        output: Path | None = self.output
        if output is None and isinstance(self.input, Path):
            size = Scale(scale) if scale is not None else self.size or DEFAULT_SIZE
            chosen = replace_folder(self.input) if self.replace_sources else default_output(self.input, size)
            object.__setattr__(self, "output", chosen)
        for name in ("input", "output", "ledger", "face_model"):
            if isinstance(path := getattr(self, name), Path):
                object.__setattr__(self, name, absolute(path))
                if is_bucket(absolute(path)):
                    parse_place(path_text(path))
        # This checks the options of all groups: `check` goes through the fields of the whole class.
        ProcessingSettings.__post_init__(self, scale)
        require(
            self.output.resolve() != self.input.resolve(),
            "the output folder is the input folder: choose another --output, or leave it out",
        )
        require(
            self.ledger is None or not is_bucket(self.ledger),
            "the ledger must be a file of this machine: a copy of it is kept beside outputs in a bucket",
        )
        require(
            self.ledger is not None or not is_bucket(self.output),
            "an output in a bucket needs a --ledger on this machine",
        )
        if self.replace_sources:
            self._check_replacing()

    def _check_replacing(self) -> None:
        require(not is_bucket(self.input), "--replace needs an input folder of this machine, not a bucket")
        require(
            self.output == replace_folder(self.input),
            "--replace has no --output, because the outputs go to the places of the originals: leave one of them out",
        )
        for given, flag, why in (
            (not self.gate, "--no-gate", "only outputs that the quality gate accepts may replace originals"),
            (self.archive_output == "folder", "--archive-output folder", "a volume is replaced by one file"),
            (self.max_volume_size is not None, "--max-volume-size", "a volume is replaced by one file"),
            (self.overwrite, "--overwrite", "no file of yours is overwritten"),
            (self.copy_others, "--copy-others", "all other files stay where they are"),
            (self.keep_original_on_failure, "--keep-original-on-failure", "only whole volumes are replaced"),
            (self.crop_margins, "--crop-margins", "it makes less of a page"),
        ):
            require(not given, f"--replace and {flag} exclude each other: {why}")

    @property
    def processing(self) -> ProcessingSettings:
        """The options that decide the pixels of an output."""
        return slice_of(self, ProcessingSettings)

    @property
    def run(self) -> RunSettings:
        """The options of the run: copies, retries, limits."""
        return slice_of(self, RunSettings)

    @property
    def resources(self) -> ResourceSettings:
        """The devices, threads and memory of the executing machine."""
        return slice_of(self, ResourceSettings)

    @property
    def ledger_path(self) -> Path:
        """The path of this job's ledger."""
        return self.ledger or default_ledger(self.output)

    @property
    def folder(self) -> Path:
        """The folder of this machine with the lock of this job: its output folder, or that of its ledger."""
        if not is_bucket(self.output):
            return self.output
        ledger = self.ledger_path
        return ledger.parent.parent if is_default_place(ledger) else ledger.parent

    @property
    def volume_rules(self) -> VolumeRules:
        """The rules by which this job reads volumes."""
        return VolumeRules(self.max_members, self.max_unpacked, self.max_ratio, self.pdf_dpi, self.max_pixels)

    def fingerprint(
        self,
        model_identity: str,
        engine_options: EngineOptions = (),
        rule_models: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Hash everything that decides the pixels and bytes of an output; returns 32 hexadecimal digits.

        The same page with the same fingerprint gives the same output. Precision and tile are hashed as requested, so
        that a job with ``auto`` continues on a different machine. Batch, device and workers do not change the output.

        Args:
            model_identity: identifies what computes the pixels; for a network, the hash of its weights.
            engine_options: the engine-specific options that decide pixels and differ from their defaults, from the
                engine registry.
            rule_models: the same as ``model_identity`` for the models of the rules, by their names in the rules.
        """
        parts = {"model": model_identity, **fingerprint_parts(self, LEGACY_PARTS)}
        if self.rules:
            rules = write_rules(self.rules, ProcessingSettings)
            parts["rules"] = [
                {**rule, "model": rule_models.get(rule["model"], rule["model"])} if "model" in rule else rule
                for rule in rules
            ]
        if engine_options:
            parts["engine_options"] = dict(engine_options)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def as_json(self) -> str:
        """Return the settings as one line of JSON for the ledger: one object, with a key for each option."""
        return json.dumps(to_json(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> JobSettings:
        """Read JSON that `as_json` of this version or an earlier one wrote.

        The options of a group may also be nested in an object with the group's name.
        A path that is not valid Unicode cannot be read back, because `as_json` escapes it.

        Raises:
            SettingsError: the text is not such JSON. The message names options by their keys, ``processing.pdf_dpi``.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"the settings are not JSON: {error}") from None
        require(isinstance(record, dict), "the settings are not a JSON object")
        return from_json(cls, upgrade_record(record))
