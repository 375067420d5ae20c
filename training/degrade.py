"""What happens to pages before readers get them: shrunk by some program, blurred, compressed, scanned.

A draw from a random generator decides, so that the same seed spoils a page in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
"""uint8 RGB, height x width x 3."""

_KERNELS = (
    # Bicubic is what most programs shrink with; the rest are met often enough to be learned.
    (Image.Resampling.BICUBIC, 0.72),
    (Image.Resampling.LANCZOS, 0.14),
    (Image.Resampling.BOX, 0.05),
    (Image.Resampling.BILINEAR, 0.05),
    (Image.Resampling.HAMMING, 0.04),
)
_CLEAN_SHARE = 0.45
"""Of all pages; the shares below are of the others, but for the blur, which any page can have."""
_NOISE_SHARE = 0.12
_JPEG_SHARE = 0.82
_WEBP_SHARE = 0.10
_BLUR_SHARE = 0.03
_SOFT_BLUR_SHARE = 0.7
"""Of soft pages, those that are blurred. The network must know the others, or draws halos around crisp lines."""
_CHROMA_FULL, _CHROMA_HALVED = 0, 2
"""Pillow's numbers for 4:4:4 and 4:2:0."""

Damage = Literal["usual", "heavy", "soft"]
"""``usual`` is that of pages as readers have them, many of them clean. ``heavy`` is JPEG of quality 10 to 75. ``soft``
is the usual damage after a blur, of which the truth is free."""
_HEAVY_CLEAN_SHARE, _HEAVY_MILD_SHARE = 0.12, 0.12
"""Of pages with heavy damage, those that stay clean, and those with the usual damage: these must come out well, too."""
_HEAVY_QUALITY = (10, 75)
_TWICE_SHARE = 0.25
"""Of pages with heavy damage, those that were stored a second time, mostly on another grid of blocks."""
_GRID = 16
"""Side of the squares of a JPEG with halved chroma."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How a page was stored."""

    format: Literal["none", "jpeg", "webp"]
    quality: int = 0
    """40..95 where compressed."""
    chroma: int = _CHROMA_HALVED
    """Pillow's ``subsampling``: 0 is 4:4:4, 2 is 4:2:0; for JPEG alone."""


def shrink(
    page: Image.Image,
    size: tuple[int, int],
    box: tuple[float, ...],
    rng: np.random.Generator,
    damage: Damage = "usual",
) -> Image.Image:
    """Shrink a region of a page with a kernel that some program uses, antialiased, now and then blurred before.

    Args:
        page: RGB, with some pixels around the region where the page has them, so that the kernel sees
            what it would see in the whole page.
        size: width and height to shrink to.
        box: left, top, right and bottom of the region in pixels of ``page``.
        rng: decides.
        damage: whether most pages are blurred, and more.
    """
    share, radii = (_SOFT_BLUR_SHARE, (0.2, 0.8)) if damage == "soft" else (_BLUR_SHARE, (0.15, 0.5))
    if rng.random() < share:
        factor = (box[2] - box[0]) / size[0]
        page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(*radii)) * factor))
    kernels, shares = zip(*_KERNELS, strict=True)
    return page.resize(size, kernels[rng.choice(len(kernels), p=shares)], box=box)


def draw_compression(rng: np.random.Generator) -> Compression:
    """Draw how a page that is not clean was stored: mostly as JPEG, of quality 40..95."""
    share = rng.random()
    if share < _JPEG_SHARE:
        chroma = _CHROMA_HALVED if rng.random() < 0.7 else _CHROMA_FULL
        return Compression("jpeg", int(rng.integers(40, 96)), chroma)
    if share < _JPEG_SHARE + _WEBP_SHARE:
        return Compression("webp", int(rng.integers(40, 96)))
    return Compression("none")


def compress(page: Image.Image, how: Compression) -> Image.Image:
    """Store a page and read it back: RGB in, RGB out; a page that is exactly gray is stored as gray."""
    if how.format == "none":
        return page
    gray = _is_gray(page)
    stored = BytesIO()
    if how.format == "jpeg":
        source = page.convert("L") if gray else page
        source.save(stored, "JPEG", quality=how.quality, **({} if gray else {"subsampling": how.chroma}))
    else:
        page.save(stored, "WEBP", quality=how.quality, method=0)
    read = Image.open(stored)
    return read.convert("L").convert("RGB") if gray else read.convert("RGB")


def scan(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add the noise of a scanner, of 0.5 to 6 levels; a gray page stays gray."""
    gray = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    height, width, _ = pixels.shape
    noise = rng.normal(0.0, rng.uniform(0.5, 6.0), (height, width, 1 if gray else 3))
    return np.clip(pixels + np.rint(noise), 0, 255).astype(np.uint8)


def spoil(small: Image.Image, rng: np.random.Generator, damage: Damage = "usual") -> Image.Image:
    """Do to a shrunk page what happens before a reader gets it: nothing, noise, compression or both.

    With heavy damage, most pages are stored as JPEG of quality 10 to 75, some of them twice.
    """
    if damage == "heavy":
        share = rng.random()
        if share < _HEAVY_CLEAN_SHARE:
            return small
        if share >= _HEAVY_CLEAN_SHARE + _HEAVY_MILD_SHARE:
            return _store_badly(small, rng)
    clean = rng.random() < _CLEAN_SHARE
    if clean:
        return small
    if rng.random() < _NOISE_SHARE:
        small = Image.fromarray(scan(np.asarray(small), rng))
    return compress(small, draw_compression(rng))


def _store_badly(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    for _ in range(2 if rng.random() < _TWICE_SHARE else 1):
        lowest, highest = _HEAVY_QUALITY
        chroma = _CHROMA_HALVED if rng.random() < 0.5 else _CHROMA_FULL
        how = Compression("jpeg", int(rng.integers(lowest, highest + 1)), chroma)
        left, top = (int(rng.integers(_GRID)) for _ in range(2))
        page = compress_off_grid(page, how, left, top)
    return page


def compress_off_grid(page: Image.Image, how: Compression, left: int, top: int) -> Image.Image:
    """Store a page as `compress` does, as a part of a larger page, whose blocks begin elsewhere.

    Args:
        page: RGB.
        how: of the larger page.
        left: columns of the larger page before it.
        top: rows above it.
    """
    larger = np.pad(np.asarray(page), ((top, 0), (left, 0), (0, 0)), mode="edge")
    stored = compress(Image.fromarray(larger), how)
    return stored.crop((left, top, left + page.width, top + page.height))


def _is_gray(page: Image.Image) -> bool:
    pixels = np.asarray(page)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
