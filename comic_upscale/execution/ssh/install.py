"""What a remote machine needs before a job: the package, the weights, and perhaps an image."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.container import Container, is_image_name, load
from comic_upscale.execution.ssh.link import Link
from comic_upscale.execution.ssh.probe import MachineReport
from comic_upscale.execution.ssh.upload import Uploader, hash_of_file, pieces_of
from comic_upscale.execution.ssh.wheel import Wheel, build_wheel
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.version import __version__

INSTALL_SECONDS = 3600.0
"""How long an installation may take: PyTorch is several GB."""


@dataclass(frozen=True, slots=True)
class Package:
    """This version of the package, for a Python of the machine."""

    wheel: Wheel
    python: str
    """The Python that the environment is based on."""
    key: str
    """The name of its environment: another package, Python or image has another one."""

    @classmethod
    def of(cls, report: MachineReport, image: str) -> Package:
        """Build the package for a machine.

        Args:
            report: of the machine, without errors.
            image: the image that has the Python; empty without a container.
        """
        wheel, python = build_wheel(), report.python
        assert python is not None
        key = hashlib.sha256(f"{wheel.sha256} {python.path} {image}".encode()).hexdigest()[:16]
        return cls(wheel, python.path, key)


def install(
    link: Link,
    uploader: Uploader,
    package: Package,
    environment: str,
    report: MachineReport,
    container: Container | None,
) -> None:
    """Install the package into an environment of its own, unless it is there.

    Args:
        link: to the machine.
        uploader: over the link.
        package: to install.
        environment: the folder of the environment there.
        report: of the machine.
        container: where the Python is; None for the machine itself.

    Raises:
        RemoteError: the installation failed.
    """
    if link.run(f"test -f {shlex.quote(environment)}/.ready").code == 0:
        return
    wheel = package.wheel
    place = f"{environment}/{wheel.name}"
    uploader.put(place, wheel.sha256, len(wheel.data), lambda start: pieces_of(wheel.data, start))
    script = scripts.fill(
        scripts.INSTALL,
        environment=shlex.quote(environment),
        parent=shlex.quote(package.python),
        wheel=shlex.quote(place),
        version=__version__,
        torch=install_torch(report),
    )
    if container is not None:
        script = container.shell(script)
    try:
        link.check(script, seconds=INSTALL_SECONDS)
    except RemoteError as error:
        if type(error) is not RemoteError:
            raise
        raise RemoteError(f"comic-upscale could not be installed: {error}") from error


def install_torch(report: MachineReport) -> str:
    """Return the command that installs PyTorch for an older driver; empty where none is needed."""
    python, index = report.python, report.torch_index
    if python is None or python.torch or index is None:
        return ""
    return (
        "bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore "
        f"--index-url {shlex.quote(index)} torch torchvision >&2"
    )


def send_weights(uploader: Uploader, base: str, weights: ResolvedWeights) -> tuple[str, str | None]:
    """Send the weights, unless they are there or part of the package.

    Args:
        uploader: to the machine.
        base: our folder there.
        weights: those of the job.

    Returns:
        The model for the remote run, and the folder of the weights if the run needs it.
    """
    if weights.model is not None and weights.model.weights.bundled:
        return weights.model_name, None
    folder = f"{base}/weights/{weights.identity[:16]}"
    if weights.model is None:
        place = f"{folder}/model{weights.path.suffix.lower()}"
        uploader.put_file(place, weights.path, weights.sha256)
        return place, None
    uploader.put_file(f"{folder}/{weights.model.weights.name}", weights.path, weights.sha256)
    if weights.denoise_path is not None and weights.model.denoise_weights is not None:
        name = weights.model.denoise_weights.name
        uploader.put_file(f"{folder}/{name}", weights.denoise_path, str(weights.denoise_sha256))
    return weights.model_name, folder


def load_image(link: Link, uploader: Uploader, folder: str, path: Path) -> str:
    """Send an image from a local file, once, and return its name there.

    Args:
        link: to the machine.
        uploader: over the link.
        folder: for images and their names, there.
        path: the file here.
    """
    sha256 = hash_of_file(path)
    place = f"{folder}/{sha256[:16]}"
    answer = link.check(f"cat {shlex.quote(place)}.name 2>/dev/null; true")
    name = answer.decode(errors="replace").strip()
    if is_image_name(name):
        found = link.run(f"docker image inspect {shlex.quote(name)} >/dev/null 2>&1")
        if found.code == 0:
            return name
    uploader.put_file(f"{place}.tar", path, sha256)
    image = link.call(lambda connection: load(connection, f"{place}.tar"))
    link.check(
        f"cat >{shlex.quote(place)}.name && rm -f {shlex.quote(place)}.tar",
        feed=lambda: [image.encode()],
    )
    return image
