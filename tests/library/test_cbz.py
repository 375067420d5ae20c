"""A CBZ among the outputs that somebody damaged or packed anew: its pages are not found, and nothing else happens."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from comic_upscale.library.cbz import find_member
from comic_upscale.storage.local import LocalOutputStore

PAGE = bytes(range(256)) * 40
METHOD, FLAGS, VERSION = 8, 6, 4
"""Where these stand in a local header; two bytes further on in the directory."""


def packed(method: int) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.png", PAGE)
    return bytearray(file.getvalue())


def with_field(data: bytearray, place: int, value: int) -> bytearray:
    """Set a field of two bytes, in the header of the member and in the directory."""
    directory = data.index(b"PK\1\2")
    for at in (place, directory + place + 2):
        data[at : at + 2] = value.to_bytes(2, "little")
    return data


def with_broken_data(data: bytearray) -> bytearray:
    begin = data.index(b"a.png") + len(b"a.png")
    data[begin + 8 : begin + 40] = b"\xff" * 32
    return data


DAMAGED = {
    "deflated data": with_broken_data(packed(zipfile.ZIP_DEFLATED)),
    "data of LZMA": with_broken_data(packed(zipfile.ZIP_LZMA)),
    "data of bzip2": with_broken_data(packed(zipfile.ZIP_BZIP2)),
    "an unknown method": with_field(packed(zipfile.ZIP_STORED), METHOD, 77),
    "of a later version": with_field(packed(zipfile.ZIP_STORED), VERSION, 99),
    "encrypted": with_field(packed(zipfile.ZIP_STORED), FLAGS, 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_member_that_cannot_be_read_is_not_found(tmp_path: Path, damage: str) -> None:
    (tmp_path / "v.cbz").write_bytes(DAMAGED[damage])
    sha256 = hashlib.sha256(PAGE).hexdigest()
    assert find_member(LocalOutputStore(tmp_path), "v.cbz", "a.png", len(PAGE), sha256) is None


def test_a_member_that_was_packed_anew_is_found(tmp_path: Path) -> None:
    (tmp_path / "v.cbz").write_bytes(packed(zipfile.ZIP_DEFLATED))
    sha256 = hashlib.sha256(PAGE).hexdigest()
    assert find_member(LocalOutputStore(tmp_path), "v.cbz", "other.png", len(PAGE), sha256) == "a.png"
