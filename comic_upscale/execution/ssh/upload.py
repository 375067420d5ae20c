"""Sending files to a remote machine: each arrives complete or not at all, and an upload that was cut off is resumed."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.connection import COMMAND_SECONDS, Connection
from comic_upscale.execution.ssh.link import Link
from comic_upscale.settings.paths import path_text

_HASHED_A_SECOND = 50e6
"""Bytes per second that the slowest machine hashes, during which it sends nothing."""
_PIECE_BYTES = 1 << 17
_PROGRESS_SECONDS = 0.5
"""Seconds between two progress reports of an upload."""

# The shell reads no link: our folder belongs to the user, and others cannot write there.
_STATE = """
mkdir -p @FOLDER@ &&
if [ -f @PLACE@ ]; then echo there; else cat @PART@ 2>/dev/null | wc -c; fi
"""
# A lost connection leaves a part to resume from; a complete file with a wrong hash is deleted.
_APPEND = """
cat >>@PART@
[ $(wc -c <@PART@) -ge @SIZE@ ] || { echo 'the disk is full' >&2; exit 1; }
if [ "$(sha256sum <@PART@ | cut -c 1-64)" = @SHA256@ ]; then mv @PART@ @PLACE@; exit; fi
rm -f @PART@
echo 'a file was damaged on the way' >&2
exit 1
"""


class Uploader:
    """Sends files over a link.

    Args:
        link: to the machine.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.on_sent: Callable[[str, int, int], None] = _ignore_progress
        """Called now and then during an upload with name, bytes sent and total bytes."""

    def put_file(self, place: str, path: Path, sha256: str) -> None:
        """Send a file, unless it is there.

        Args:
            place: its path on the machine.
            path: of the file here.
            sha256: of the file.

        Raises:
            RemoteError: the file cannot be read or sent.
        """
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        self.put(place, sha256, size, lambda start: _pieces_of_file(path, start))

    def put(self, place: str, sha256: str, size: int, pieces: Callable[[int], Iterable[bytes]]) -> None:
        """Send the content of a file, unless it is there.

        Args:
            place: path on the machine.
            sha256: of the content.
            size: of the content, bytes.
            pieces: returns the content from a given byte on.
        """

        def fill(script: str) -> str:
            return scripts.fill(
                script,
                folder=shlex.quote(place.rpartition("/")[0]),
                place=shlex.quote(place),
                part=shlex.quote(f"{place}.part"),
                size=str(size),
                sha256=sha256,
            )

        def step(connection: Connection) -> None:
            answer = connection.check(fill(_STATE)).decode(errors="replace")
            if answer.strip() == "there":
                return
            begun = int(answer) if re.fullmatch(r"\s*\d{1,15}\s*", answer) else 0
            if begun > size:
                connection.check(fill("rm -f @PART@"))
                begun = 0
            connection.check(
                fill(_APPEND),
                feed=self._report(place.rpartition("/")[2], pieces(begun), begun, size),
                seconds=COMMAND_SECONDS + size / _HASHED_A_SECOND,
            )

        self._link.call(step)

    def _report(self, name: str, pieces: Iterable[bytes], begun: int, size: int) -> Iterator[bytes]:
        """Yield the pieces, and report the progress now and then."""
        sent, reported_at = begun, time.monotonic()
        for piece in pieces:
            yield piece
            sent += len(piece)
            if time.monotonic() - reported_at >= _PROGRESS_SECONDS:
                reported_at = time.monotonic()
                self.on_sent(name, sent, size)


def as_stream(pages: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    """Return pages as pieces of a stream: for each a line with name and size, then its bytes."""
    return pieces_of(
        b"".join(part for name, data in pages for part in (f"{name} {len(data)}\n".encode(), data))
    )


def pieces_of(data: bytes, begin: int = 0) -> Iterator[bytes]:
    """Yield data from a given byte on, in pieces."""
    view = memoryview(data)
    for start in range(begin, len(view), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        RemoteError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _pieces_of_file(path: Path, begin: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RemoteError:
    return RemoteError(f"{path_text(path)} cannot be read: {error.strerror or error}")


def _ignore_progress(name: str, done: int, total: int) -> None:
    """Do nothing with the progress of an upload."""
