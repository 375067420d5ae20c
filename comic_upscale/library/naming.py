"""Name the outputs, so that no two pages of a folder write the same file."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from comic_upscale.imaging.formats import extension_of, output_extension
from comic_upscale.library.sorting import fold, natural_key

Extension: TypeAlias = str | Callable[[str], str]
"""The extension of outputs without the dot, empty where each page keeps its own format; or a function that returns it
for the source of a page."""

_LONGEST_NAME = 250
"""The most bytes of a name. File systems allow 255, and a number may be added to make a name unique."""

_SURROGATES = re.compile("[%\ud800-\udfff]")


def extension_below(extension: Extension, prefix: str) -> Extension:
    """Return the extension of outputs for names that are the rest of a source after a prefix."""
    return extension if isinstance(extension, str) else lambda name: extension(f"{prefix}{name}")


def output_names(
    names: Iterable[str], *, extension: Extension, folders: Iterable[str] = ()
) -> dict[str, str]:
    """Name the outputs of the pages of one folder.

    The output of ``a.jpg`` is ``a.png``. If several pages would get this name, the one that already has the
    output's extension keeps it, unless there are several. The others become ``a_jpg.png``, and ``a_jpg_2.png``
    if that is taken. The result depends only on the set of names.

    Args:
        names: file names, all different.
        extension: the outputs' extension.
        folders: names of folders beside the outputs, which no output may have.

    Returns:
        The output's name for each name. No two are equal, even on file systems that ignore case or the
        normalisation of Unicode.
    """
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    wanted = (lambda _: extension) if isinstance(extension, str) else extension
    ends = {name: wanted(name) or output_extension("auto", name) for name in names}
    for name, end in ends.items():
        sharing[fold(f"{_short(_stem(name), end)}.{end}")].append(name)
    forbidden = {fold(folder) for folder in folders}
    # Every plain name counts as taken, even if no page gets it: "a_jpg.png" of a page "a.jpg" must
    # not depend on the name for a page "a_jpg.webp".
    taken = forbidden | sharing.keys()
    outputs: dict[str, str] = {}
    others: list[str] = []
    for plain, group in sharing.items():
        keepers = (
            group if len(group) == 1 else [name for name in group if name.lower().endswith(f".{ends[name]}")]
        )
        if len(keepers) != 1 or plain in forbidden:
            keepers = []
        outputs.update((name, f"{_short(_stem(name), ends[name])}.{ends[name]}") for name in keepers)
        others.extend(name for name in group if name not in keepers)
    for name in sorted(others, key=natural_key):
        # A file without an extension cannot be a page, but its name stays complete.
        marked = "_".join(filter(None, (_stem(name), extension_of(name))))
        outputs[name] = free_name(_short(marked, ends[name]), f".{ends[name]}", taken)
        taken.add(fold(outputs[name]))
    return outputs


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Name the output folders of sibling folders: ``Vol``, and then ``vol_2`` for ``vol``.

    Args:
        names: folder names, all different.

    Returns:
        The output folder's name for each name, unique in the same way as for ``output_names``.
    """
    ordered = sorted(names, key=natural_key)
    plain = {fold(name) for name in ordered}
    taken: set[str] = set()
    outputs: dict[str, str] = {}
    for name in ordered:
        outputs[name] = name if fold(name) not in taken else free_name(name, "", plain | taken)
        taken.add(fold(outputs[name]))
    return outputs


def valid_names(names: Collection[str]) -> dict[str, str]:
    r"""Give every name of a folder a unique form that is valid Unicode.

    Valid names stay unchanged. In the others, which Python marks with surrogates, a byte that is not valid
    becomes ``%FF``, and the percent sign itself becomes ``%25``.
    """
    valid = {name: name for name in names if is_valid(name)}
    for name in sorted(set(names) - valid.keys()):
        escaped = _SURROGATES.sub(_escape, name)
        # Another file may really have this name.
        while escaped in valid:
            escaped = f"%{escaped}"
        valid[name] = escaped
        valid[escaped] = escaped
    return {name: valid[name] for name in names}


def free_name(stem: str, suffix: str, taken: Collection[str]) -> str:
    """Return ``stem + suffix``, or with ``_2``, ``_3``, ... after the stem if that is taken.

    Args:
        stem: the name without its suffix.
        suffix: the fixed end of the name, with its dot.
        taken: folded names.
    """
    name = f"{stem}{suffix}"
    return name if fold(name) not in taken else free_number(stem, suffix, taken)[0]


def free_number(stem: str, suffix: str, taken: Collection[str], *, after: int = 1) -> tuple[str, int]:
    """Return ``stem_N + suffix`` that is not taken, and its N.

    Args:
        stem: the name without what must stay at its end.
        suffix: what must stay at the end, with its dot.
        taken: folded names.
        after: the last N that is known to be taken, for many names of one stem.
    """
    number = after + 1
    while fold(f"{stem}_{number}{suffix}") in taken:
        number += 1
    return f"{stem}_{number}{suffix}", number


def _stem(name: str) -> str:
    stem, dot, _ = _without_end(name).rpartition(".")
    return stem if dot and stem else name


def _without_end(name: str) -> str:
    """Return a name without the spaces and dots at its end, which `extension_of` passes over."""
    return name.rstrip(" .") or name


def _short(stem: str, extension: str) -> str:
    """Return the stem, shortened and marked with a hash if the name would be too long for a file system."""
    room = _LONGEST_NAME - len(extension) - 1
    encoded = stem.encode()
    if len(encoded) <= room:
        return stem
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
    return encoded[: room - len(mark)].decode(errors="ignore") + mark


def is_valid(name: str) -> bool:
    """Return whether a name is valid Unicode, without the surrogates that stand for bytes of an unknown encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"%{code - 0xDC00:02X}"
    return "%25" if match[0] == "%" else f"%u{code:04X}"
