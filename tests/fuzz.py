"""Breaking archives and images in every way, and seeing what the readers make of them."""

from __future__ import annotations

import collections
import io
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import check_encoded, encode
from comic_upscale.imaging.metadata import with_density
from comic_upscale.imaging.pixels import Metadata, Pixels
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.settings.job import FormatName, VolumeRules
from tests.archives import as_jpeg_pdf, epub, make_7z, make_tar, make_zip, pictures, smooth
from tests.rars import make_rar

RULES = VolumeRules(max_members=2000, max_unpacked=256 << 20, max_pixels=4_000_000)


def seeds(folder: Path) -> list[bytes]:
    """Small good archives of every kind that can be made here."""
    inside = {**pictures(3), "a/ComicInfo.xml": b"<ComicInfo/>"}
    images = {f"OPS/{name}": data for name, data in pictures(2).items()}
    book = epub([("one", "p02.png"), ("two", "1.xhtml")], {**images, "OPS/1.xhtml": b"<img src='p01.png'>"})
    made = [
        make_zip(folder / "a", inside),
        make_zip(folder / "b", inside, 0),
        make_zip(folder / "c", book),
        make_tar(folder / "d", inside),
        make_tar(folder / "e", inside, "w:gz"),
        make_tar(folder / "f", inside, "w:xz"),
        make_7z(folder / "g", inside),
        make_zip(folder / "i", inside, zipfile.ZIP_BZIP2),
        make_zip(folder / "j", inside, zipfile.ZIP_LZMA),
        make_rar(folder / "k", inside, 4),
        make_rar(folder / "l", inside, 5),
        as_jpeg_pdf(folder / "h.pdf", smooth((60, 80)), smooth((50, 70))),
    ]
    return [path.read_bytes() for path in made]


def image_seeds() -> list[bytes]:
    """Small good images of every format that is read, of many modes, with what belongs to them."""
    random = np.random.default_rng(5)
    color = random.integers(0, 256, (24, 20, 3), np.uint8)
    alpha = random.integers(0, 256, (24, 20), np.uint8)
    deep = random.integers(0, 65536, (24, 20, 3), np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    beside = Metadata(with_density(None, (300.0, 300.0)), b"<x:xmpmeta/>", (300.0, 300.0))
    pages = [
        Pixels(color, alpha, profile, metadata=beside),
        Pixels(color, metadata=beside),
        Pixels(color[:, :, :1]),
        Pixels(deep),
    ]
    formats: tuple[FormatName, ...] = ("png", "webp", "jpeg", "avif", "jxl", "tiff")
    made = [encode(page, format=format) for page in pages for format in formats]
    made += [encode(pages[1], format=format, quality=80) for format in ("webp", "jxl")]
    rgb = Image.fromarray(color)
    for picture, kind, options in (
        *((rgb, kind, {}) for kind in ("GIF", "BMP", "TGA", "PPM", "ICO", "JPEG2000", "QOI")),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb.convert("1"), "PNG", {"transparency": 0}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("LAB"), "TIFF", {}),
        (rgb.convert("I;16"), "TIFF", {}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 2}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(180)]}),
        (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(180)]}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        made.append(file.getvalue())
    # TIFFs that Pillow has no mode for.
    share = color.astype(np.float32) / 255
    for samples, about in (
        (share, {"photometric": "rgb", "tile": (16, 16)}),
        (share[:, :, :2].astype(np.float16), {"photometric": "minisblack", "extrasamples": ["assocalpha"]}),
        (deep[:, :, :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"], "compression": "lzw"}),
        (deep.astype(np.uint32) << 16, {"photometric": "rgb", "compression": "zlib"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, samples, **about)
        made.append(file.getvalue())
    return made


def image_outcome(data: bytes, largest: int = 4_000_000) -> str:
    """Read an image as a run does; ``"read"``, or the kind of what was said instead.

    Anything but a `PageError` goes through, and so does a page that is not what its header or type say.
    """
    try:
        page = decode(data, max_pixels=largest, gray="auto")
    except PageError as error:
        return error.kind
    assert page.width * page.height <= largest
    assert page.color.flags.c_contiguous
    assert page.alpha is None or page.alpha.dtype == page.color.dtype
    if page.width * page.height <= 10_000:
        # What belongs to a page must be fit to be written, however broken it came.
        check_encoded(encode(page, format="png"), (page.width, page.height))
    return "read"


def mutate(data: bytes, chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change a file in one of several ways, some of them several times."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        way = chance.randrange(7)
        at = chance.randrange(len(changed) + 1)
        # Directories stand at the ends: half of the changes go there.
        if chance.random() < 0.5 and len(changed) > 600:
            at = chance.choice((chance.randrange(300), len(changed) - chance.randrange(1, 300)))
        if way == 0 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif way == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            changed[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\1\0\0\0"))
        elif way == 3:
            del changed[at:]
        elif way == 4:
            del changed[at : at + chance.randrange(1, 200)]
        elif way == 5:
            piece = changed[at : at + chance.randrange(1, 400)]
            changed[at:at] = piece
        else:
            other = chance.choice(corpus)
            start = chance.randrange(len(other))
            changed[at : at + 100] = other[start : start + 100]
        if not changed:
            break
    return bytes(changed)


def outcome(path: Path, pages: int = 8) -> str:
    """List a volume and read its first pages; ``"read"``, or the kind of what was said instead.

    Anything but a `PageError` goes through: that is what is looked for.
    """
    try:
        listed = list_volume(path, RULES, extension="png")
    except PageError as error:
        return f"refused: {error.kind}"
    kinds = collections.Counter[str]()
    container = open_container(path, RULES)
    try:
        for member in listed.members[:pages]:
            try:
                data = container.read(member.index) if member.content is None else member.content
                if member.is_page:
                    decode(data, max_pixels=RULES.max_pixels)
            except PageError as error:
                kinds[error.kind] += 1
    finally:
        container.close()
    return "read" if not kinds else f"page: {kinds.most_common(1)[0][0]}"
