"""How near a picture comes to its original: PSNR, SSIM, MS-SSIM, GMSD and LPIPS, on the device that is asked for.

The measures are those of `piq`, on the luma of BT.601 in full range, borders included, as
`benchmarks/quality.py` has always used them. PSNR alone is computed here, one line: piq adds a constant
to the error, which at 50 dB is already seen in the third digit.
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
"""Decibels that stand for an exact copy, and the most that is told."""

SMALLEST_SIDE = 11
"""Pixels that SSIM's window has."""

SMALLEST_SIDE_MS = 161
"""Pixels that MS-SSIM needs, which halves a picture four times."""

LPIPS_FILES = ("vgg16-397923af.pth", "lpips_weights.pt")
"""The weights that LPIPS needs, as torch.hub keeps them; 528 MB, never downloaded by us."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The distance of one picture from its original."""

    psnr: float
    """Decibels; higher is better, at most 80, which is an exact copy."""
    ssim: float
    """At most 1, which is an exact copy."""
    ms_ssim: float | None
    """The same over five scales; None for a side below 161 pixels."""
    gmsd: float
    """Deviation of the gradients' likeness; lower is better, 0 for an exact copy."""
    shift: float
    """Gray levels by which the mean of some channel differs, of 255; the largest. Luma does not see a tint."""
    lpips: float | None = None
    """Learned perceptual distance; lower is better. None where its weights are not on this machine."""


class Metrics:
    """Scores pictures one by one on a device; nothing of them is kept.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``xpu``.

    Raises:
        DeviceError: the device is not there.
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
        """Return the scores of a picture.

        Gray is compared with colour as colour of three equal channels. Transparent pictures are compared on
        white and on black, and the worse of each score counts, so that what differs shows on one of them.

        Args:
            picture: to be scored.
            original: of the same size, and transparent if the picture is.

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
    """Refuse pictures of two sizes, or too small for a score; errors as `Metrics.score`."""
    sizes = [(page.width, page.height) for page in (picture, original)]
    if sizes[0] != sizes[1]:
        (width, height), (wanted_width, wanted_height) = sizes
        raise PageError(
            "sizes-differ",
            f"The image is {width} x {height}, the original {wanted_width} x {wanted_height}. Only images of the "
            "same size can be compared.",
        )
    if min(sizes[0]) < SMALLEST_SIDE:
        raise PageError("too-small", f"An image needs at least {SMALLEST_SIDE} pixels a side to be scored.")


def to_tensor(samples: UInt8Array, device: torch.device) -> torch.Tensor:
    """Return uint8 height x width x channels as float32 1 x channels x height x width, 0..255, on a device."""
    import torch

    # The bytes travel, not the floats; a copy, since torch does not take what is read-only.
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
    """Return by how many gray levels the mean of each channel of the first lies above the second's."""
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
    """Return piq's LPIPS where its weights lie in torch.hub's folder; None, without a download, where not."""
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
    """Take the worse of each score."""

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
