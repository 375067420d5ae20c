"""Archives of every kind: their common interface, their limits and their errors.

`zip_archive` and `tar_archive` jump to any member. `libarchive_archive` reads RAR, 7z and compressed tars from the
front to the back, because a page of a solid archive cannot be unpacked without the pages before it.

No member is unpacked beyond the size that the directory claims, or beyond the limits of a volume if the directory does
not claim any. If an archive is cut short, the files before the cut are read, and a note says so.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import recognise
from comic_upscale.library.incomplete import CUT_SHORT, DAMAGED_AFTER
from comic_upscale.settings.job import VolumeRules

MAX_MEMBER_BYTES = 512 << 20
"""The most bytes that one member may unpack to: it is held in memory."""

_SMALLEST_BOMB = 64 << 20

Kind: TypeAlias = Literal["file", "folder", "link", "special"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of an archive's directory."""

    name: str
    """As stored there. It may lead outside of the archive."""
    size: int
    """Unpacked bytes as declared by the directory; 0 if unknown."""
    kind: Kind = "file"
    encrypted: bool = False


class Container(Protocol):
    """An open archive. Used by one thread at a time."""

    in_order: bool
    """Whether reading goes from the front to the back: members are best read in the directory's order."""
    comment: bytes
    """The comment of the archive; empty if its kind has none."""

    @property
    def notes(self) -> Sequence[str]:
        """Faults of the archive as a whole, one sentence each. Complete after `entries`."""

    def entries(self) -> list[Entry]:
        """The directory.

        Raises:
            PageError: it cannot be understood, or exceeds a limit.
        """

    def read(self, index: int) -> bytes:
        """Return the bytes of a member by its index in the directory.

        Raises:
            PageError: it cannot be read.
        """

    def salvage(self, index: int) -> bytes:
        """Return all bytes of a member, even if its checksum is wrong.

        Raises:
            PageError: they cannot be read.
        """

    def close(self) -> None:
        """Close the file."""


class Archive(Container, Protocol):
    """A container of files."""

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces, for a member that may be too large for memory.

        Raises:
            PageError: it cannot be read, or does not have the size that the directory claims.
        """


class SupportsClose(Protocol):
    """An object that can be closed."""

    def close(self) -> object:
        """Close it."""


class Tally:
    """Adds up the declared sizes of an archive's members, and refuses a decompression bomb.

    Args:
        packed: bytes of the archive.
        rules: the limits.
    """

    def __init__(self, packed: int, rules: VolumeRules) -> None:
        self._packed = max(packed, 1)
        self._rules = rules
        self._count = 0
        self._bytes = 0

    def add(self, size: int) -> None:
        """Count a member of ``size`` bytes unpacked.

        Raises:
            PageError: ``"bomb"``; the reason names the option that raises the limit.
        """
        rules = self._rules
        self._count += 1
        self._bytes += max(size, 0)
        if self._count > rules.max_members:
            raise PageError(
                "bomb", f"The volume holds more than {rules.max_members:,} files: --max-members allows more"
            )
        if self._bytes > rules.max_unpacked:
            raise PageError(
                "bomb",
                f"The volume unpacks to more than {rules.max_unpacked:,} bytes: --max-unpacked allows more",
            )
        if self._bytes > max(_SMALLEST_BOMB, rules.max_ratio * self._packed):
            raise PageError(
                "bomb",
                f"The volume unpacks to more than {rules.max_ratio:g} times its own size, as decompression "
                "bombs do: --max-ratio allows more",
            )

    def room(self) -> int:
        """Return how many more bytes `add` accepts."""
        by_ratio = int(max(_SMALLEST_BOMB, self._rules.max_ratio * self._packed))
        return max(0, min(self._rules.max_unpacked, by_ratio) - self._bytes)


@contextlib.contextmanager
def volume_errors(what: str = "volume") -> Iterator[None]:
    """Turn whatever a library raises over a hostile archive into a ``PageError``.

    Args:
        what: what is being read, for the reason: ``"volume"`` or ``"member"``.

    Raises:
        PageError: ``"vanished"``, ``"permission"``, ``"out-of-memory"``, ``"unreadable"``, ``"damaged"``, or the one
            that was raised inside.
    """
    try:
        yield
    except PageError:
        raise
    except FileNotFoundError:
        raise PageError("vanished", "The volume is no longer there, or is a link to nowhere") from None
    except PermissionError:
        raise PageError("permission", "There is no permission to read the volume") from None
    except MemoryError:
        raise PageError("out-of-memory", f"The machine's memory was not enough to read the {what}") from None
    except RecursionError:
        raise damaged(what, "its directory is nested without end") from None
    except OSError as error:
        # EINVAL is a seek to where no byte can be: what the directory says is wrong.
        if error.errno and error.errno != errno.EINVAL:
            words = error.strerror or str(error)
            raise PageError("unreadable", f"The {what} cannot be read: {words}") from None
        raise damaged(what, error) from None
    except Exception as error:
        # bz2, lzma, tarfile and PDFium each have exceptions of their own.
        raise damaged(what, error) from None


@contextlib.contextmanager
def closing_on_error(held: SupportsClose) -> Iterator[None]:
    """Close an object if the code inside raises. Otherwise it stays open, and its new owner closes it."""
    try:
        yield
    except BaseException:
        held.close()
        raise


def damaged(what: str, error: object) -> PageError:
    """Return the error for a volume or a member that is broken."""
    lines = str(error).strip().splitlines()
    words = (lines[0].strip().rstrip(".") if lines else "") or type(error).__name__
    return PageError("damaged", f"The {what} is damaged ({words[:200]}): copy or download it again")


def encrypted() -> PageError:
    """Return the error for a volume that needs a password."""
    return PageError("encrypted", "The volume is protected by a password: unpack it with that first")


def changed() -> PageError:
    """Return the error for a volume that is no longer the one that was listed."""
    return PageError("changed", "The volume was changed during the run: run the same command again")


def too_large(size: int) -> PageError:
    """Return the error for a member that does not fit into memory."""
    return PageError(
        "too-large", f"The member has {size:,} bytes unpacked; at most {MAX_MEMBER_BYTES:,} are read"
    )


def note_cut(count: int) -> str:
    """Return the note of an archive that ends early.

    Args:
        count: the number of files before the cut.
    """
    return f"{CUT_SHORT} after {count} file(s), and the rest is missing: copy or download it again"


def note_damage(count: int) -> str:
    """Return the note of an archive that cannot be read to its end.

    Args:
        count: the number of files before the damage.
    """
    return f"{DAMAGED_AFTER} {count} file(s), and the rest cannot be found: copy or download it again"


def join_pieces(pieces: Iterator[bytes]) -> bytes:
    """Return a member as one block of bytes.

    Raises:
        PageError: ``"too-large"``: it has more than `MAX_MEMBER_BYTES`.
    """
    parts = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_MEMBER_BYTES:
            raise too_large(size)
        parts.append(piece)
    return b"".join(parts)


def kind_of_odd(*, is_link: bool, size: int, head: Callable[[], bytes]) -> Kind:
    """Return the kind of a member that does not claim to be a plain file.

    Programs fill these attributes with anything. A link holds the name of another file, so a member that holds an image
    is a file. A folder or a device holds nothing, so a member that holds something is a file.

    Args:
        is_link: whether it claims to be a link.
        size: bytes of its content.
        head: returns the first bytes of its content.
    """
    if size == 0:
        return "link" if is_link else "special"
    return "link" if is_link and recognise(head()) is None else "file"
