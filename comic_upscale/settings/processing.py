"""`ProcessingSettings`: what decides what a page becomes, on whatever machine it is processed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Le

from comic_upscale.settings.engines import (
    EngineOptions,
    as_engine_options,
    check_engine,
    parse_engine_options,
)
from comic_upscale.settings.limits import DEFAULT_MAX_PIXELS, DEFAULT_PDF_DPI
from comic_upscale.settings.options import Group, Opt, check, require
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
ArchiveOutput: TypeAlias = Literal["cbz", "folder"]
Precision: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]

AUTO_MODEL = "auto"
"""The model that is no model: which one it stands for is decided when a job begins."""

DEFAULT_SIZE = Scale(DEFAULT_SCALE)

SIZE, NETWORK, OUTPUTS, VOLUMES, LIMITS = (
    "Size of the outputs", "Network", "Output files", "Volumes", "Checks, failures and limits",
)  # fmt: skip
"""Headings of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOptions:
    """The options of a command line that say one `Size` together: at most one of the first six."""

    scale: Annotated[
        float | None,
        Opt(
            "Output size divided by input size, above 1 and at most 8. The next five options ask for a size in pixels "
            "or on paper instead: each page then gets its own factor, at most 16, and a larger page is shrunk.",
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
            "Make every page as large as fits within these pixels. Pages keep their shape.",
            metavar="WxH",
            panel=SIZE,
        ),
    ] = None
    paper: Annotated[
        str | None,
        Opt(
            "Make every page fit a sheet of this trimmed size, such as 170x260mm or 6.69x10.24in. Pages keep their "
            "shape; --dry-run and the ledger say what is cut off or stays blank. A landscape page counts as a double "
            "page.",
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
            "With --print: make pages cover the sheet and this much beyond it on each side (3mm, 0.125in, 0mm). "
            "Without it, the whole page fits inside the sheet.",
            metavar="LENGTH", panel=SIZE,
        ),
    ] = None  # fmt: skip


def join_size(given: Mapping[str, Any]) -> Size:
    """Make a size of the `SizeOptions` that were given.

    Raises:
        SettingsError: they ask for a size in two ways, or for one that cannot be.
    """
    return choose_size(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptionWords:
    """The options of a command line that say the options of an engine's own."""

    engine_option: Annotated[
        list[str] | None,
        Opt(
            "An option of the engine's own, as `comic-upscale engines show NAME` lists them. May be repeated.",
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


def join_engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """Make engine options of the `EngineOptionWords` that were given.

    Raises:
        SettingsError: one is no name with a value.
    """
    command = given.get("engine_command")
    return parse_engine_options(
        [*(given.get("engine_option") or ()), *(() if command is None else (f"command={command}",))]
    )


class _Factor:
    """Reads ``scale`` back from the size, where alone it is kept; as the default of the argument it is None."""

    def __get__(self, settings: ProcessingSettings | None, owner: type[Any] | None = None) -> float | None:
        return settings.size.factor if settings is not None and isinstance(settings.size, Scale) else None


@dataclass(frozen=True, kw_only=True)
class ProcessingSettings:
    """What decides what a page becomes: hashed into the fingerprint, and sent to the machine that processes it.

    Args:
        scale: the same as ``size=Scale(scale)``; read back, it is the factor, or None for another size.

    Raises:
        SettingsError: a value out of its range, or two that contradict each other.
    """

    GROUP: ClassVar[Group] = Group("processing", sent="always")

    if TYPE_CHECKING:
        # To a type checker an argument and an attribute, which it cannot say of an InitVar that has a default.
        scale: float | None = None
    else:
        scale: InitVar[float | None] = _Factor()

    size: Annotated[
        Size,
        Opt(
            "How large pages become: by a factor, in pixels, or on paper.",
            fingerprint="always", parse=parse_size, write=size_text, parts=SizeOptions, join=join_size,
        ),
    ] = DEFAULT_SIZE  # fmt: skip
    skip_larger_than: Annotated[
        Bounds | None,
        Opt(
            "Skip pages that do not fit within WxH pixels, or whose longer side is over N. They are recorded as "
            "skipped. --copy-others copies them unchanged; the CBZ of a volume always includes them unchanged.",
            metavar="WxH|N", panel=SIZE, parse=Bounds.parse, write=str,
        ),
    ] = None  # fmt: skip
    # Hashed by its weights, not by its name; and a remote machine has them under a name of its own.
    model: Annotated[
        str,
        Opt(
            "auto, a name from `comic-upscale models list`, or a .pth or .safetensors file. auto is "
            "RealESRGAN_x4plus_anime_6B on a GPU if its weights are here or can be downloaded, and otherwise "
            "comic-compact-x3, which needs no download. A job keeps the model that it began with. For 2-2.5x, an x3 or "
            "x4 network runs in full and its output is shrunk, which keeps the finest lines. RealESRGAN_x2plus works "
            "at 2x, in a quarter of RealESRGAN_x4plus's time; above 2x, the rest is resampling.",
            flags=("--model", "-m"), metavar="NAME|FILE", panel=NETWORK, sent="never",
        ),
    ] = AUTO_MODEL  # fmt: skip
    denoise: Annotated[
        float | None, Ge(0), Le(1),
        Opt(
            "0 keeps grain, 1 smooths most; for realesr-general-x4v3.",
            metavar="0..1", panel=NETWORK, fingerprint="always",
        ),
    ] = None  # fmt: skip
    precision: Annotated[
        Precision,
        Opt("auto uses half precision where the device is fast at it.", panel=NETWORK, fingerprint="always"),
    ] = "auto"
    backend: Annotated[
        str,
        Opt(
            "What upscales: torch; realesrgan, the official program; onnx, for an ONNX network; command, for a program "
            "of yours; or another that `comic-upscale engines list` shows.",
            flags=("--engine", "--backend"), metavar="NAME", panel=NETWORK, fingerprint="always",
        ),
    ] = "torch"  # fmt: skip
    # The registry of engines says which of them are hashed.
    engine_options: Annotated[
        EngineOptions,
        Opt(
            "Options of the engine's own, by name.",
            write=dict, read=as_engine_options, parts=EngineOptionWords, join=join_engine_options,
        ),
    ] = ()  # fmt: skip
    format: Annotated[
        FormatName,
        Opt(
            "Format of the outputs. auto: each page in the format of its own file.",
            flags=("--format", "-f"), panel=OUTPUTS, fingerprint="always",
        ),
    ] = "png"  # fmt: skip
    quality: Annotated[
        int | None, Ge(1), Le(100),
        Opt(
            "Default: 95 for jpeg, 90 for avif, lossless for webp and jxl. With --format auto a lossless page "
            "stays lossless.",
            metavar="N", panel=OUTPUTS, fingerprint="always",
        ),
    ] = None  # fmt: skip
    png_level: Annotated[
        int | None, Ge(0), Le(9),
        Opt(
            "How hard PNG is compressed. Default: fast, tuned for upscaled pages.",
            metavar="0-9", panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    # None is auto, except that a job which an earlier version began, when there was only keep, goes on with keep.
    gray: Annotated[
        GrayMode | None,
        Opt(
            "auto: pages without colour are written with one channel. keep: only pages that are stored so. off: none.",
            default_text="auto", panel=OUTPUTS, fingerprint="always",
        ),
    ] = None  # fmt: skip
    icc: Annotated[
        IccMode,
        Opt(
            "keep: pages keep their colour profile. srgb: pages are converted to sRGB.",
            panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = "keep"  # fmt: skip
    animated: Annotated[
        AnimatedMode,
        Opt(
            "What becomes of an animation or a TIFF of several pages: take the first picture, or skip the file.",
            panel=OUTPUTS, fingerprint="if-changed",
        ),
    ] = "first"  # fmt: skip
    # The next two matter where volumes are read and written, which no remote machine does.
    archive_output: Annotated[
        ArchiveOutput,
        Opt(
            "What a volume becomes: a CBZ, or a folder of its pages.",
            panel=VOLUMES, fingerprint="if-changed", sent="never",
        ),
    ] = "cbz"  # fmt: skip
    pdf_dpi: Annotated[
        int, Ge(36), Le(1200),
        Opt(
            "Dots per inch for PDF pages that are not simply one image. A page that is one image keeps its pixels.",
            metavar="N", panel=VOLUMES, fingerprint="if-changed", sent="never",
        ),
    ] = DEFAULT_PDF_DPI  # fmt: skip
    gate: Annotated[
        bool,
        Opt(
            "Compare every page with its source. A page that looks wrong is processed again in the most conservative "
            "way, and marked if that does not help (status --suspects).",
            panel=LIMITS,
        ),
    ] = True  # fmt: skip
    strict: Annotated[bool, Opt("Fail pages that stay suspect; they are not written.", panel=LIMITS)] = False
    max_pixels: Annotated[
        int, Ge(1),
        Opt(
            "Refuse pages with more pixels than this.",
            metavar="N", default_text=f"{DEFAULT_MAX_PIXELS:,}", panel=LIMITS,
        ),
    ] = DEFAULT_MAX_PIXELS  # fmt: skip

    def __post_init__(self, scale: float | None = None) -> None:  # noqa: RUF033 - an InitVar
        """Take a scale for the size that it is, and check every value."""
        size: Size | None = self.size
        if scale is not None:
            # A size by another scale is taken for the default, or for what `dataclasses.replace` brings along.
            require(
                size is None or isinstance(size, Scale),
                "a scale and a size each say how large pages become: give one",
            )
            size = Scale(scale)
        object.__setattr__(self, "size", size or DEFAULT_SIZE)
        object.__setattr__(self, "engine_options", as_engine_options(self.engine_options))
        check(self)
        check_engine(self.backend)
        self._check_formats()
        require(
            self.gate or not self.strict, "--strict fails what the gate finds suspect: leave out --no-gate"
        )

    def _check_formats(self) -> None:
        require(
            not (self.format in ("png", "tiff") and self.quality is not None),
            f"--quality has no meaning for {self.format.upper()}, which loses nothing: leave it out, or choose "
            "--format webp or jpeg",
        )
        require(
            self.png_level is None or self.format in ("png", "auto"),
            f"--png-level has no meaning for --format {self.format}: leave it out",
        )

    @property
    def gray_mode(self) -> GrayMode:
        """What becomes of gray pages."""
        return self.gray or "auto"
