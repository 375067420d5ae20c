"""Standard output and error without control characters: all text for people goes through here.

A terminal obeys control characters, and names of files, texts of ledgers and answers of remote machines are not
trusted. `Escaping` wraps the two streams once, at the start of the program. Text that rich lays out has control
sequences of its own, so rich writes to the stream itself, and `make_console` escapes the text that it lays out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from comic_upscale.console.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import Console


class Escaping(io.TextIOBase):
    r"""A text stream that writes control characters as ``\x1b``; line ends stay.

    Args:
        stream: writes the text. Its other attributes are this stream's, too; ``buffer`` takes bytes as they are.
    """

    def __init__(self, stream: TextIO) -> None:
        # The name by which rich finds the stream below a wrapper.
        self.rich_proxied_file = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self.rich_proxied_file.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream."""
        return self.rich_proxied_file.errors

    def write(self, text: str) -> int:
        """Write text with its control characters escaped."""
        self.rich_proxied_file.write(printable_lines(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.rich_proxied_file.flush()

    def fileno(self) -> int:
        """Of the stream."""
        return self.rich_proxied_file.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.rich_proxied_file.isatty()

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def close(self) -> None:
        """Flush; standard streams stay open."""
        self.flush()


def make_console(*, stderr: bool = False, highlight: bool = False) -> Console:
    """Return a rich console that escapes control characters in all text.

    Args:
        stderr: write to standard error.
        highlight: colour numbers and names.
    """
    from rich.console import Console
    from rich.segment import Segment

    class EscapingConsole(Console):
        def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*arguments, **options):
                # Movements of the cursor are segments of their own.
                yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)

    console = EscapingConsole(stderr=stderr, highlight=highlight)
    # Settled now: while rich shows something live, it wraps the stream once more, and would find ours under its own.
    console.file = console.file
    return console
