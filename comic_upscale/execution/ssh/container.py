"""Our Python in a container on the remote machine: an image with Python and PyTorch, run by Docker.

Only our folder is mounted, at its own path, so every path means the same inside and outside the container.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.connection import Connection, printable_tail
from comic_upscale.execution.ssh.probe import MachineReport, probe_script, read_report

PULL_SECONDS = 3600.0
"""How long Docker may take to pull or unpack an image of several GB."""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,250}")

_RUN = """docker run --rm --interactive --user "$(id -u):$(id -g)" --volume @BASE@:@BASE@ --workdir @BASE@ \
--env HOME=@BASE@ --env XDG_STATE_HOME=@BASE@/state --env XDG_CACHE_HOME=@BASE@/cache"""

# A run's container has a name, so there is never a second one: a container left by a client that died is removed first.
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
    """An image on the remote machine, and the folder that its containers see.

    Raises:
        RemoteError: Docker cannot mount this folder.
    """

    image: str
    base: str
    """Our folder there, absolute."""
    has_gpus: bool
    """Whether the machine has GPUs for the run."""

    def __post_init__(self) -> None:
        """Refuse a folder name that Docker would split."""
        if ":" in self.base:
            raise RemoteError(
                f"Docker cannot mount a folder with a colon in its name: {self.base}; choose another one with "
                "--remote-dir"
            )

    def shell(self, script: str) -> str:
        """Return a shell command that runs a script in a container."""
        return f"{self._run()} --entrypoint sh {shlex.quote(self.image)} -c {shlex.quote(script)}"

    def python_script(self, python: str) -> str:
        """Return a script for ``sh`` that runs this Python in a container, with the arguments of the script.

        Args:
            python: its path in the container.
        """
        return scripts.fill(
            _PYTHON,
            run=self._run(),
            gpus=self._gpus(),
            python=shlex.quote(python),
            image=shlex.quote(self.image),
        )

    def probe(self, connection: Connection, host: MachineReport, python: str | None) -> MachineReport:
        """Return a report of the machine's own disk and GPUs, and of the Python of the image.

        Raises:
            RemoteError: the image cannot be run.
        """
        ended = connection.run(
            f"{self._run()} {self._gpus()} --entrypoint sh {shlex.quote(self.image)} -s",
            feed=[probe_script(self.base, python).encode()],
            seconds=PULL_SECONDS,
        )
        inside = read_report(ended.output.decode(errors="replace"))
        if inside is None:
            message = printable_tail(ended.errors) or "no message"
            hint = " (its GPUs need the NVIDIA Container Toolkit)" if self.has_gpus else ""
            raise RemoteError(
                f"{connection.address.name} could not run the image {self.image}: {message}{hint}"
            )
        return replace(host, pythons=inside.pythons)

    def _run(self) -> str:
        return scripts.fill(_RUN, base=shlex.quote(self.base))

    def _gpus(self) -> str:
        return "--gpus all" if self.has_gpus else ""


def is_image_name(name: str) -> bool:
    """Return whether this can be the name of an image, and not an option of Docker."""
    return _IMAGE.fullmatch(name) is not None


def pull(connection: Connection, image: str) -> None:
    """Pull an image on the machine, unless it is there.

    Raises:
        RemoteError: it cannot be pulled.
    """
    quoted = shlex.quote(image)
    ended = connection.run(
        f"docker image inspect {quoted} >/dev/null 2>&1 || docker pull --quiet {quoted} >/dev/null",
        seconds=PULL_SECONDS,
    )
    if ended.code:
        message = printable_tail(ended.errors) or f"exit code {ended.code}"
        raise RemoteError(
            f"{connection.address.name} cannot pull the image {image}: {message}. Send a local image as a "
            f"file: docker save {image} | gzip >image.tar.gz, then --container image.tar.gz"
        )


def load(connection: Connection, archive: str) -> str:
    """Load an image from a file on the machine into its Docker, and return the name of the image.

    Raises:
        RemoteError: the file contains no image.
    """
    output = connection.check(f"docker load --input {shlex.quote(archive)}", seconds=PULL_SECONDS)
    for line in reversed(output.decode(errors="replace").splitlines()):
        match = re.fullmatch(r"Loaded image(?: ID)?: (\S+)", line.strip())
        if match is not None and is_image_name(match[1]):
            return match[1]
    raise RemoteError(f"{connection.address.name} found no image in the file")
