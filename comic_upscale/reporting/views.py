"""Crops of a page before and after, encoded small enough for a report."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

from comic_upscale.evaluation.likeness import Likeness, difference, likeness, match_sizes
from comic_upscale.evaluation.picture import WHITE, Box, as_image, busiest_region, detail, flatten
from comic_upscale.imaging.color import profile_space
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.reporting.inspection import Selected

MOST_PIXELS = 800_000
"""The most output pixels of a crop: about 150 kB, so that a report of forty pages has only a few MB."""

LONGEST_SIDE = 4096
"""The longest side of a crop, in output pixels. WebP's own limit is 16383."""

QUALITY = 85
"""WebP quality of the images in a report."""

THUMBNAIL = 220
"""Longest side of the thumbnail of the whole page."""

_LARGEST_PROFILE = 8192
_GRAY = 150
"""Background of transparent pages. White and black lines are visible on it."""


@dataclass(frozen=True, slots=True)
class View:
    """A page to show: the same crop of its source and of its output."""

    chosen: Selected
    likeness: Likeness
    """Of the output as it is now, at its source's size."""
    width: int
    """Of the cut, in pixels of the output."""
    height: int
    """Of the cut, in pixels of the output."""
    before: bytes
    """WebP of the crop of the source, at the source's size."""
    after: bytes
    """WebP of the crop of the output, at full resolution."""
    whole: bytes | None
    """WebP thumbnail of the whole output; None if the crop is the whole page."""
    place: tuple[float, float, float, float]
    """Position of the crop on the page: left, top, width and height, 0 to 1."""


def make_view(chosen: Selected, source: Pixels, output: Pixels) -> View:
    """Crop a page where it differs most from its source, or where it has the most detail.

    Args:
        chosen: the page. A page that was chosen for a reason is cropped where it differs.
        source: the decoded source.
        output: the decoded output.

    Raises:
        PageError: the two cannot be compared.
    """
    # An output without transparency was flattened onto white.
    ground = WHITE if output.alpha is None else _GRAY
    before, after = flatten(source, ground), flatten(output, ground)
    box = _region(chosen, source, output, ground)
    width, height = source.width, source.height
    place = (box[0] / width, box[1] / height, (box[2] - box[0]) / width, (box[3] - box[1]) / height)
    outer = _scale(box, (output.width / width, output.height / height))
    is_whole = box == (0, 0, width, height)
    return View(
        chosen=chosen,
        likeness=chosen.inspected.likeness or likeness(source, output),
        width=outer[2] - outer[0],
        height=outer[3] - outer[1],
        before=_webp(_cut(before, box), source.icc_profile),
        after=_webp(_cut(after, outer), output.icc_profile),
        whole=None if is_whole else _webp(_thumbnail(after), output.icc_profile),
        place=place,
    )


def data_uri(webp: bytes) -> str:
    """Return an image as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"


def _region(chosen: Selected, source: Pixels, output: Pixels, ground: int) -> Box:
    """Return the area to crop, in pixels of the source."""
    size = _cut_size(source, output)
    if size == (source.width, source.height):
        return 0, 0, source.width, source.height
    one, other = match_sizes(source, output, ground)
    energy = difference(one, other) if chosen.reasons else detail(one)
    box = busiest_region(energy, size)
    # If the output is smaller than the source, the two were compared at its size.
    return _scale(box, (source.width / one.shape[1], source.height / one.shape[0]))


def _cut_size(source: Pixels, output: Pixels) -> tuple[int, int]:
    """Return width and height of the crop in pixels of the source, with the page's proportions if possible."""
    pixels = output.width * output.height
    if pixels <= MOST_PIXELS and max(output.width, output.height) <= LONGEST_SIDE:
        return source.width, source.height
    part = min(1.0, math.sqrt(MOST_PIXELS / pixels))
    # A long strip is cropped to a part that fits on a screen.
    width, height = output.width * part, output.height * part
    if max(width, height) > 2 * min(width, height):
        width, height = (
            min(output.width, math.sqrt(MOST_PIXELS)),
            min(output.height, math.sqrt(MOST_PIXELS)),
        )
    factor = source.width / output.width
    return max(1, round(width * factor)), max(1, round(height * factor))


def _scale(box: Box, factors: tuple[float, float]) -> Box:
    horizontal, vertical = factors
    left, top, right, bottom = box
    return (
        round(left * horizontal), round(top * vertical), round(right * horizontal), round(bottom * vertical),
    )  # fmt: skip


def _cut(samples: UInt8Array, box: Box) -> Image.Image:
    left, top, right, bottom = box
    return as_image(samples[top:bottom, left:right])


def _thumbnail(samples: UInt8Array) -> Image.Image:
    image = as_image(samples)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return image


def _webp(image: Image.Image, profile: bytes | None) -> bytes:
    fits = profile is not None and len(profile) <= _LARGEST_PROFILE and profile_space(profile) == "RGB"
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=3, icc_profile=profile if fits else None)
    return buffer.getvalue()
