"""The peers: networks of other projects for the same work, run by ncnn on the CPU, whole pages at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.validation import AbsentError
from comic_upscale.imaging.pixels import UInt8Array


@dataclass(frozen=True, slots=True)
class PeerNetwork:
    """One network of a peer, and how pixels go in and come out."""

    peer: str
    """The peer that it is a variant of."""
    variant: str
    """Which of the peer's networks, in words."""
    file: str
    """Path of ``.param`` and ``.bin`` below the folder of the peers, without the suffix."""
    scale: int
    """The network's own factor."""
    denoises: bool
    """Whether it is made to clean noise away."""
    source: str
    """Name of its input."""
    result: str
    """Name of its output."""
    border: int
    """Input pixels that it uses up at each side."""
    multiple: int
    """Sides must be a multiple of this, the borders not counted."""


def _cunet(variant: str, file: str, *, denoises: bool) -> PeerNetwork:
    return PeerNetwork(
        "waifu2x cunet", variant, f"waifu2x/{file}", 2, denoises, "Input1", "Eltwise4", border=18, multiple=2
    )


def _cugan(scale: int, variant: str, *, denoises: bool) -> PeerNetwork:
    # Border and multiple as in realcugan-ncnn-vulkan: the first of its two networks is another one for x3.
    border, multiple = {2: (18, 2), 3: (14, 4)}[scale]
    file = f"realcugan/up{scale}x-{variant}"
    name = f"{variant} x{scale}"
    return PeerNetwork(
        "Real-CUGAN", name, file, scale, denoises, "in0", "out0", border=border, multiple=multiple
    )


PEERS = (
    _cunet("no denoise x2", "scale2.0x_model", denoises=False),
    _cunet("denoise 1 x2", "noise1_scale2.0x_model", denoises=True),
    _cugan(2, "no-denoise", denoises=False),
    _cugan(2, "conservative", denoises=True),
    _cugan(3, "no-denoise", denoises=False),
    _cugan(3, "conservative", denoises=True),
)


class NcnnNetwork:
    """A peer's network, ready for image after image."""

    def __init__(self, network: PeerNetwork, folder: Path, threads: int) -> None:
        """Read the network from the folder of the peers.

        Raises:
            AbsentError: `ncnn` is not installed, or the files are not there.
        """
        try:
            import ncnn
        except ImportError as error:
            raise AbsentError(f"{error}: pip install ncnn, or measure with --no-peers.") from error
        self._ncnn, self._facts = ncnn, network
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        self._net.opt.use_vulkan_compute = False
        param, weights = (folder / f"{network.file}.{suffix}" for suffix in ("param", "bin"))
        if not param.is_file() or not weights.is_file():
            raise AbsentError(
                f"{param} and .bin are not there: set COMIC_UPSCALE_WEIGHTS, or use --no-peers."
            )
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise AbsentError(f"ncnn cannot read {param}.")

    def upscale(self, image: Image.Image) -> Image.Image:
        """Return the image at the network's own factor, mode RGB."""
        facts = self._facts
        padded = _pad(np.asarray(image.convert("RGB")), facts.border, facts.multiple)
        pixels = self._ncnn.Mat.from_pixels(
            padded, self._ncnn.Mat.PixelType.PIXEL_RGB, padded.shape[1], padded.shape[0]
        )
        pixels.substract_mean_normalize([], [1 / 255] * 3)
        extractor = self._net.create_extractor()
        extractor.input(facts.source, pixels)
        failed, result = extractor.extract(facts.result)
        if failed:
            raise RuntimeError(f"ncnn could not run {facts.file}")
        planes = np.array(result)
        # A wrong border would shift the picture and spoil the peer's scores: better to stop.
        whole = tuple(facts.scale * (side - 2 * facts.border) for side in padded.shape[:2])
        if planes.shape[1:] != whole:
            raise RuntimeError(f"{facts.file} gave {planes.shape[1:]} where {whole} was expected")
        levels = np.clip(np.rint(planes * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        width, height = image.width * facts.scale, image.height * facts.scale
        return Image.fromarray(np.ascontiguousarray(levels[:height, :width]))

    def close(self) -> None:
        """Give the memory back."""
        self._net.clear()


@contextmanager
def open_peer(
    network: PeerNetwork, folder: Path, threads: int
) -> Iterator[Callable[[Image.Image, float], Image.Image]]:
    """Give a function that upscales an image by a factor: the network's own, then Lanczos to the size asked for.

    Raises:
        AbsentError: as `NcnnNetwork`.
    """
    opened = NcnnNetwork(network, folder, threads)

    def upscale(image: Image.Image, factor: float) -> Image.Image:
        larger = opened.upscale(image)
        size = round(image.width * factor), round(image.height * factor)
        return larger if larger.size == size else larger.resize(size, Image.Resampling.LANCZOS)

    try:
        yield upscale
    finally:
        opened.close()


def _pad(pixels: UInt8Array, border: int, multiple: int) -> UInt8Array:
    """Reflect the page outwards by the border, and further at right and bottom up to the multiple."""
    height, width = pixels.shape[:2]
    rows, columns = (border, border + -height % multiple), (border, border + -width % multiple)
    return np.ascontiguousarray(np.pad(pixels, (rows, columns, (0, 0)), mode="reflect"))
