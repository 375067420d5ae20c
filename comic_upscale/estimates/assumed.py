"""The workload of imagined pages, for an estimate without an input. Light: nothing here opens an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comic_upscale.costs.ranges import Range
from comic_upscale.costs.workload import Workload
from comic_upscale.errors import PageError, SettingsError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.target_size import find_target, needs_network, skip_reason, turned
from comic_upscale.models.default_model import assumed_native_scale
from comic_upscale.settings.processing import ProcessingSettings

SOURCE_BYTES_PER_PIXEL = 1.3
"""Bytes per pixel of an assumed source page: about those of a PNG of 512 x 768."""
ASSUMED_BYTES = Range(0.67, 1.0, 1.33)
"""Bytes of real pages, over those of an average page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedPages:
    """Some imagined pages of one size: PNG, in colour."""

    count: int
    """At least 1."""
    width: int
    """Pixels, at least 1."""
    height: int
    """Pixels, at least 1."""
    source_bytes: int | None = None
    """Bytes of each; None for `SOURCE_BYTES_PER_PIXEL` of them."""


def assumed_sizes(
    pages: AssumedPages, settings: ProcessingSettings
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return (size, target size) of imagined pages, once for each, if they need an engine; errors as `assume_pages`."""
    size = pages.width, pages.height
    if skip_reason(size, settings) is not None:
        return []
    target = find_target(*size, settings.size).size
    if not needs_network(turned(size, settings.size), target, assumed_native_scale(settings)):
        return []
    return [(size, target)] * pages.count


def assume_pages(pages: Sequence[AssumedPages], settings: ProcessingSettings) -> Workload:
    """Count the work of imagined pages.

    Args:
        pages: pages of several sizes, at least one.
        settings: of the job: size and format of the outputs, pages to skip.

    Raises:
        SettingsError: a page would have to grow too much.
    """
    format = settings.format
    written = FORMATS["png" if format == "auto" else format]
    assumed = written.assumed(settings.quality)
    bytes_per_pixel = assumed.bytes_per_pixel(gray=False)
    native_scale = assumed_native_scale(settings)
    count = network_pixels = output_pixels = upload_bytes = 0
    for each in pages:
        size = each.width, each.height
        if skip_reason(size, settings) is not None:
            continue
        try:
            target = find_target(*size, settings.size).size
        except PageError as error:
            raise SettingsError(error.reason) from None
        count += each.count
        output_pixels += each.count * target[0] * target[1]
        if needs_network(turned(size, settings.size), target, native_scale):
            network_pixels += settings.network_passes * each.count * size[0] * size[1]
        source = each.source_bytes
        upload_bytes += each.count * (
            round(size[0] * size[1] * SOURCE_BYTES_PER_PIXEL) if source is None else source
        )
    as_png = " as PNG" if format == "auto" else ""
    return Workload(
        pages=count,
        network_pixels=network_pixels,
        output_pixels=output_pixels,
        upload_bytes=upload_bytes,
        download_bytes=ASSUMED_BYTES * (bytes_per_pixel * output_pixels),
        download_basis=f"{bytes_per_pixel:g} bytes a pixel, the average of six real pages{as_png}",
        encode_seconds=assumed.seconds,
        format=written.encoding(settings.quality),
    )
