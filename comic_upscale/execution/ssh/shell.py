"""One clean shell for every command on a remote machine, whatever login shell the user has there.

The SSH server gives a command to the login shell. That may be fish or tcsh, which quote differently, and its start-up
file may print something. So the login shell gets one constant line, which means the same to every shell. It starts
``/bin/sh``, which reads the script from its standard input, by the byte, so that the rest stays for the script. The
script first prints a marker; everything before the marker is not ours.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from comic_upscale.errors import RemoteError

MOST_NOISE_BYTES = 1 << 20
"""How much a login shell may print before the marker."""

# Only characters that all shells read alike within single quotes: no quote, backslash, exclamation mark or line end.
_LINE = """exec /bin/sh -c 'eval "$(dd bs=1 count={count} 2>/dev/null)"'"""

# The start-up file may have changed the folder, and the mask may let everybody read what we write.
_BEGIN = """\
umask 077
cd "${{HOME:-/}}" 2>/dev/null || :
printf '%s\\n' {marker}
printf '%s\\n' {marker} >&2
"""


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A script in the form that every login shell can start."""

    line: str
    """The command for the SSH server."""
    input: bytes
    """The beginning of its standard input."""
    marker: bytes
    """The line that precedes the output of the script, on both streams."""


def in_clean_shell(script: str) -> ShellCommand:
    """Return a command that runs a script in a clean ``sh``, in the home folder.

    Args:
        script: for ``sh``; its standard input is what follows the command's.
    """
    marker = f"comic-upscale-{secrets.token_hex(16)}"
    text = (_BEGIN.format(marker=marker) + script).encode(errors="surrogateescape")
    return ShellCommand(_LINE.format(count=len(text)), text, marker.encode() + b"\n")


@dataclass(slots=True)
class AfterMarker:
    """Passes on what follows the marker in a stream."""

    marker: bytes
    found: bool = False
    """Whether the marker has come."""
    before: bytearray = field(default_factory=bytearray)
    """What came before the marker, which is noise of the login shell, or its error message."""

    def take(self, piece: bytes) -> bytes:
        """Return the part of a piece that follows the marker.

        Raises:
            RemoteError: there is no marker after a lot of noise.
        """
        if self.found:
            return piece
        self.before += piece
        at = self.before.find(self.marker)
        if at < 0:
            if len(self.before) > MOST_NOISE_BYTES:
                raise RemoteError("the login shell of the remote machine prints without end")
            return b""
        self.found = True
        rest = bytes(self.before[at + len(self.marker) :])
        del self.before[at:]
        return rest
