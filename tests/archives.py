"""Archives of all kinds, well-formed and hostile, made where they are needed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

try:
    import libarchive
except Exception:  # the binding is there, and the system's library is not
    libarchive = None

needs_libarchive = pytest.mark.skipif(
    libarchive is None, reason="libarchive is not installed: apt-get install libarchive13"
)

Members = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def picture(seed: int, size: tuple[int, int] = (24, 32), format: str = "PNG") -> bytes:
    """An image file of noise that no other seed gives."""
    samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, format)
    return buffer.getvalue()


def pictures(count: int, seed: int = 0) -> dict[str, bytes]:
    """Pages ``p01.png``, ``p02.png`` and so on, in two shapes."""
    return {f"p{at + 1:02}.png": picture(1000 * seed + at, (24 + at % 2, 32)) for at in range(count)}


def _pairs(members: Members) -> Iterable[tuple[str, bytes]]:
    return members.items() if isinstance(members, Mapping) else members


def make_zip(path: Path, members: Members, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in _pairs(members):
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: Members, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in _pairs(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_7z(path: Path, members: Members, options: str = "compression-level=1") -> Path:
    """A solid 7z, by libarchive; a skip where that is missing."""
    if libarchive is None:
        pytest.skip("libarchive is not installed: apt-get install libarchive13")
    path.parent.mkdir(parents=True, exist_ok=True)
    with libarchive.file_writer(str(path), "7zip", options=options) as archive:
        for name, data in _pairs(members):
            archive.add_file_from_memory(name, len(data), data)
    return path


def encrypt_flags(path: Path, name: str = "") -> Path:
    """Mark every member of a ZIP, or those of a name, as encrypted, and make their content unreadable."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.startswith(name):
                start = info.header_offset + 30 + len(info.filename.encode()) + len(info.extra)
                data[start : start + info.compress_size] = bytes(
                    byte ^ 0x5A for byte in data[start : start + info.compress_size]
                )
    for magic, at, name_at in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        start = data.find(magic)
        while start >= 0:
            if data.startswith(name.encode(), start + name_at):
                data[start + at] |= 1
            start = data.find(magic, start + 4)
    path.write_bytes(bytes(data))
    return path


def break_checksum(path: Path, *names: str) -> Path:
    """Let the checksums of members of a ZIP be wrong, in the directory and before the members; the bytes are right."""
    with zipfile.ZipFile(path) as archive:
        wrong = {archive.getinfo(name).CRC.to_bytes(4, "little") for name in names}
    data = path.read_bytes()
    for checksum in wrong:
        data = data.replace(checksum, bytes(byte ^ 0xFF for byte in checksum))
    path.write_bytes(data)
    return path


def rename_in_zip(path: Path, old: bytes, new: bytes) -> Path:
    """Put other bytes of the same length into the place of a name, as programs without manners write them."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def read_cbz(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


EPUB_CONTAINER = b"""<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OPS/package.opf"/></rootfiles></container>"""


def epub(
    spine: list[tuple[str, str]], files: dict[str, bytes], *, metadata: str = "", direction: str = "ltr"
) -> dict[str, bytes]:
    items = "".join(f'<item id="{name}" href="{href}"/>' for name, href in spine)
    order = "".join(f'<itemref idref="{name}"/>' for name, _ in spine)
    package = (
        f"<package xmlns='http://www.idpf.org/2007/opf'><metadata xmlns:dc='http://purl.org/dc/elements/1.1/'>"
        f"{metadata}</metadata><manifest>{items}</manifest>"
        f"<spine page-progression-direction='{direction}'>{order}</spine></package>"
    )
    return {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": EPUB_CONTAINER,
        "OPS/package.opf": package.encode(),
        **files,
    }


def as_jpeg_pdf(path: Path, *images: Image.Image) -> Path:
    first, *others = images
    first.save(path, "PDF", save_all=True, append_images=others, resolution=100, quality=90)
    return path


def smooth(size: tuple[int, int]) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB").rotate(3)
