"""The running package as a wheel for the remote machine, with the bundled weights.

The wheel is built from the package that runs here, so it is exactly this version, whether that is a clone, an
editable install or an installed wheel.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import comic_upscale
from comic_upscale.errors import RemoteError
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.weights import locate
from comic_upscale.version import __version__

_WHEEL = "Wheel-Version: 1.0\nGenerator: comic-upscale\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_ENTRY_POINTS = "[console_scripts]\ncomic-upscale = comic_upscale.start:main\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_PACKAGE = Path(comic_upscale.__file__).parent
_SCRIPTS = _PACKAGE.parent / "scripts"


@dataclass(frozen=True, slots=True)
class Wheel:
    """The package as one file."""

    name: str
    data: bytes
    sha256: str

    @property
    def key(self) -> str:
        """A short name, unique to this content."""
        return self.sha256[:16]


def build_wheel() -> Wheel:
    """Build a wheel from the running package; the same package gives the same bytes.

    Raises:
        RemoteError: the package's own files cannot be read.
    """
    try:
        files = dict(sorted(_package_files()))
        files |= _metadata()
    except (OSError, importlib.metadata.PackageNotFoundError) as error:
        raise RemoteError(f"the files of comic-upscale cannot be read: {error}. Reinstall it") from error
    record = f"comic_upscale-{__version__}.dist-info/RECORD"
    lines = [f"{name},{_record_hash(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), data, zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return Wheel(f"comic_upscale-{__version__}-py3-none-any.whl", data, hashlib.sha256(data).hexdigest())


def _package_files() -> Iterator[tuple[str, bytes]]:
    for path in _PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"comic_upscale/{path.relative_to(_PACKAGE).as_posix()}", _content(path)
    # The bundled weights are beside the package in a clone, and inside it in a wheel.
    for model in CATALOGUE.values():
        for file in model.files:
            found = locate(file, ()) if file.bundled else None
            if found is not None:
                yield f"comic_upscale/weights/{file.name}", found.read_bytes()
    script = _SCRIPTS / "idle_watchdog.sh"
    if script.is_file():
        yield "comic_upscale/scripts/idle_watchdog.sh", _content(script)


def _content(path: Path) -> bytes:
    """Return the bytes of a file for a machine with Linux."""
    data = path.read_bytes()
    # Git for Windows may have put CRLF into the clone, which bash refuses.
    return data.replace(b"\r\n", b"\n") if path.suffix == ".sh" else data


def _metadata() -> dict[str, bytes]:
    folder = f"comic_upscale-{__version__}.dist-info"
    metadata = importlib.metadata.distribution("comic-upscale").read_text("METADATA") or ""
    # The metadata of an editable install may be older than the running version.
    head = [
        f"Version: {__version__}" if line.startswith("Version: ") else line for line in metadata.split("\n")
    ]
    return {
        f"{folder}/METADATA": "\n".join(head).encode(),
        f"{folder}/WHEEL": _WHEEL.encode(),
        f"{folder}/entry_points.txt": _ENTRY_POINTS.encode(),
    }


def _record_hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}"
