"""Our Python in a container of the other machine: its image brings Python and PyTorch, its Docker runs it.

Our folder there is mounted at its own path, so that every path means the same inside and outside; nothing else of
the machine is.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh.connection import Connection, printable_tail
from comic_upscale.execution.ssh.probe import MachineReport, probe_script, read_report

PULL_SECONDS = 1800.0
"""How long Docker may say nothing while it fetches or unpacks an image of several GB."""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,250}")

_RUN = """docker run --rm --interactive --user "$(id -u):$(id -g)" --volume @BASE@:@BASE@ --workdir @BASE@ \
--env HOME=@BASE@ --env XDG_STATE_HOME=@BASE@/state --env XDG_CACHE_HOME=@BASE@/cache"""

# A run has a name, so that there is never a second one: what a client that died has left behind is ended first.
_PYTHON = """
if [ -n "${AS:-}" ]; then
    docker rm --force "$AS" >/dev/null 2>&1
    set -- --name "$AS" @GPUS@ --entrypoint @PYTHON@ @IMAGE@ "$@"
else
    set -- --entrypoint @PYTHON@ @IMAGE@ "$@"
fi
exec @RUN@ "$@"
"""


@dataclass(frozen=True, slots=True)
class Container:
    """An image that is on the other machine, and the folder that its containers see.

    Raises:
        RemoteError: Docker could not be given such a folder.
    """

    image: str
    base: str
    """Our folder there, absolute."""
    has_gpus: bool
    """Whether the machine has cards that the run shall see."""

    def __post_init__(self) -> None:
        """Refuse what would be two words to Docker."""
        if ":" in self.base:
            raise RemoteError(
                f"a folder with a colon in its name cannot be given to a container: {self.base}; --remote-dir names "
                "another"
            )

    def shell(self, script: str) -> str:
        """A command of the machine's shell that runs a script in a container."""
        return f"{self._run()} --entrypoint sh {shlex.quote(self.image)} -c {shlex.quote(script)}"

    def python_script(self, python: str) -> str:
        """A script for ``sh`` that becomes this Python in a container, with the arguments that it is given.

        Args:
            python: its path inside.
        """
        return (
            _PYTHON.replace("@RUN@", self._run())
            .replace("@GPUS@", self._gpus())
            .replace("@PYTHON@", shlex.quote(python))
            .replace("@IMAGE@", shlex.quote(self.image))
        )

    def look(self, connection: Connection, host: MachineReport, python: str | None) -> MachineReport:
        """What can be worked with there: the machine's own disk and cards, and the image's Python.

        Raises:
            RemoteError: the image cannot be run.
        """
        ended = connection.run(
            f"{self._run()} {self._gpus()} --entrypoint sh {shlex.quote(self.image)} -s",
            feed=[probe_script(self.base, python).encode()],
            silence=PULL_SECONDS,
        )
        inside = read_report(ended.output.decode(errors="replace"))
        if inside is None:
            said = printable_tail(ended.errors) or "it said nothing"
            hint = " (the cards want the NVIDIA Container Toolkit there)" if self.has_gpus else ""
            raise RemoteError(f"{connection.address.name} could not run the image {self.image}: {said}{hint}")
        return replace(host, pythons=inside.pythons)

    def _run(self) -> str:
        return _RUN.replace("@BASE@", shlex.quote(self.base))

    def _gpus(self) -> str:
        return "--gpus all" if self.has_gpus else ""


def is_image_name(name: str) -> bool:
    """Whether this can be an image: nothing that Docker would take for an option."""
    return _IMAGE.fullmatch(name) is not None


def pull(connection: Connection, image: str) -> None:
    """Let the machine have an image, from its registry where it is not there yet.

    Raises:
        RemoteError: it cannot be had.
    """
    quoted = shlex.quote(image)
    ended = connection.run(
        f"docker image inspect {quoted} >/dev/null 2>&1 || docker pull --quiet {quoted} >/dev/null",
        silence=PULL_SECONDS,
    )
    if ended.code:
        said = printable_tail(ended.errors) or f"exit code {ended.code}"
        raise RemoteError(
            f"{connection.address.name} cannot fetch the image {image}: {said}. An image of your own goes there as a "
            f"file: docker save {image} | gzip >image.tar.gz, then --container image.tar.gz"
        )


def load(connection: Connection, archive: str) -> str:
    """Let the machine's Docker take in an image from a file there; return what it is called.

    Raises:
        RemoteError: it is none.
    """
    said = connection.check(f"docker load --input {shlex.quote(archive)}", silence=PULL_SECONDS)
    for line in reversed(said.decode(errors="replace").splitlines()):
        match = re.fullmatch(r"Loaded image(?: ID)?: (\S+)", line.strip())
        if match is not None and is_image_name(match[1]):
            return match[1]
    raise RemoteError(f"{connection.address.name} took no image from the file")
