"""The program of another project as a subprocess: found, bounded in time and in what is read, and never trusted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from comic_upscale.errors import ProviderError, SettingsError
from comic_upscale.processes import kill_session, own_session

MOST_OUTPUT_BYTES = 32 << 20
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """What a program left behind."""

    code: int
    """Its exit code; below 0 for a signal."""
    out: str
    err: str

    @property
    def words(self) -> str:
        """The last line that it printed about its failure, as one printable line of at most 500 characters."""
        lines = [line for text in (self.out, self.err) for line in text.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {self.code}"
        return "".join(char if char.isprintable() else " " for char in last).strip()[:500]


def find_program(name: str, install: str) -> str:
    """Return the path of a program.

    Args:
        name: of the program, or its path.
        install: how to install it, for the message.

    Raises:
        SettingsError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise SettingsError(f"the program {name!r} is not found: {install}")
    return found


def call_program(path: str, arguments: Sequence[str], seconds: float) -> ProgramAnswer:
    """Run a program without a terminal and without input, and return its answer.

    It has a session of its own, so that Ctrl-C in our terminal does not reach it: an end of a machine goes on.

    Args:
        path: of the program.
        arguments: for it.
        seconds: after which it is killed.

    Raises:
        ProviderError: it cannot be started, or took too long.
    """
    # Files, not pipes: a server that the program leaves behind would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                [path, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, **own_session()
            )  # fmt: skip
        except OSError as error:
            raise ProviderError(f"{path} cannot be started: {error.strerror or error}") from None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProviderError(f"{path} {arguments[0]} did not answer within {seconds:.0f} s") from None
        finally:
            _stop(process)
        return ProgramAnswer(code, _read(out), _read(err))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that still runs, with all that it started in its session."""
    if process.poll() is None:
        kill_session(process)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return plain(file.read(MOST_OUTPUT_BYTES).decode(errors="replace"))


def plain(text: str) -> str:
    """Return an output without its colours."""
    return _COLOURS.sub("", text)


def json_in(text: str) -> Any:
    """Return the list or object of JSON at the end of an output, which may begin with other lines.

    Raises:
        ValueError: there is none, or it is incomplete.
    """
    for start in re.finditer(r"^[\[{]", text, re.MULTILINE):
        try:
            return json.loads(text[start.start() :])
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError:
            continue
    raise ValueError("there is no JSON")
