"""Scores of an image against its original: PSNR, SSIM, MS-SSIM, GMSD and LPIPS, on a chosen device.

The scores come from `piq`, on the luma of BT.601 in full range, borders included, as in `benchmarks/quality.py`. Only
PSNR is computed here, in one line: piq adds a constant to the error, which at 50 dB changes the third digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comic_upscale.errors import DeviceError, PageError
from comic_upscale.evaluation.picture import BLACK, WHITE, check_transparency, flatten, is_transparent
from comic_upscale.imaging.pixels import Pixels, UInt8Array

if TYPE_CHECKING:
    import torch

PERFECT_PSNR = 80.0
"""The highest PSNR in decibels, which stands for an exact copy."""

SMALLEST_SIDE = 11
"""Side of SSIM's window in pixels."""

SMALLEST_SIDE_MS = 161
"""Shortest side for MS-SSIM in pixels, which halves an image four times."""

LPIPS_FILES = ("vgg16-397923af.pth", "lpips_weights.pt")
"""The weights for LPIPS in torch.hub's folder; 528 MB, never downloaded by comic-upscale."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one image against its original."""

    psnr: float
    """Decibels; higher is better, at most 80, which is an exact copy."""
    ssim: float
    """At most 1, for an exact copy."""
    ms_ssim: float | None
    """SSIM over five scales; None if a side has fewer than 161 pixels."""
    gmsd: float
    """Gradient magnitude similarity deviation; lower is better, 0 for an exact copy."""
    shift: float
    """Largest difference of a channel's mean, in levels of 255. It shows a tint, which luma does not."""
    lpips: float | None = None
    """Learned perceptual distance; lower is better. None if its weights are not on this machine."""


class Metrics:
    """Scores images one by one on a device. It keeps no images.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``xpu``.

    Raises:
        DeviceError: the device does not exist.
    """

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._device = torch.device(device)
        try:
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"{device} cannot be used for scoring: {error}. Choose --device cpu") from error
        self._lpips = _open_lpips(self._device)

    @property
    def has_lpips(self) -> bool:
        """Whether LPIPS is measured."""
        return self._lpips is not None

    def score(self, picture: Pixels, original: Pixels) -> Scores:
        """Return the scores of an image.

        To compare gray with colour, gray becomes three equal channels. Transparent images are compared on white and
        on black, and the worse of each score counts, so that differences are visible on one of them.

        Args:
            picture: the image.
            original: its original, of the same size, and transparent if the image is.

        Raises:
            PageError: ``"sizes-differ"``, ``"transparency"``, ``"too-small"`` (a side below 11 pixels).
        """
        check_sizes(picture, original)
        check_transparency(picture, original)
        import torch

        grounds = (WHITE, BLACK) if is_transparent(picture) else (WHITE,)
        with torch.inference_mode():
            return _worst(
                [self._score(flatten(picture, ground), flatten(original, ground)) for ground in grounds]
            )

    def _score(self, picture: UInt8Array, original: UInt8Array) -> Scores:
        one, other = (to_tensor(samples, self._device) for samples in (picture, original))
        channels = max(one.shape[1], other.shape[1])
        one, other = one.expand(-1, channels, -1, -1), other.expand(-1, channels, -1, -1)
        return Scores(
            psnr=psnr(luma_of(one), luma_of(other)),
            ssim=ssim(luma_of(one), luma_of(other)),
            ms_ssim=_ms_ssim(luma_of(one), luma_of(other)),
            gmsd=_gmsd(luma_of(one), luma_of(other)),
            shift=max(abs(level) for level in shifts(one, other)),
            lpips=None if self._lpips is None else float(self._lpips(_rgb(one), _rgb(other))),
        )


def check_sizes(picture: Pixels, original: Pixels) -> None:
    """Refuse images of different sizes, or too small for a score; errors as in `Metrics.score`."""
    sizes = [(page.width, page.height) for page in (picture, original)]
    if sizes[0] != sizes[1]:
        (width, height), (wanted_width, wanted_height) = sizes
        raise PageError(
            "sizes-differ",
            f"The image is {width} x {height}, the original {wanted_width} x {wanted_height}. Only images of the "
            "same size can be compared",
        )
    if min(sizes[0]) < SMALLEST_SIDE:
        raise PageError("too-small", f"An image needs at least {SMALLEST_SIDE} pixels a side to be scored")


def to_tensor(samples: UInt8Array, device: torch.device) -> torch.Tensor:
    """Return uint8 height x width x channels as float32 1 x channels x height x width, 0..255, on a device."""
    import torch

    # Bytes are transferred, not floats. They are copied, because torch does not accept read-only memory.
    planes = torch.from_numpy(np.array(samples.transpose(2, 0, 1), order="C")).to(device)
    return planes[None].float()


def luma_of(picture: torch.Tensor) -> torch.Tensor:
    """Return the luma of BT.601, 1 x 1 x height x width, of a picture of one channel or three."""
    if picture.shape[1] == 1:
        return picture
    weights = picture.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (picture * weights).sum(1, keepdim=True).clamp(0, 255)


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the peak signal to noise ratio of pictures of 0..255 in decibels, at most `PERFECT_PSNR`."""
    error = float((one - other).square().mean()) / 255**2
    return PERFECT_PSNR if error == 0 else min(PERFECT_PSNR, -10 * float(np.log10(error)))


def ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the structural similarity of pictures of 0..255: Gaussian window of 11 pixels, sigma 1.5."""
    import piq

    return float(piq.ssim(one, other, data_range=255, downsample=False))


def shifts(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    """Return the difference of the channel means of the first and the second image, in levels."""
    return [float(level) for level in (one - other).mean((0, 2, 3))]


def _ms_ssim(one: torch.Tensor, other: torch.Tensor) -> float | None:
    if min(one.shape[-2:]) < SMALLEST_SIDE_MS:
        return None
    import piq

    return float(piq.multi_scale_ssim(one, other, data_range=255))


def _gmsd(one: torch.Tensor, other: torch.Tensor) -> float:
    import piq

    return float(piq.gmsd(one, other, data_range=255))


def _rgb(picture: torch.Tensor) -> torch.Tensor:
    return picture.expand(-1, 3, -1, -1) / 255


def _open_lpips(device: torch.device) -> Any:
    """Return piq's LPIPS if its weights are in torch.hub's folder; otherwise None, without a download."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not all((folder / name).is_file() for name in LPIPS_FILES):
        return None
    import warnings

    import piq

    with warnings.catch_warnings():
        # piq names torchvision's weights in the way of before 2022.
        warnings.simplefilter("ignore")
        return piq.LPIPS().to(device)


def _worst(scores: list[Scores]) -> Scores:
    """Return the worse of each score."""

    def worse(name: str, of: Any) -> float | None:
        values = [value for each in scores if (value := getattr(each, name)) is not None]
        return of(values) if values else None

    return Scores(
        psnr=min(each.psnr for each in scores),
        ssim=min(each.ssim for each in scores),
        ms_ssim=worse("ms_ssim", min),
        gmsd=max(each.gmsd for each in scores),
        shift=max(each.shift for each in scores),
        lpips=worse("lpips", max),
    )
