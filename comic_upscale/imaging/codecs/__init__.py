"""The output formats. Each has its own module here, whose ``FORMAT`` describes it.

To add a format, add its name to ``FormatName`` in the settings, and a module of that name here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from comic_upscale.imaging.codecs.base import LOSSY, Assumed, OutputFormat
from comic_upscale.settings.job import FORMATS as ASKED
from comic_upscale.settings.job import FormatName

_NAMES: tuple[FormatName, ...] = tuple(name for name in ASKED if name != "auto")


class _Formats(Mapping[FormatName, OutputFormat]):
    """The formats by name, in the order of the settings. A module is imported when its format is first used."""

    def __getitem__(self, name: FormatName) -> OutputFormat:
        if name not in _NAMES:
            raise KeyError(name)
        return _load(name)

    def __iter__(self) -> Iterator[FormatName]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


@cache
def _load(name: FormatName) -> OutputFormat:
    format: OutputFormat = import_module(f"{__name__}.{name}").FORMAT
    return format


FORMATS: Mapping[FormatName, OutputFormat] = _Formats()


def find_assumed(encoding: str) -> Assumed | None:
    """Return the assumed cost of a page; None for ``auto`` and for an encoding that this version does not know.

    Args:
        encoding: as `OutputFormat.encoding` names it.
    """
    for format in FORMATS.values():
        if encoding == format.name:
            return format.assumed_lossless or format.assumed_lossy
        if encoding == f"{format.name}{LOSSY}":
            return format.assumed_lossy
    return None
