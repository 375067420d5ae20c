"""`ProcessingSettings`: the options that decide the pixels of an output, on any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from annotated_types import Ge, Le

from comic_upscale.errors import SettingsError
from comic_upscale.settings.engines import (
    EngineOptions,
    as_engine_options,
    check_engine,
    parse_engine_options,
)
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.limits import DEFAULT_MAX_PIXELS, DEFAULT_PDF_DPI, parse_bytes
from comic_upscale.settings.options import Group, Opt, check, require
from comic_upscale.settings.rules import Rule, check_rules, read_rules, write_rules
from comic_upscale.settings.screens import Screen, Spreads
from comic_upscale.settings.sizes import (
    DEFAULT_SCALE,
    Bounds,
    Scale,
    Size,
    choose_size,
    parse_size,
    size_text,
)

FormatName: TypeAlias = Literal["auto", "png", "webp", "jpeg", "avif", "jxl", "tiff"]
GrayMode: TypeAlias = Literal["auto", "keep", "off"]
IccMode: TypeAlias = Literal["keep", "srgb"]
AnimatedMode: TypeAlias = Literal["first", "skip"]
ArchiveOutput: TypeAlias = Literal["cbz", "folder", "epub", "kepub", "pdf"]
Precision: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]

AUTO_MODEL = "auto"
"""Stands for a model that is chosen when the job begins."""

DEFAULT_SIZE = Scale(DEFAULT_SCALE)

BOOK_FORMATS: Mapping[str, tuple[FormatName, ...]] = MappingProxyType(
    {"epub": ("png", "jpeg", "webp"), "kepub": ("png", "jpeg"), "pdf": ("png", "jpeg")}
)
"""Archive outputs that are books, and the formats that their pages may have."""


def parse_volume_size(text: str) -> int:
    """Read the bytes of ``--max-volume-size``."""
    return parse_bytes(text, "--max-volume-size")


SIZE, NETWORK, PAGES, OUTPUTS, VOLUMES, LIMITS = (
    "Size of the outputs", "Network", "Pages before the network", "Output files", "Volumes",
    "Checks, failures and limits",
)  # fmt: skip
"""Headings of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOptions:
    """The command-line options that together give one `Size`: at most one of the first six, and their details."""

    scale: Annotated[
        float | None,
        Opt(
            "Output size divided by input size, 1 to 8. 1 is for networks that only restore. The next five options set "
            "a size in pixels or on paper instead. Each page then gets its own factor, at most 16; a page that is "
            "larger is shrunk.",
            flags=("--scale", "-s"), default_text=f"{DEFAULT_SCALE:g}", panel=SIZE,
        ),
    ] = None  # fmt: skip
    width: Annotated[int | None, Opt("Make every page N pixels wide.", metavar="N", panel=SIZE)] = None
    height: Annotated[int | None, Opt("Make every page N pixels high.", metavar="N", panel=SIZE)] = None
    long_side: Annotated[
        int | None, Opt("Make the longer side of every page N pixels.", metavar="N", panel=SIZE)
    ] = None
    fit: Annotated[
        str | None,
        Opt(
            "Make every page as large as fits within W x H pixels. Pages keep their proportions.",
            metavar="WxH",
            panel=SIZE,
        ),
    ] = None
    paper: Annotated[
        str | None,
        Opt(
            "Make every page fit a sheet of this trimmed size, such as 170x260mm or 6.69x10.24in. Pages keep their "
            "proportions; --dry-run and the ledger show how much is cut off or stays blank. A landscape page counts as "
            "a double page.",
            flags=("--print",), metavar="WxHmm", panel=SIZE,
        ),
    ] = None  # fmt: skip
    dpi: Annotated[
        float | None,
        Opt(
            "With --print: dots per inch, also written into the file.",
            metavar="N", default_text="300", panel=SIZE,
        ),
    ] = None  # fmt: skip
    bleed: Annotated[
        str | None,
        Opt(
            "With --print: make pages cover the sheet and this margin beyond it on each side (3mm, 0.125in, 0mm). "
            "Without --bleed, the whole page fits inside the sheet.",
            metavar="LENGTH", panel=SIZE,
        ),
    ] = None  # fmt: skip
    fit_device: Annotated[
        str | None,
        Opt(
            "Make every page fit the screen of an e-reader, such as kobo-libra-2; `comic-upscale devices` lists them. "
            "Pages for a gray screen get its grays, by dithering.",
            metavar="NAME", panel=SIZE,
        ),
    ] = None  # fmt: skip
    spreads: Annotated[
        Spreads | None,
        Opt(
            "With --fit-device: keep a landscape page whole, split a double page into two, rotate it, or both: the "
            "halves and then the rotated page. Pages outside of volumes are never split.",
            default_text="keep", panel=SIZE,
        ),
    ] = None  # fmt: skip


def join_size(given: Mapping[str, Any]) -> Size:
    """Return the size that the given `SizeOptions` describe.

    Raises:
        SettingsError: two options contradict each other, or a value is impossible.
    """
    return choose_size(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptionWords:
    """The command-line options for engine-specific options."""

    engine_option: Annotated[
        tuple[str, ...] | None,
        Opt(
            "An engine-specific option; `comic-upscale engines show NAME` lists them. Can be repeated.",
            metavar="NAME=VALUE", panel=NETWORK,
        ),
    ] = None  # fmt: skip
    engine_command: Annotated[
        str | None,
        Opt(
            "With --engine command: the program and its arguments, such as 'tool -i {in} -o {out}'.",
            metavar="COMMAND", panel=NETWORK,
        ),
    ] = None  # fmt: skip
    pipeline: Annotated[
        str | None,
        Opt(
            "With --engine flux: the folder of a diffusers pipeline, or the name of one that `hf download NAME` has "
            "downloaded.",
            metavar="FOLDER", panel=NETWORK, default_text="black-forest-labs/FLUX.2-klein-4B",
        ),
    ] = None  # fmt: skip
    keep_lettering: Annotated[
        bool,
        Opt(
            "With --engine flux: keep lettering and fine lines as the first pass draws them.",
            panel=NETWORK,
        ),
    ] = True  # fmt: skip
    accept_noncommercial: Annotated[
        bool,
        Opt(
            "With --engine flux: you have read the licence of the pipeline, and it allows what you do.",
            panel=NETWORK,
        ),
    ] = False  # fmt: skip


_ENGINE_FLAGS = {"engine_command": "command"}
"""Flags that set one engine option, where its name is another one."""


def join_engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """Return the engine options that the given `EngineOptionWords` describe.

    Raises:
        SettingsError: a text is not NAME=VALUE.
    """
    flags = {
        _ENGINE_FLAGS.get(name, name): value
        for name, value in given.items()
        if name != "engine_option" and value is not None
    }
    return as_engine_options({**dict(parse_engine_options(given.get("engine_option") or ())), **flags})


def _parse_rules(text: str) -> tuple[Rule, ...]:
    try:
        return _read_rules(json.loads(text))
    except ValueError as error:
        raise SettingsError(f"--rules must be JSON: {error}") from None


def _read_rules(value: object) -> tuple[Rule, ...]:
    return read_rules(value, ProcessingSettings)


def _write_rules(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    return write_rules(rules, ProcessingSettings)


class _Factor:
    """Derives the attribute ``scale`` from the size. As the default of the argument, it is None."""

    def __get__(self, settings: ProcessingSettings | None, owner: type[Any] | None = None) -> float | None:
        return settings.size.factor if settings is not None and isinstance(settings.size, Scale) else None


@dataclass(frozen=True, kw_only=True)
class ProcessingSettings:
    """The options that decide the pixels of an output.

    They are hashed into the fingerprint and sent to the machine that processes the page.

    Args:
        scale: short for ``size=Scale(scale)``: give one of them. Beside a `Scale`, the scale counts, because
            `dataclasses.replace` gives the old size along with a new scale. The attribute is the
            factor, or None for a size of another kind.

    Raises:
        SettingsError: a value is out of range, or two values contradict each other.
    """

    GROUP: ClassVar[Group] = Group("processing", sent="always")

    if TYPE_CHECKING:
        # A type checker cannot see that an InitVar with a default is an argument and also an attribute.
        scale: float | None = None
    else:
        scale: InitVar[float | None] = _Factor()

    size: Annotated[
        Size,
        Opt(
            "Size of the outputs: a factor, pixels, or a sheet of paper.",
            fingerprint="always", parse=parse_size, write=size_text, parts=SizeOptions, join=join_size,
        ),
    ] = DEFAULT_SIZE  # fmt: skip
    skip_larger_than: Annotated[
        Bounds | None,
        Opt(
            "Skip pages that do not fit within WxH pixels, or whose longer side is over N. They are recorded as "
            "skipped. --copy-others copies them unchanged. The CBZ of a volume always contains them unchanged.",
            metavar="WxH|N", panel=SIZE, parse=Bounds.parse, write=str, read=Bounds.read,
        ),
    ] = None  # fmt: skip
    # Hashed by its weights, not by its name. A remote machine stores the weights under another name.
    model: Annotated[
        str,
        Opt(
            "auto, a name from `comic-upscale models list`, or a .pth or .safetensors file. auto is comic-best on a "
            "GPU, and otherwise comic-fast; both are parts of the package. They use their x2 network up to 2x, and "
            "otherwise their x3 network. A job keeps the model that it began with. For 2-2.5x, x3 and x4 networks run "
            "in full and their output is shrunk, which keeps the finest lines. RealESRGAN_x2plus works at 2x and "
            "takes a quarter of the time of RealESRGAN_x4plus; above 2x, resampling does the rest.",
            flags=("--model", "-m"), metavar="NAME|FILE", panel=NETWORK, sent="never",
        ),
    ] = AUTO_MODEL  # fmt: skip
    denoise: Annotated[
        float | None, Ge(0), Le(1),
        Opt(
            "Denoise strength of comic-best, comic-fast (auto is one of them) and realesr-general-x4v3. comic-best and "
            "comic-fast: 0 is the network as it is, and 1 removes JPEG artifacts around lines and lettering. "
            "realesr-general-x4v3: 0 keeps grain, 1 smooths most.",
            metavar="0..1", panel=NETWORK, fingerprint="always",
        ),
    ] = None  # fmt: skip
    precision: Annotated[
        Precision,
        Opt(
            "auto uses what the device is fast at: half precision, or int8 for comic-fast on CPUs with VNNI. fp32 is "
            "the most exact.",
            panel=NETWORK, fingerprint="always",
        ),
    ] = "auto"  # fmt: skip
    backend: Annotated[
        str,
        Opt(
            "The program that upscales: torch; realesrgan, the official program; onnx, for ONNX networks; command, for "
            "your own program. `comic-upscale engines list` shows all.",
            flags=("--engine", "--backend"), metavar="NAME", panel=NETWORK, fingerprint="always",
        ),
    ] = "torch"  # fmt: skip
    # Both are hashed by the engine registry: the weights count and not their path.
    face_model: Annotated[
        Path | None,
        Opt(
            "Restore faces of photographs with these weights: GFPGAN or RestoreFormer. Gray and drawn pages stay as "
            "they are.",
            metavar="FILE", panel=NETWORK, sent="never",
        ),
    ] = None  # fmt: skip
    face_strength: Annotated[
        float, Ge(0), Le(1),
        Opt(
            "With --face-model: how much of a restored face is taken.",
            metavar="0..1", panel=NETWORK, sent="never",
        ),
    ] = 0.8  # fmt: skip
    raw: Annotated[
        bool,
        Opt(
            "Write the pixels as the network gives them: tone, faint lines, and pure white and black areas are not "
            "restored, and suspect pages are not upscaled again.",
            panel=NETWORK, fingerprint="if-changed",
        ),
    ] = False  # fmt: skip
    tta: Annotated[
        bool,
        Opt(
            "Upscale every page in all eight turns and mirrorings, and average the results. It takes eight times as "
            "long, for slightly calmer lines.",
            panel=NETWORK, fingerprint="if-changed",
        ),
    ] = False  # fmt: skip
    levels: Annotated[
        Levels | None,
        Opt(
            "Black and white point of gray pages. auto: the shades of the ink and of the paper of each page become "
            "black and white. volume: the same for all pages of a volume or folder, so that they do not differ. "
            "BLACK,WHITE: these shades do, such as 20,235. off: pages keep their shades.",
            metavar="auto|volume|BLACK,WHITE|off", default_text="off", panel=PAGES, fingerprint="if-changed",
            parse=Levels.parse, write=str, read=Levels.read,
        ),
    ] = None  # fmt: skip
    neutral_paper: Annotated[
        bool,
        Opt(
            "Make yellowed paper neutral. A page whose only colour was that of its paper then counts as gray.",
            panel=PAGES, fingerprint="if-changed",
        ),
    ] = False  # fmt: skip
    # Hashed by the weights of their models, as the model itself.
    rules: Annotated[
        tuple[Rule, ...],
        Opt(
            "Settings of single pages, in order: every rule that matches a page counts, and a later one wins.",
            fingerprint="if-changed", on_command_line=False, parse=_parse_rules, write=_write_rules,
            read=_read_rules,
        ),
    ] = ()  # fmt: skip
    # The engine registry decides which of them are hashed.
    engine_options: Annotated[
        EngineOptions,
        Opt(
            "Engine-specific options by name.",
            write=dict, read=as_engine_options, parts=EngineOptionWords, join=join_engine_options,
        ),
    ] = ()  # fmt: skip
    format: Annotated[
        FormatName,
        Opt(
            "Format of the outputs. auto: the format of each page's own file.",
            flags=("--format", "-f"), panel=OUTPUTS, fingerprint="always",
        ),
    ] = "png"  # fmt: skip
    quality: Annotated[
        int | None, Ge(1), Le(100),
        Opt(
            "Quality of lossy formats. Default: 95 for jpeg, 90 for avif, lossless for webp and jxl. With --format "
            "auto, a lossless page stays lossless.",
            metavar="N", panel=OUTPUTS, fingerprint="always",
        ),
    ] = None  # fmt: skip
    png_level: Annotated[
        int | None, Ge(0), Le(9),
        Opt(
            "PNG compression level, 0 to 9. Default: fast, tuned for upscaled pages.",
            metavar="0-9", panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    # None is auto, except in a job that began before --gray existed: it continues with keep.
    gray: Annotated[
        GrayMode | None,
        Opt(
            "auto: write pages without colour with one channel. keep: only pages that are stored as gray. off: never.",
            default_text="auto", panel=OUTPUTS, fingerprint="always",
        ),
    ] = None  # fmt: skip
    icc: Annotated[
        IccMode,
        Opt(
            "keep: keep the colour profile of each page. srgb: convert pages to sRGB.",
            panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = "keep"  # fmt: skip
    animated: Annotated[
        AnimatedMode,
        Opt(
            "For an animation or a multi-page TIFF: use the first image, or skip the file.",
            panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = "first"  # fmt: skip
    crop_margins: Annotated[
        bool,
        Opt(
            "Cut off the empty paper around pages. Nothing that holds ink is cut.",
            panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = False  # fmt: skip
    # The next ones concern reading and writing volumes, which a remote machine never does.
    archive_output: Annotated[
        ArchiveOutput,
        Opt(
            "Write a volume as a CBZ, a folder of pages, an EPUB with fixed layout, a KEPUB for Kobo, or a PDF.",
            panel=VOLUMES, fingerprint="if-changed", sent="never",
        ),
    ] = "cbz"  # fmt: skip
    right_to_left: Annotated[
        bool,
        Opt(
            "Volumes are read from right to left. Without this option, a volume is if its ComicInfo.xml, EPUB or PDF "
            "says so.",
            panel=VOLUMES, fingerprint="if-changed", sent="never",
        ),
    ] = False  # fmt: skip
    max_volume_size: Annotated[
        int | None, Ge(100_000),
        Opt(
            "Split EPUB, KEPUB and PDF volumes into several files of at most this size, such as 200MB.",
            metavar="BYTES", panel=VOLUMES, fingerprint="if-changed", sent="never", parse=parse_volume_size,
        ),
    ] = None  # fmt: skip
    pdf_dpi: Annotated[
        int, Ge(36), Le(1200),
        Opt(
            "Lowest resolution in dots per inch for PDF pages that are not images alone. Finer images on a page "
            "raise it. A page of images alone keeps their pixels.",
            metavar="N", panel=VOLUMES, fingerprint="if-changed", sent="never",
        ),
    ] = DEFAULT_PDF_DPI  # fmt: skip
    gate: Annotated[
        bool,
        Opt(
            "Compare every page with its source. A page that looks wrong is upscaled again by the most conservative "
            "path, or by comic-fast if another network of the package drew texture of its own. If it still looks "
            "wrong, it is marked as suspect (status --suspects).",
            panel=LIMITS,
        ),
    ] = True  # fmt: skip
    strict: Annotated[bool, Opt("Fail pages that stay suspect. They are not written.", panel=LIMITS)] = False
    max_pixels: Annotated[
        int, Ge(1),
        Opt(
            "Refuse pages with more pixels than this.",
            metavar="N", default_text=f"{DEFAULT_MAX_PIXELS:,}", panel=LIMITS,
        ),
    ] = DEFAULT_MAX_PIXELS  # fmt: skip

    def __post_init__(self, scale: float | None = None) -> None:  # noqa: RUF033 - an InitVar
        """Turn a scale into a size, and check every value."""
        size: Size | None = self.size
        if scale is not None:
            # A `Scale` beside it is the default, or comes from `dataclasses.replace`.
            require(
                size is None or isinstance(size, Scale),
                "a scale and a size exclude each other: give one of them",
            )
            size = Scale(scale)
        object.__setattr__(self, "size", size or DEFAULT_SIZE)
        object.__setattr__(self, "engine_options", as_engine_options(self.engine_options))
        object.__setattr__(self, "rules", read_rules(self.rules, ProcessingSettings))
        check(self)
        check_engine(self.backend)
        self._check_formats()
        self._check_books()
        require(self.gate or not self.strict, "--strict needs the quality gate: leave out --no-gate")
        check_rules(self.rules, self.changed_for_page)

    def changed_for_page(self, changes: Mapping[str, Any]) -> Self:
        """Return the settings of a page for which rules change some options. They have no rules.

        An option that has no effect together with the changes is left out: the strength of another model, the quality
        of a lossless format.

        Args:
            changes: options of `rules.SETTABLE` by name.

        Raises:
            SettingsError: a value is not allowed.
        """
        values = {"rules": (), **changes}
        if "model" in changes:
            values.setdefault("denoise", None)
        if "format" in changes and changes["format"] != self.format:
            # The quality of the job is that of its own format.
            values.setdefault("quality", None)
            values["png_level"] = None
        if values.get("format", self.format) in ("png", "tiff"):
            values["quality"] = None
        return replace(self, **values)

    def _check_formats(self) -> None:
        require(
            not (self.format in ("png", "tiff") and self.quality is not None),
            f"--quality has no effect on {self.format.upper()}, which is lossless: leave it out, or choose "
            "--format webp or jpeg",
        )
        require(
            self.png_level is None or self.format in ("png", "auto"),
            f"--png-level has no effect on --format {self.format}: leave it out",
        )

    def _check_books(self) -> None:
        kinds = BOOK_FORMATS.get(self.archive_output)
        require(
            kinds is None or self.format == "auto" or self.format in kinds,
            f"--archive-output {self.archive_output} takes pages in --format {' or '.join(kinds or ())}, not "
            f"{self.format}: e-readers show no others",
        )
        require(
            self.max_volume_size is None or self.archive_output in BOOK_FORMATS,
            "--max-volume-size needs --archive-output epub, kepub or pdf",
        )

    @property
    def screen(self) -> Screen | None:
        """The screen that pages are made for; None if they are not made for one."""
        return self.size if isinstance(self.size, Screen) else None

    @property
    def icc_mode(self) -> IccMode:
        """How colour profiles are handled: a gray screen knows none."""
        screen = self.screen
        return "srgb" if screen is not None and screen.levels is not None else self.icc

    @property
    def looks_at_volumes(self) -> bool:
        """Whether pages may get levels that are found in their volumes."""
        given = (self.levels, *(rule.changes.get("levels") for rule in self.rules))
        return any(isinstance(each, Levels) and each.per_volume for each in given)

    @property
    def network_passes(self) -> int:
        """How often each pixel of a page goes through the network."""
        return 8 if self.tta else 1

    @property
    def gray_mode(self) -> GrayMode:
        """How gray pages are written."""
        return self.gray or "auto"
