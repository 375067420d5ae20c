"""The settings of one job: said once, checked once, never changed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from comic_upscale.errors import SettingsError
from comic_upscale.settings.engines import EngineOptions, as_engine_options, check_engine
from comic_upscale.settings.paths import absolute, default_ledger, path_text
from comic_upscale.settings.sizes import Bounds, Scale, Size, choose_size

OutputFormat: TypeAlias = Literal["auto", "png", "webp", "jpeg", "avif", "jxl", "tiff"]
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
GrayMode: TypeAlias = Literal["auto", "keep", "off"]
IccMode: TypeAlias = Literal["keep", "srgb"]
AnimatedMode: TypeAlias = Literal["first", "skip"]
ArchiveOutput: TypeAlias = Literal["cbz", "folder"]
ARCHIVE_OUTPUTS: tuple[ArchiveOutput, ...] = get_args(ArchiveOutput)
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
SIDECARS = ("copy", "skip")

AUTO_MODEL = "auto"
"""The model that is no model: which one it stands for is decided when a job begins."""

DEFAULT_MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs: a 256 MiB RGB image."""


DEFAULT_PDF_DPI = 150
"""A page of 17 x 26 cm then has about 1000 x 1540 pixels."""

DEFAULT_MAX_MEMBERS = 20_000
DEFAULT_MAX_UNPACKED = 16 << 30
DEFAULT_MAX_RATIO = 200.0


@dataclass(frozen=True, slots=True)
class VolumeRules:
    """How volumes are read, and which are refused as decompression bombs."""

    max_members: int = DEFAULT_MAX_MEMBERS
    """Files in a volume."""
    max_unpacked: int = DEFAULT_MAX_UNPACKED
    """Bytes of all files of a volume, unpacked."""
    max_ratio: float = DEFAULT_MAX_RATIO
    """Unpacked bytes over the volume's own; looked at above 64 MiB, below which nothing is a bomb."""
    pdf_dpi: int = DEFAULT_PDF_DPI
    """Dots an inch at which a page of a PDF is drawn that is not simply one image."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """The most pixels that a page of a PDF is drawn with."""


def parse_bytes(text: str, option: str) -> int:
    """Read ``"500M"``, ``"16G"`` or ``"1073741824"``; the letters stand for powers of 1024.

    Raises:
        SettingsError: anything else.
    """
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise SettingsError(f"{option} takes a number of bytes, such as 500M or 16G, not {text!r}")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many pages may fail before a run gives up: a count, or a share of the job's pages."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> FailureLimit:
        """Read ``"25"`` or ``"5%"``.

        Raises:
            SettingsError: anything else, a negative number, or more than 100 %.
        """
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if not 0 <= share <= 1:
                    raise ValueError
                return cls(share=share)
            count = int(text)
            if count < 0:
                raise ValueError
            return cls(count=count)
        except ValueError:
            raise SettingsError(
                f"--max-failures takes a number or a percentage, such as 25 or 5%, not {text!r}"
            ) from None

    def exceeded(self, failed: int, total: int) -> bool:
        """Whether ``failed`` of ``total`` pages is more than allowed."""
        allowed = self.count if self.count is not None else (self.share or 0.0) * total
        return failed > allowed

    def __str__(self) -> str:
        return f"{self.count}" if self.count is not None else f"{(self.share or 0.0) * 100:g}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Everything that a job needs to know. Made once; checked when made.

    Raises:
        SettingsError: a value out of its range, or two that contradict each other.
    """

    input: Path
    """A folder of pages, or one image."""
    output: Path
    """The folder that the pages go to; the input's tree is kept below it."""
    scale: float | None = None
    """Output size over input size, above 1 and at most 8; 2.5 where no ``size`` is given either, None where one is."""
    size: Size | None = None
    """How large pages shall be, other than by a scale: a ``Width``, ``Fit``, ``Print``... of ``sizes.py``."""
    skip_larger_than: Bounds | None = None
    """Pages that do not fit within these pixels are left as they are, recorded as skipped, and put so into volumes."""
    model: str = AUTO_MODEL
    """``auto``, a name of the catalogue, or the path of a ``.pth`` or ``.safetensors`` file."""
    denoise: float | None = None
    """0 (keep the grain) to 1 (smooth); only for a model with a second set of weights."""
    format: OutputFormat = "png"
    """``png``, ``webp``, ``jpeg``, ``avif``, ``jxl`` or ``tiff``; ``auto``: as each page's own file."""
    quality: int | None = None
    """1 to 100 for formats that can lose; None: JPEG 95, AVIF 90, WebP and JPEG XL lossless. With the format
    ``auto`` a lossless page stays lossless."""
    png_level: int | None = None
    """0 to 9, how hard zlib tries; None: fast, by a way that suits upscaled pages."""
    gray: GrayMode | None = None
    """``auto``: pages without colour become one channel; ``keep``: only those that are stored so; ``off``: none.
    None is ``auto``, but that a job which an earlier version began, when there was only ``keep``, goes on so."""
    icc: IccMode = "keep"
    """``keep``: pages stay in the space of their profile, and carry it; ``srgb``: all are converted."""
    animated: AnimatedMode = "first"
    """Of an animation or a TIFF of several pages, take the ``first``, or ``skip`` it."""
    backend: str = "torch"
    """The engine: ``torch``, ``realesrgan`` (the official program), ``onnx``, ``command``, or another package's."""
    engine_options: EngineOptions = ()
    """Options of the engine's own; given as a mapping or as pairs, held as pairs of texts in order of their names."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``xpu``, ``mps``, or several with commas between."""
    precision: str = "auto"
    batch: int | None = None
    """Pages in one call of the network; None: as many as fit."""
    tile: int | None = None
    """Longest side in input pixels that goes through the network whole; None: as large as fits."""
    workers: int = 4
    """Threads that decode and encode."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pages of more pixels than this (width x height of the source) are refused."""
    max_failures: FailureLimit | None = None
    sidecars: str = "copy"
    """``copy``: what is called like a page and is a caption or the like goes beside its output; or ``skip``."""
    copy_others: bool = False
    """Copy the other files of the input, too, and the pages that were skipped for their size."""
    overwrite: bool = False
    """Replace output files that this ledger does not know."""
    retry_failed: bool = False
    gate: bool = True
    """Hold every page against its source, do a suspect one again, and mark it where that does not help."""
    strict: bool = False
    """A page that stays suspect is a failure; its output is not written."""
    archive_output: ArchiveOutput = "cbz"
    """What a volume becomes: ``cbz``, or a ``folder`` of its pages."""
    keep_original_on_failure: bool = False
    """Put the untouched page into a new volume where a page failed, instead of waiting for it."""
    pdf_dpi: int = DEFAULT_PDF_DPI
    """Dots an inch at which a page of a PDF is drawn that is not simply one image."""
    max_members: int = DEFAULT_MAX_MEMBERS
    """Volumes of more files than this are refused."""
    max_unpacked: int = DEFAULT_MAX_UNPACKED
    """Volumes of more bytes than this, unpacked, are refused."""
    max_ratio: float = DEFAULT_MAX_RATIO
    """Volumes that unpack to more than so many times their own size are refused."""
    ledger: Path | None = None
    """Where the ledger is; None: inside the output folder."""
    price: float | None = None
    """Dollars that an hour of this machine costs; None: what the job's last run was told, if any."""
    max_cost: float | None = None
    """Dollars that the job may cost, its earlier runs included, before a run stops; None for no ceiling."""
    weights_folders: tuple[Path, ...] = ()
    """Searched for weights, in this order, before the cache."""
    weights_cache: Path | None = None
    """Where downloaded weights are kept; None: nothing is downloaded."""

    def __post_init__(self) -> None:
        """Check every value, and make the three paths absolute."""
        for name in ("input", "output", "ledger"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute(path))
        _require(
            self.scale is None or self.size is None,
            "a scale and a size each say how large pages shall be: give one",
        )
        if isinstance(self.size, Scale):
            object.__setattr__(self, "scale", self.size.factor)
            object.__setattr__(self, "size", None)
        elif self.size is None:
            wish = choose_size(scale=self.scale)
            assert isinstance(wish, Scale)
            object.__setattr__(self, "scale", wish.factor)
        _require(self.format in FORMATS, f"--format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        _require(
            self.precision in PRECISIONS,
            f"--precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}",
        )
        check_engine(self.backend)
        object.__setattr__(self, "engine_options", as_engine_options(self.engine_options))
        _require(
            self.quality is None or 1 <= self.quality <= 100,
            f"--quality must be between 1 and 100, not {self.quality}",
        )
        _require(
            not (self.format in ("png", "tiff") and self.quality is not None),
            f"--quality has no meaning for {self.format.upper()}, which loses nothing: leave it out, or choose "
            "--format webp or jpeg",
        )
        _require(
            self.png_level is None or 0 <= self.png_level <= 9,
            f"--png-level must be between 0 and 9, not {self.png_level}",
        )
        _require(
            self.png_level is None or self.format in ("png", "auto"),
            f"--png-level has no meaning for --format {self.format}: leave it out",
        )
        for name, value, choices in (
            ("gray", self.gray_mode, GrayMode),
            ("icc", self.icc, IccMode),
            ("animated", self.animated, AnimatedMode),
        ):
            _require(
                value in get_args(choices),
                f"--{name} must be one of {', '.join(get_args(choices))}, not {value!r}",
            )
        _require(
            self.denoise is None or 0 <= self.denoise <= 1,
            f"--denoise must be between 0 and 1, not {self.denoise}",
        )
        _require(
            self.sidecars in SIDECARS,
            f"--sidecars must be one of {', '.join(SIDECARS)}, not {self.sidecars!r}",
        )
        _require(
            self.gate or not self.strict, "--strict fails what the gate finds suspect: leave out --no-gate"
        )
        _require(self.workers >= 1, f"--workers must be at least 1, not {self.workers}")
        _require(
            self.batch is None or self.batch >= 1, f"--batch must be auto or at least 1, not {self.batch}"
        )
        _require(self.tile is None or self.tile >= 64, f"--tile must be auto or at least 64, not {self.tile}")
        _require(self.max_pixels >= 1, f"--max-pixels must be at least 1, not {self.max_pixels}")
        _require(
            self.archive_output in ARCHIVE_OUTPUTS,
            f"--archive-output must be one of {', '.join(ARCHIVE_OUTPUTS)}, not {self.archive_output!r}",
        )
        _require(36 <= self.pdf_dpi <= 1200, f"--pdf-dpi must be between 36 and 1200, not {self.pdf_dpi}")
        _require(self.max_members >= 1, f"--max-members must be at least 1, not {self.max_members}")
        _require(self.max_unpacked >= 1, f"--max-unpacked must be at least 1 byte, not {self.max_unpacked}")
        _require(self.max_ratio >= 1, f"--max-ratio must be at least 1, not {self.max_ratio:g}")
        for name, amount in (("--price", self.price), ("--max-cost", self.max_cost)):
            _require(
                amount is None or (amount >= 0 and math.isfinite(amount)),
                f"{name} must be a number of dollars, 0 or more, not {amount}",
            )
        _require(
            self.output.resolve() != self.input.resolve(),
            "the output folder is the input itself: choose another --output, or leave it out",
        )

    @property
    def ledger_path(self) -> Path:
        """Where the ledger of this job is."""
        return self.ledger or default_ledger(self.output)

    @property
    def asked_size(self) -> Size:
        """How large pages shall be, in whichever way that was said."""
        if self.size is not None:
            return self.size
        assert self.scale is not None
        return Scale(self.scale)

    @property
    def gray_mode(self) -> GrayMode:
        """What becomes of gray pages."""
        return self.gray or "auto"

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
        parts: dict[str, object] = {
            "model": model_identity,
            "scale": None if self.scale is None else float(self.scale),
            "denoise": self.denoise,
            "backend": self.backend,
            "precision": self.precision,
            "tile": self.tile,
            "format": self.format,
            "quality": self.quality,
        }
        if self.size is not None:
            # Only then, so that jobs by scale keep the fingerprint that they have had from the beginning.
            parts["size"] = str(self.size)
        # Only where they differ from what earlier versions did, so that their jobs go on.
        if self.png_level is not None:
            parts["png_level"] = self.png_level
        if self.gray_mode != "keep":
            parts["gray"] = self.gray_mode
        if self.icc != "keep":
            parts["icc"] = self.icc
        if self.animated != "first":
            parts["animated"] = self.animated
        if self.archive_output != "cbz":
            parts["archive_output"] = self.archive_output
        if self.pdf_dpi != DEFAULT_PDF_DPI:
            parts["pdf_dpi"] = self.pdf_dpi
        if engine_options:
            parts["engine_options"] = dict(engine_options)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def as_json(self) -> str:
        """The settings as one line of JSON, for the ledger."""

        def plain(value: Any) -> Any:
            return path_text(value) if isinstance(value, Path) else value

        fields = {name: plain(value) for name, value in asdict(self).items()}
        fields["max_failures"] = None if self.max_failures is None else str(self.max_failures)
        for name in ("size", "skip_larger_than"):
            value = getattr(self, name)
            fields[name] = None if value is None else str(value)
        fields["engine_options"] = dict(self.engine_options)
        fields["weights_folders"] = [path_text(folder) for folder in self.weights_folders]
        return json.dumps(fields, ensure_ascii=False)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)
