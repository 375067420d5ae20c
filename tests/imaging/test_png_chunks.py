"""PNGs whose picture is whole, and what is beside it too large, broken or cut off."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging import png_chunks
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.pixels import Pixels

LIMIT = 10_000_000
SAMPLES = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
START = 33  # behind the signature and IHDR


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def page(*before: bytes, behind: bytes = b"", samples: np.ndarray = SAMPLES) -> bytes:
    """A PNG with chunks before and behind its picture."""
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG")
    plain = buffer.getvalue()
    return plain[:START] + b"".join(before) + plain[START:-12] + behind + plain[-12:]


def read(data: bytes) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(data, max_pixels=LIMIT)
    header = read_header(data)
    assert (header.width, header.height) == (result.width, result.height)
    return result


def large_profile(size: int) -> bytes:
    """A sound profile for RGB, of other colours than sRGB, as large as those of printers and scanners."""
    profile = bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">L", profile, 128)
    entries = [struct.unpack_from(">4sLL", profile, 132 + 12 * at) for at in range(count)]
    content = profile[132 + 12 * count :]
    # Red and green exchanged.
    other = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    entries = [(other.get(name, name), at + 12, length) for name, at, length in entries]
    at = 132 + 12 * (count + 1) + len(content)
    content += bytes(-at % 4)
    private = b"data\0\0\0\0\0\0\0\1" + np.random.default_rng(0).bytes(size)
    entries.append((b"zzzz", at + -at % 4, len(private)))
    whole = profile[:128] + struct.pack(">L", len(entries))
    whole += b"".join(struct.pack(">4sLL", *entry) for entry in entries) + content + private
    return struct.pack(">L", len(whole)) + whole[4:]


BIG = zlib.compress(bytes(1_500_000))
XMP = b"XML:com.adobe.xmp"


@pytest.mark.parametrize(
    ("broken", "note"),
    [
        (chunk(b"zTXt", b"workflow\0\0" + BIG), 'text "workflow" left out: it is larger than 1 MiB'),
        (chunk(b"iTXt", b"prompt\0\1\0\0\0" + BIG), 'text "prompt" left out: it is larger than 1 MiB'),
        (chunk(b"iTXt", XMP + b"\0\1\0\0\0" + BIG), "XMP left out: it is larger than 1 MiB"),
        (chunk(b"zTXt", b"Raw profile type exif\0\0" + BIG), "EXIF left out: it is larger than 1 MiB"),
        (chunk(b"zTXt", b"a\x1b[2J\0\0" + BIG), "a text left out: it is larger than 1 MiB"),
        (chunk(b"zTXt", b"a\0\7" + BIG), 'text "a" left out: its compression is unknown'),
        (chunk(b"iCCP", b"ICC\0\1" + BIG), "ICC profile left out: it is broken"),
        (chunk(b"iCCP", b"ICC"), "ICC profile left out: it is broken"),
        (
            chunk(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(17 << 20))),
            "ICC profile left out: it is larger than 16 MiB",
        ),
        (chunk(b"iCCP", b"ICC\0\0" + BIG), "ICC profile left out: it is broken, the page is RGB"),
        (chunk(b"tEXt", b"a\0b", checksum=1), 'text "a" left out: it is broken'),
        (chunk(b"eXIf", b"II*\0", checksum=1), "EXIF left out: it is broken"),
        (chunk(b"prVW", b"abc", checksum=1), "prVW chunk left out: it is broken"),
        (chunk(b"tRNS", b"\0\0"), "transparency left out: it is broken"),
        (chunk(b"gAMA", b"\0\0"), "gamma left out: it is broken"),
        (chunk(b"cHRM", bytes(8)), "colour space left out: it is broken"),
        (chunk(b"sRGB", b""), "colour space left out: it is broken"),
        (chunk(b"pHYs", bytes(5)), "resolution left out: it is broken"),
        (chunk(b"acTL", bytes(4)), "animation left out: it is broken"),
        (chunk(b"acTL", bytes(8)), "animation left out: it is broken"),
        (2 * chunk(b"acTL", struct.pack(">LL", 1, 0)), "animation left out: it is broken"),
        (
            chunk(b"acTL", struct.pack(">LL", 2, 0)) + chunk(b"fcTL", struct.pack(">L", 5) + bytes(22)),
            "animation left out: it is broken",
        ),
        (
            chunk(b"acTL", struct.pack(">LL", 2, 0))
            + chunk(b"fcTL", struct.pack(">5L6x", 0, 900, 900, 0, 0)),
            "animation left out: it is broken",
        ),
    ],
)
def test_a_chunk_that_pillow_would_give_the_page_up_for(broken: bytes, note: str) -> None:
    result = read(page(broken, chunk(b"tEXt", b"Author\0Haruko")))
    assert (result.color == SAMPLES).all()
    assert result.alpha is None
    assert result.notes == (note,)
    assert result.metadata.text == (("Author", "Haruko"),)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_large_text_behind_the_picture(kind: bytes) -> None:
    packed = {b"zTXt": b"workflow\0\0" + BIG, b"iTXt": b"workflow\0\1\0\0\0" + BIG}[kind]
    result = read(page(behind=chunk(kind, packed)))
    assert (result.color == SAMPLES).all()
    assert result.notes == ('text "workflow" left out: it is larger than 1 MiB',)


def test_many_texts_that_are_small_each() -> None:
    texts = [chunk(b"zTXt", b"t%d\0\0" % at + zlib.compress(bytes(900_000))) for at in range(80)]
    result = read(page(*texts))
    assert (result.color == SAMPLES).all()
    assert result.notes == (
        "texts of the PNG left out: they are larger than 16 MiB together",
        "texts of the PNG left out: they are larger than 1 MiB",
    )


def test_a_text_bomb_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        png_chunks, "_unpack", lambda packed, most, unpack=png_chunks._unpack: made.append(most) or unpack(packed, most)
    )  # fmt: skip
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    assert read(page(chunk(b"zTXt", b"bomb\0\0" + bomb))).notes == (
        'text "bomb" left out: it is larger than 1 MiB',
    )
    assert max(made) <= 1 << 20


@pytest.mark.parametrize(
    "keyword", ["interlace", "transparency", "bbox", "gamma", "icc_profile", "dpi", "srgb", "duration"]
)
def test_a_text_under_a_name_that_pillow_uses_itself(keyword: str) -> None:
    name = keyword.encode()
    for kind, content in (
        (b"tEXt", name + b"\x00caf\xe9"),
        (b"zTXt", name + b"\0\0" + zlib.compress(b"caf\xe9")),
        (b"iTXt", name + b"\0\0\0en\0\0" + "café".encode()),
        (b"iTXt", name + b"\0\1\0en\0\0" + zlib.compress("café".encode())),
    ):
        resolution = chunk(b"pHYs", struct.pack(">LLB", 11811, 11811, 1))
        result = read(page(resolution, chunk(kind, content)))
        assert (result.color == SAMPLES).all()
        assert (result.alpha, result.icc_profile, result.notes) == (None, None, ())
        assert result.metadata.dpi == pytest.approx((300, 300), abs=0.01)
        assert result.metadata.text == ((keyword, "café"),)


def test_a_large_profile_is_worked_into_the_colours() -> None:
    samples = np.full((4, 5, 3), (200, 40, 90), np.uint8)
    profile = large_profile(1_300_000)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "JPEG", icc_profile=profile, quality=100, subsampling=0)
    small = read(page(chunk(b"iCCP", b"x\0\0" + zlib.compress(large_profile(1000))), samples=samples))
    assert small.notes == ()
    assert small.icc_profile is not None
    # Red and green are exchanged, and so are their numbers in sRGB.
    for data in (page(chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)), samples=samples), buffer.getvalue()):
        result = read(data)
        assert result.notes == (
            "ICC profile left out: it is larger than 1 MiB, the colours were converted to sRGB",
        )
        assert result.icc_profile is None
        assert np.abs(result.color.reshape(-1, 3).mean(axis=0) - (40, 200, 90)).max() < 4


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 13, 15, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_that_ends_behind_its_picture(cut: int, bits: int) -> None:
    import imagecodecs

    samples = SAMPLES if bits == 8 else SAMPLES.astype(np.uint16) * 257 - SAMPLES
    data = bytes(imagecodecs.png_encode(samples))
    result = read(data[:-cut])
    assert (result.color == samples).all()
    # The chunk that ends it is 12 bytes long, and begins with what it is.
    assert result.notes == (("the end of the file is missing",) if cut > 4 else ())


def test_a_file_that_ends_within_its_picture_fails() -> None:
    data = page()
    # Behind the last row stand its checksum, that of its chunk, and the end.
    for cut in (24, 30, 60, 400):
        with pytest.raises(PageError) as caught:
            decode(data[:-cut], max_pixels=LIMIT)
        assert caught.value.kind == "truncated", cut


def test_a_text_that_is_cut_off() -> None:
    data = page(behind=chunk(b"tEXt", b"Comment\0" + bytes(500)))
    result = read(data[:-300])
    assert (result.color == SAMPLES).all()
    assert result.notes == ('text "Comment" left out: it is broken', "the end of the file is missing")


def test_an_animation_that_is_cut_off() -> None:
    frames = [Image.fromarray(SAMPLES), Image.fromarray(255 - SAMPLES)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    result = read(buffer.getvalue()[:-200])
    assert (result.color == SAMPLES).all()
    assert result.notes == ("animated: first of 2 frames", "the end of the file is missing")


def test_what_is_sound_is_read_from_the_file_itself() -> None:
    for data in (page(), page(chunk(b"tEXt", b"Author\0Haruko"), chunk(b"vpAg", b"x"))):
        file = io.BytesIO(data)
        sound = png_chunks.find_sound_png(file)
        assert sound.file is file
        assert (sound.notes, sound.texts, sound.profile) == ((), {}, None)


def test_the_header_is_found_without_reading_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(page(chunk(b"zTXt", b"workflow\0\0" + BIG)))
    assert read_header(path).width == 30
    with path.open("rb") as file:
        assert png_chunks.find_sound_png(file, header_only=True).notes != ()


def test_files_that_came_out_wrong_once(faults_dir: Path) -> None:
    notes = {
        "bigtext.png": 'text "workflow" left out: it is larger than 1 MiB',
        "bigicc.png": "ICC profile left out: it is larger than 1 MiB, the colours were converted to sRGB",
    }
    for name, note in notes.items():
        result = read((faults_dir / "png-large-text" / name).read_bytes())
        assert result.color.shape == (128, 96, 3)
        assert result.notes == (note,)
