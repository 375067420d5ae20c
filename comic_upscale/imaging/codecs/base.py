"""The description of an output format. All facts about a format are in its `OutputFormat`; other code asks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from comic_upscale.costs.ranges import Range

if TYPE_CHECKING:
    from comic_upscale.imaging.pixels import Pixels, UInt8Array
    from comic_upscale.settings.job import FormatName
    from comic_upscale.settings.processing import ProcessingSettings

Lossless: TypeAlias = Literal["always", "never", "without-quality"]

LOSSY = "-lossy"
"""The end of the name of a lossy encoding, in a format that has a lossless one too."""

_SECONDS = (
    "seconds: benchmarks/results/host_work-cpu.json, 12 real pages, one thread of an Intel Xeon with AMX, "
    "2026-11-29"
)
FIRST_MEASURED = f"bytes: six real pages at 2.5x; {_SECONDS}"
"""The source of the figures of PNG, WebP and JPEG. Single pages had from two thirds to four thirds of these bytes."""
LATER_MEASURED = (
    "bytes: benchmarks/results/formats-cpu.json, six real pages, 2026-11-26, scaled to the pages of PNG's figures; "
    f"{_SECONDS}"
)
"""The source of the figures of AVIF, JPEG XL and TIFF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How a page is encoded."""

    quality: int | None
    """1 to 100; None for lossless. Never None for a format that is always lossy."""
    settings: ProcessingSettings
    """Of the job, for options of one format, such as ``png_level``. Use ``quality``, not theirs."""
    png_rows: UInt8Array | None = None
    """The page as filtered rows of a PNG, where they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """The assumed cost of a page in a format, until the user's own pages and machine are measured."""

    gray_bytes: float
    """Output bytes per output pixel of a gray page."""
    color_bytes: float
    """Output bytes per output pixel of a colour page."""
    seconds: Range
    """CPU seconds of one thread per output megapixel: finishing, the gate, encoding, and the check that the file can
    be read. The fastest, the mean and the slowest of twelve pages."""
    source: str
    """The source of the figures, with the machine and the date."""

    def bytes_per_pixel(self, *, gray: bool) -> float:
        """Return output bytes per output pixel."""
        return self.gray_bytes if gray else self.color_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputFormat:
    """An output format: its names, its capabilities, its encoder and its cost."""

    name: FormatName
    """Its name in the settings, and of the module that describes it: ``png``."""
    title: str
    """Its name in messages: ``PNG``."""
    recognised_as: str
    """The name that `imaging.formats.recognise` returns for such a file."""
    extension: str
    """The extension of output files, lower case, without the dot."""
    kept_extensions: tuple[str, ...] = ()
    """Other extensions of such files. With ``--format auto`` a page keeps its extension if it is one of these."""
    adopted_extensions: tuple[str, ...] = ()
    """Extensions of read-only formats. With ``--format auto`` their pages are written in this format."""

    lossless: Lossless
    """When the format is lossless; ``without-quality``: if no quality is given."""
    default_quality: int | None = None
    """1 to 100: the quality of a lossy page if none is given. None for a format that is always lossless."""

    longest_side: int
    """The longest side, in pixels."""
    most_pixels: int | None = None
    """The most pixels of a page; None if only its sides are limited."""
    ask_most_pixels: Callable[[], int | None] | None = None
    """Replaces ``most_pixels`` if the limit can change while the program runs."""
    bits: tuple[int, ...] = (8,)
    """Bit depths of output samples: 8, or 8 and 16."""
    gray: bool = True
    """Whether a gray page is stored as one channel; otherwise as three equal ones."""
    alpha: bool = True
    """Whether transparency is stored; otherwise a page is flattened onto white."""
    texts: bool = False
    """Whether the keywords and texts of a PNG are stored."""
    density_in_exif: bool = False
    """Whether the resolution is stored in EXIF and nowhere else."""

    encode: Callable[[Pixels, EncodeOptions], bytes]
    """Return the file of a page whose samples have one of the depths ``bits``. Any exception fails the page."""
    carries_profile: Callable[[bytes], bool] | None = None
    """Whether an ICC profile can be stored; if not, the page is converted to sRGB. None: any profile can be."""
    list_omissions: Callable[[Pixels], tuple[str, ...]] | None = None
    """Returns further parts of a page that its file leaves out, one sentence each."""
    read_back: Callable[[bytes], tuple[tuple[int, int], str]] | None = None
    """Decodes a file, to check that it can be read. Returns (width, height) and Pillow's mode, which is empty if Pillow
    has none. None: Pillow decodes it."""
    read_back_every: int = 1
    """After the first few files, every Nth is read back to check it. Greater than 1 for a format whose encoder can only
    fail on a broken machine, and where the check takes a large part of the time for writing."""
    is_whole: Callable[[bytes], bool] | None = None
    """Returns whether a file has its end. None: decoding notices a missing end."""
    has_lossless_samples: Callable[[bytes], bool] | None = None
    """Returns whether a file is lossless, by its first 4096 bytes or more, in a format that can be either. None: every
    file is assumed to be lossless."""

    assumed_lossless: Assumed | None = None
    """None for a format that is never lossless."""
    assumed_lossy: Assumed | None = None
    """At the default quality. None for a format that is always lossless."""

    def holds(self, width: int, height: int) -> bool:
        """Whether a page of this width and height, in pixels, can be written."""
        pixels = self.pixel_limit()
        return max(width, height) <= self.longest_side and (pixels is None or width * height <= pixels)

    def pixel_limit(self) -> int | None:
        """Return the most pixels of a page; None if only its sides are limited."""
        return self.most_pixels if self.ask_most_pixels is None else self.ask_most_pixels()

    def is_lossless(self, quality: int | None) -> bool:
        """Return whether a page that is written with this quality is lossless."""
        return self.lossless == "always" or (self.lossless == "without-quality" and quality is None)

    def encoding(self, quality: int | None) -> str:
        """Return the name of a page's encoding: ``webp``, or ``webp-lossy`` in a format that could be lossless."""
        either = self.lossless == "without-quality"
        return f"{self.name}{LOSSY}" if either and quality is not None else self.name

    def assumed(self, quality: int | None) -> Assumed:
        """Return the assumed cost of a page that is written with this quality."""
        found = self.assumed_lossless if self.is_lossless(quality) else self.assumed_lossy
        assert found is not None, f"the assumed cost of {self.title} is missing"
        return found

    def source_is_lossless(self, head: bytes) -> bool:
        """Return whether a file of this format is lossless.

        Args:
            head: the first 4096 bytes of the file, or more.
        """
        if self.lossless != "without-quality" or self.has_lossless_samples is None:
            return self.lossless != "never"
        return self.has_lossless_samples(head)
