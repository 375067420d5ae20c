"""The Python interface for single images: load a network once, then upscale any number of images."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
from PIL import Image

from comic_upscale.engines.pages import finish, prepare, upscale_pages
from comic_upscale.engines.torch.device import all_accelerators, choose_device
from comic_upscale.engines.torch.engine import open_torch_engine, pages_at_once
from comic_upscale.errors import InputError, PageError, SettingsError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import check_encoded, check_target, encode
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import find_target, needs_network
from comic_upscale.models.default_model import default_model, is_auto
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import cleans_white, resolve_weights
from comic_upscale.settings.job import AUTO_MODEL, DEFAULT_MAX_PIXELS, FormatName
from comic_upscale.settings.sizes import Print, Size, choose_size
from comic_upscale.storage.atomic import write_whole


class Upscaler:
    """A network on a device, ready to upscale images. Use it from one thread at a time.

    ::

        with Upscaler() as upscaler:
            larger = upscaler.upscale(Image.open("page.png"), scale=2.5)

    Args:
        model: a name of the catalogue, or the path of a ``.pth`` or ``.safetensors`` file. ``"auto"`` is
            comic-best on a GPU, and otherwise comic-fast, which are parts of the package.
        denoise: 0 to 1, for models with a second set of weights.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"`` or ``"mps"``.
        precision: ``"auto"``, ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
        batch: images in one call of the network; None for as many as fit.
        tile: longest side in pixels that the network processes in one piece; None for as large as fits.
        weights_folders: folders to search for weights, in this order.
        weights_cache: folder for downloaded weights; None to download nothing.

    Raises:
        WeightsError: the weights are missing, or are not a network.
        DeviceError: the device does not exist.
        SettingsError: a setting is out of range.
    """

    def __init__(
        self,
        model: str | PathLike[str] = AUTO_MODEL,
        *,
        denoise: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch: int | None = None,
        tile: int | None = None,
        weights_folders: Sequence[str | PathLike[str]] = (),
        weights_cache: str | PathLike[str] | None = None,
    ) -> None:
        model, folders = fspath(model), [Path(folder) for folder in weights_folders]
        cache, download = Path(weights_cache or "."), weights_cache is not None
        if is_auto(model):
            # The factor comes with each image.
            model = default_model(accelerator=all_accelerators(device), factor=None)
        weights = resolve_weights(model, denoise=denoise, folders=folders, cache=cache, download=download)
        network = load_network(weights, denoise)
        # A file of the user may have the name of a model.
        self._cleans_white = weights.model is not None and cleans_white(weights.model_name, denoise)
        self._engine = open_torch_engine(network, device, precision=precision, batch=batch, tile=tile)
        self.model = weights.model_name
        """The model's name in the catalogue, or the name of the file."""
        info = self._engine.info
        assert info.native_scale is not None
        self.native_scale = info.native_scale
        """The network's own factor."""
        self.device = str(info.device)
        """The device as text."""
        self.precision = info.precision
        """The precision of the network."""
        self.pages_at_once = pages_at_once(network, choose_device(device))
        """How many pages a run upscales at the same time on this device, with a part of the cores each."""

    def upscale(
        self, image: Image.Image | UInt8Array, scale: float | None = None, *, size: Size | None = None
    ) -> Image.Image:
        """Return an image of ``round(width * scale)`` by ``round(height * scale)``, or of the requested size.

        An image that is already that large is shrunk, or returned unchanged, without the network.

        Args:
            image: a Pillow image of mode L, LA, RGB or RGBA, or uint8 height x width (gray), or
                height x width x 1 to 4 (gray, gray and alpha, RGB, RGBA). An image that Pillow opened from a JPEG is
                treated as such.
            scale: 1 to 8; 2.5 if no size is given either.
            size: instead of a scale, such as ``Width(2000)`` from ``comic_upscale.settings.sizes``.

        Returns:
            An image of the same mode.

        Raises:
            PageError: the device has too little memory, the network gives numbers that are not finite, or the image
                is far too small for the size.
            SettingsError: the scale or the image is not valid.
            DeviceError: the device failed.
        """
        return _to_image(self.upscale_pixels(_to_pixels(image), _one_size(scale, size)))

    def upscale_pixels(self, page: Pixels, size: Size | float) -> Pixels:
        """Return a decoded page at its target size, given as a size or a scale; errors as in `upscale`."""
        requested = choose_size(scale=size) if isinstance(size, int | float) else size
        target = find_target(page.width, page.height, requested).size
        if not needs_network((page.width, page.height), target, self.native_scale):
            return shrink(prepare(page), target)
        prepared = prepare(page, cleans_white=self._cleans_white)
        (result,) = upscale_pages(self._engine, [prepared], target)
        if isinstance(result, PageError):
            raise result
        return finish(result)

    def close(self) -> None:
        """Release the device's memory."""
        self._engine.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def upscale_image(
    source: Path | str,
    target: Path | str,
    *,
    scale: float | None = None,
    size: Size | None = None,
    upscaler: Upscaler,
    quality: int | None = None,
) -> None:
    """Upscale one image file into another, whose suffix (.png, .webp, .jpg, .avif, .jxl, .tif) sets the format.

    The target is written completely or not at all. An existing file is replaced. Scale and size are as in
    `Upscaler.upscale`. With a `Print`, the resolution is written into the file.

    Raises:
        InputError: the source cannot be read.
        PageError: the source is not an image, is damaged, or is too large for the format.
        SettingsError: the target's suffix is not a supported format.
        OutputError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    formats = _formats_by_suffix()
    format = formats.get(target.suffix.lower())
    if format is None:
        raise SettingsError(f"{target.name} must end in {', '.join(formats)}")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    page = decode(data, max_pixels=DEFAULT_MAX_PIXELS, gray="auto")
    requested = _one_size(scale, size)
    pixels = find_target(page.width, page.height, requested).size
    check_target(*pixels, format)
    dpi = requested.dpi if isinstance(requested, Print) else None
    encoded = encode(upscaler.upscale_pixels(page, requested), format=format, quality=quality, dpi=dpi)
    check_encoded(encoded, pixels)
    write_whole(encoded, target, make_folders=False)


def _formats_by_suffix() -> dict[str, FormatName]:
    named = {f".{name}": name for name in FORMATS}
    return named | {f".{format.extension}": name for name, format in FORMATS.items()}


def _one_size(scale: float | None, size: Size | None) -> Size:
    if scale is not None and size is not None:
        raise SettingsError("a scale and a size exclude each other: give one of them")
    return choose_size(scale=scale) if size is None else size


def _to_pixels(image: Image.Image | UInt8Array) -> Pixels:
    lossless = True
    if isinstance(image, Image.Image):
        lossless = image.format not in ("JPEG", "MPO")
        if image.mode not in ("L", "LA", "RGB", "RGBA"):
            raise SettingsError(
                f"an image of mode {image.mode} is not supported: convert it to L, LA, RGB or RGBA"
            )
        image = cast(UInt8Array, np.asarray(image))
    samples = image[:, :, np.newaxis] if image.ndim == 2 else image
    if samples.dtype != np.uint8 or samples.ndim != 3 or not 1 <= samples.shape[2] <= 4 or 0 in samples.shape:
        raise SettingsError(
            f"an image must be uint8 height x width x 1 to 4, not {samples.dtype} {samples.shape}"
        )
    if samples.shape[2] in (2, 4):
        color, alpha = (np.ascontiguousarray(each) for each in (samples[:, :, :-1], samples[:, :, -1]))
        return Pixels(color, alpha, lossless=lossless)
    return Pixels(np.ascontiguousarray(samples), lossless=lossless)


def _to_image(page: Pixels) -> Image.Image:
    planes = page.color if page.alpha is None else np.dstack([page.color, page.alpha])
    return Image.fromarray(planes.squeeze(2) if planes.shape[2] == 1 else planes)
