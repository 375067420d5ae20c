"""JPEG and JPEG 2000 files that lack only their end, and those that lack more."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode

LIMIT = 10_000_000
NOTE = ("the end of the file is missing",)

KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "gray": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "subsampled": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "coarse": {"quality": 5},
}


def drawing(size: tuple[int, int] = (83, 61)) -> Image.Image:
    """Blurred noise: every block holds something, to the last one."""
    samples = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(samples).filter(ImageFilter.GaussianBlur(2))


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    drawing().convert(mode).save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def failure(data: bytes) -> PageError:
    with pytest.raises(PageError) as caught:
        decode(data, max_pixels=LIMIT)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_its_last_marker(kind: str) -> None:
    data = jpeg(**KINDS[kind])  # type: ignore[arg-type]
    whole = decode(data, max_pixels=LIMIT)
    # Cut off, half cut off, and overwritten by a copy that reserved room.
    for cut in (data[:-2], data[:-1], data[:-2] + bytes(4096)):
        result = decode(cut, max_pixels=LIMIT)
        assert (result.color == whole.color).all()
        assert result.notes == (*NOTE, *whole.notes)
        assert result.metadata == whole.metadata


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.5, 0.8, 0.97])
def test_a_jpeg_without_its_last_rows_fails(kind: str, part: float) -> None:
    data = jpeg(**KINDS[kind])  # type: ignore[arg-type]
    start = data.index(b"\xff\xda")
    cut = data[: start + int(part * (len(data) - start))]
    assert failure(cut).kind == "truncated"
    assert "rows" in failure(cut).reason
    assert failure(cut + bytes(4096)).kind == "truncated"


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_ends_no_wrong_picture_comes_out(kind: str) -> None:
    data = jpeg(**KINDS[kind])  # type: ignore[arg-type]
    whole = decode(data, max_pixels=LIMIT).color
    for cut in (*range(3, 40), *range(40, len(data) - data.index(b"\xff\xda") - 20, 7)):
        try:
            result = decode(data[:-cut], max_pixels=LIMIT)
        except PageError as error:
            assert error.kind == "truncated"
        else:
            # The last byte may hold nothing but padding.
            assert (result.color == whole).all(), cut


def test_a_progressive_jpeg_that_ends_between_two_scans_fails() -> None:
    data = jpeg(progressive=True)
    scans = []
    at = data.index(b"\xff\xda")
    while at >= 0:
        scans.append(at)
        at = data.find(b"\xff\xda", at + 2)
    assert len(scans) > 4
    for scan in scans[1:]:
        # The tables of the next scan stand before it, and tell the decoder nothing that it needs.
        before = data.rfind(b"\xff\xc4", 0, scan)
        end = before if before > scans[scans.index(scan) - 1] else scan
        assert failure(data[:end]).kind == "truncated"


def test_a_thumbnail_has_an_end_of_its_own() -> None:
    thumbnail = jpeg(quality=20)
    exif = Image.Exif()
    exif[0x010E] = "described"
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + thumbnail
    data = jpeg(exif=block)
    assert data.count(b"\xff\xd9") == 2
    assert decode(data[:-2], max_pixels=LIMIT).notes == NOTE
    assert failure(data[: len(data) * 4 // 5]).kind == "truncated"


def test_what_stands_behind_the_end_is_nobodys_business() -> None:
    for behind in (b"", b"\0" * 5000, b"<html>", b"\xff"):
        assert decode(jpeg() + behind, max_pixels=LIMIT).notes == ()


@pytest.mark.parametrize(
    "options", [{}, {"no_jp2": True}, {"tile_size": (32, 32)}, {"irreversible": True}], ids=str
)
def test_a_jpeg_2000_without_its_last_marker(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    drawing().save(buffer, "JPEG2000", **options)  # type: ignore[arg-type]
    data = buffer.getvalue()
    whole = decode(data, max_pixels=LIMIT)
    assert whole.notes == ()
    for cut in (1, 2):
        result = decode(data[:-cut], max_pixels=LIMIT)
        assert (result.color == whole.color).all()
        assert result.notes == NOTE
    for cut in (3, 4, 10, len(data) // 2):
        assert failure(data[:-cut]).kind in ("truncated", "damaged")


def test_a_file_that_came_out_wrong_once(faults_dir: Path) -> None:
    result = decode((faults_dir / "jpeg-no-eoi" / "noeoi.jpg").read_bytes(), max_pixels=LIMIT)
    assert result.color.shape == (128, 96, 3)
    assert result.notes == NOTE
