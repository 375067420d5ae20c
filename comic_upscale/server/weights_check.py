"""The check of uploaded weights: a child process loads them as a network, tensors alone, and says what they are.

The server itself never loads weights. The child has none of its secrets, and a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.processes import own_session
from comic_upscale.server.files import FileStore, in_words
from comic_upscale.server.ids import new_id
from comic_upscale.server.params import FieldError

SECONDS = 120.0
"""How long the child may take."""
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """What a file of weights is."""

    architecture: str
    """Such as ``Compact``."""
    native_scale: int
    """The network's own factor."""


class WeightsCheck:
    """Checks weights in child processes.

    Args:
        command: a program that takes the path of a file and prints JSON, as ``comic-upscale models check --json`` does.
        environment: all variables of the child.
        folder: for links to the files, which get names with an extension there.
        seconds: how long a check may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        seconds: float = SECONDS,
    ) -> None:
        self._command, self._environment = command, environment
        self._folder, self._seconds = folder, seconds

    async def check(self, store: FileStore, key: str) -> CheckedWeights:
        """Return what stored weights are.

        Raises:
            FieldError: they are no network that can be used, in words for whoever sent them.
            OutputError: they cannot be copied to this machine.
        """
        folder = self._folder / new_id()
        try:
            path = await asyncio.to_thread(_fetch, store, key, folder)
            return _read(*await self._run(path), path)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _run(self, path: Path) -> tuple[int, bytes, bytes]:
        child = await asyncio.create_subprocess_exec(
            *self._command, str(path), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=dict(self._environment), **own_session(),
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._seconds):
                out, errors = await child.communicate()
        except TimeoutError:
            raise FieldError(
                "file", "the check of these weights took too long: they are too large for this server"
            ) from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return child.returncode or 0, out, errors


def _fetch(store: FileStore, key: str, folder: Path) -> Path:
    """Put weights into a folder under a name with the extension by which they are loaded."""
    try:
        folder.mkdir(parents=True)
        path = folder / "weights"
        store.fetch(key, path)
        with path.open("rb") as file:
            head = file.read(9)
        # A safetensors file begins with the length of its JSON header.
        return path.rename(path.with_suffix(".safetensors" if head[8:] == b"{" else ".pth"))
    except OSError as error:
        raise in_words(error) from error


def _read(code: int, out: bytes, errors: bytes, path: Path) -> CheckedWeights:
    try:
        found = json.loads(out)
        return CheckedWeights(str(found["architecture"])[:64], int(found["native_scale"]))
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    message = lines[-1] if lines and code > 0 else "the check ended without a result"
    message = message.removeprefix("error: ").replace(str(path), "the file").replace(f"{path.parent}/", "")
    raise FieldError("file", f"these weights cannot be used: {message[:_LONGEST]}")
