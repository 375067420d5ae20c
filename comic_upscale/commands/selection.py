"""Which pages a command is about: ``run PAGES...``, ``--from-file``, ``--input``.

All of them become one input and a `Selection` of it. The input is the folder that the pages share, or the input of the
job that the output folder belongs to.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from comic_upscale.errors import InputError, LedgerError, SettingsError
from comic_upscale.settings.paths import absolute, default_ledger, path_text
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.selection import Selection
from comic_upscale.settings.selection_options import PAGES as PANEL

Pages = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PAGES]...", show_default=False,
        help="Images, volumes and folders. One of them is the input. Of several, the input is the folder that they "
        "share, or --input. Other files of that folder are left alone.",
    ),
]  # fmt: skip
FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from-file", metavar="FILE|-", rich_help_panel=PANEL,
        help="Also read PAGES from a file, or from standard input with -. One on each line, or separated by NUL as "
        "from `find -print0`.",
    ),
]  # fmt: skip


def with_pages(
    given: Mapping[str, Any], pages: Iterable[Path] | None, from_file: Path | None
) -> dict[str, Any]:
    """Return options with the input and the selection that the named pages give.

    Args:
        given: options by name.
        pages: the pages named on the command line.
        from_file: a file that lists more pages; ``-`` for standard input.

    Raises:
        SettingsError: neither an input nor a page is given.
        InputError: a page does not exist, or is outside of the input.
    """
    named = [absolute(found) for page in pages or () for found in expand_patterns(page)]
    if from_file is not None:
        named += [absolute(page) for page in _read_list(from_file)]
    values = dict(given)
    if not named:
        if values.get("input") is None:
            raise SettingsError(
                "nothing to upscale is named: give images, volumes or folders, or --input PATH"
            )
        return values
    named = list(dict.fromkeys(named))
    if any(is_bucket(page) for page in named):
        return {**values, "input": _only_bucket(named, values)}
    for page in named:
        if not os.path.lexists(page):
            raise InputError(f"{path_text(page)} does not exist: check the path")
    selection = values.get("selection") or Selection()
    values["input"] = folder = _choose_input(named, values)
    names = _NamesOnDisk()
    paths = () if folder in named else tuple(dict.fromkeys(_source_of(page, folder, names) for page in named))
    values["selection"] = replace(selection, paths=paths)
    return values


def expand_patterns(page: Path) -> list[Path]:
    """Return the files that a pattern such as ``*.cbz`` means on Windows, and any other page as it is.

    There the shell leaves patterns to the program. A bracket stands for itself, as everywhere on Windows.
    """
    text = str(page)
    if os.name != "nt" or not set("*?") & set(text):
        return [page]
    found = glob.glob(text.replace("[", "[[]"), recursive=True)  # noqa: PTH207 - it takes absolute patterns, too
    return sorted(map(Path, found)) or [page]


def _only_bucket(named: Sequence[Path], values: Mapping[str, Any]) -> Path:
    """Return the place in a bucket that is the whole input."""
    if len(named) > 1 or values.get("input") is not None:
        raise SettingsError(
            "a place in a bucket is the whole input: name it alone, and choose pages with --include or --exclude"
        )
    return named[0]


def _read_list(path: Path) -> list[Path]:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path_text(path)} cannot be read: {error.strerror or error}") from error
    text = _decode_list(content, path)
    names = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    pages = [Path(name) for name in names if name]
    if not pages:
        raise InputError(f"{path_text(path)} names no page")
    return pages


def _decode_list(content: bytes, path: Path) -> str:
    """Return the text of a list of pages: UTF-8, or UTF-16 as PowerShell writes it, or as names are on this system."""
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        content = content.removeprefix(codecs.BOM_UTF8)
        # Elsewhere, names are any bytes.
        return content.decode() if os.name == "nt" else os.fsdecode(content)
    except UnicodeDecodeError:
        # The encoding of cmd differs from that of PowerShell, and between countries.
        raise InputError(
            f"{path_text(path)} is neither UTF-8 nor UTF-16: write the list as UTF-8, in PowerShell with "
            "`Out-File -Encoding utf8`, in cmd after `chcp 65001`"
        ) from None


def _choose_input(named: Sequence[Path], values: Mapping[str, Any]) -> Path:
    """Return the input of the job: the given one, that of the job in the output folder, or what the pages share."""
    if values.get("input") is not None:
        folder = absolute(values["input"])
        for page in named:
            if not page.is_relative_to(folder):
                raise InputError(
                    f"{path_text(page)} is outside of the input {path_text(folder)}: choose an --input above all pages"
                )
        return folder
    recorded = _recorded_input(values)
    if recorded is not None:
        outside = [page for page in named if not page.is_relative_to(recorded)]
        if not outside:
            return recorded
        if recorded.exists():
            raise InputError(
                f"{path_text(outside[0])} is outside of {path_text(recorded)}, the input of the job in this output "
                "folder: choose another --output, or begin another job there with --input"
            )
    if len(named) == 1:
        return named[0]
    try:
        shared = Path(os.path.commonpath(named))
    except ValueError:
        raise InputError("the pages are on different drives: run the command once for each drive") from None
    if shared in named and not shared.is_dir():
        shared = shared.parent
    if shared == Path(shared.anchor):
        raise InputError(
            f"the pages share no folder but {shared}: run the command once for each, or name the folder with --input"
        )
    return shared


def _recorded_input(values: Mapping[str, Any]) -> Path | None:
    """Return the input of the newest job of the given output folder; None if there is no job."""
    from comic_upscale.ledger.queries import read_job_header

    output, ledger = values.get("output"), values.get("ledger")
    if output is None and ledger is None:
        return None
    path = absolute(ledger) if ledger is not None else default_ledger(absolute(Path(str(output))))
    # Whoever opens the ledger to write reports its faults.
    with contextlib.suppress(InputError, LedgerError):
        return Path(read_job_header(path)["input"])
    return None


class _NamesOnDisk:
    """Names as discovery finds them. Windows and macOS also find a file by its name in another case."""

    def __init__(self) -> None:
        self._listed: dict[Path, frozenset[str]] = {}

    def of(self, folder: Path, relative: Path) -> Iterator[str]:
        """Yield the name on disk of each part of a path below a folder."""
        for part in relative.parts:
            name = self._find(folder, part)
            yield name
            folder = folder / name

    def _find(self, folder: Path, name: str) -> str:
        with contextlib.suppress(OSError):
            if folder not in self._listed:
                self._listed[folder] = frozenset(os.listdir(folder))  # noqa: PTH208 - names, not paths
            names = self._listed[folder]
            if name not in names:
                alike = [other for other in names if _folded(other) == _folded(name)]
                return next((other for other in alike if (folder / other).samefile(folder / name)), name)
        return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _source_of(page: Path, folder: Path, names: _NamesOnDisk) -> str:
    """Return the source of a page in an input, as discovery names it.

    A folder that is also in the input itself has its own name there, and not that of a link to it.
    """
    from comic_upscale.library.naming import valid_names

    real = page.parent.resolve() / page.name
    root = folder.resolve()
    if page.is_dir():
        real = page.resolve()
    relative = (
        real.relative_to(root) if real.is_relative_to(root) and real != root else page.relative_to(folder)
    )
    return "/".join(valid_names([part])[part] for part in names.of(folder, relative))
