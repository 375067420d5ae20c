"""How the last reduction, from the network's own factor to the requested size, treats screentone and detail.

Usage: python -m benchmarks.reduction [--pages FOLDER] [--json FILE]

Compared are kernels (Lanczos-3 as wide as the program has it, 15 % and 40 % wider, and Mitchell) in the numbers of the
file and in linear light.

* Screentone: even tones of dots, drawn as a network of 3x gives them, are reduced by 1.1 to 3. What is slower than the
  dots is moiré, since the tone is even. Its energy is the standard deviation of the blurred page, in levels of 8 bits.
  The shift of the tone is that of its mean in linear light, which is what the eye sees from farther away.
* Pages without the network: the same tones at the pixels of a scan, shrunk for a screen.
* Descreening by the two simplest filters, a Gaussian and a median: as strong as makes the dots even, and what
  is then left of a thin line beside them.
* Pages: crops of real pages are halved (by area, in each light), enlarged to 3x by the network, and reduced to the size
  of the crop and to three quarters of it. PSNR is against the crop, or the crop at that size (by area, in the light
  of the halving).
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.machine import facts, write_report
from benchmarks.two_passes import centre_crop
from benchmarks.validation import REPOSITORY
from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch.engine import open_torch_engine
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

RESULT = REPOSITORY / "benchmarks" / "results" / "reduction-cpu.json"
PAGES = REPOSITORY.parent / "shared" / "comics" / "dev"
MODEL = "comic-fast-x3"
NATIVE = 3
SIDE = 360

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to reduce."""

    kernel: str
    width: float
    linear: bool

    def __str__(self) -> str:
        light = "linear" if self.linear else "file"
        return f"{self.kernel} x{self.width:g}, {light}"


METHODS = tuple(
    Method(kernel, width, linear)
    for linear in (False, True)
    for kernel, width in (("lanczos", 1.0), ("lanczos", 1.15), ("lanczos", 1.4), ("mitchell", 1.0))
)
FACTORS = (1.1, 1.2, 1.5, 2.0, 2.4, 3.0)
"""By which the output of the network is reduced; 1.5 is 2x from a network of 3x."""
SHRUNK = (1.2, 1.5, 2.0)
"""By which a scan is shrunk for a screen."""
EVEN = 4.0
"""Standard deviation of a tone that no longer shows its dots, levels of 8 bits."""
PITCHES = (2.6, 3.1, 3.7, 4.4, 5.3, 7.0)
"""Distance of the dots, in pixels of the source; at 45 degrees."""
TONES = (0.15, 0.35, 0.5)
"""Share of ink."""


def to_linear(values: Floats) -> Floats:
    """Return light, 0..1, of sRGB samples, 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_file(light: Floats) -> Floats:
    """Return sRGB samples of light, both 0..1."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def weights(in_size: int, out_size: int, method: Method) -> Floats:
    """Return the matrix of a reduction along an axis: ``out_size x in_size``."""
    scale = in_size / out_size * method.width
    distance = (
        np.arange(in_size)[None] + 0.5 - (np.arange(out_size)[:, None] + 0.5) * in_size / out_size
    ) / scale
    if method.kernel == "lanczos":
        found = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    else:
        found = _mitchell(np.abs(distance))
    return found / found.sum(1, keepdims=True)


def _mitchell(x: Floats) -> Floats:
    near = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
    far = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def reduce(page: Floats, size: tuple[int, int], method: Method) -> Floats:
    """Reduce a page, height x width x C, 0..1, to (height, width), and round it to 8 bits."""
    values = to_linear(page) if method.linear else page
    rows, columns = (weights(each, to, method) for each, to in zip(page.shape, size, strict=False))
    values = np.einsum("oh,hwc->owc", rows, values, optimize=True)
    values = np.einsum("pw,owc->opc", columns, values, optimize=True).clip(0, 1)
    return np.rint((to_file(values) if method.linear else values) * 255) / 255


def tone(pitch: float, share: float, side: int) -> Floats:
    """Draw round dots of ink at 45 degrees, antialiased, on white: height x width x 1."""
    fine = 4
    at = (np.arange(side * fine) + 0.5) / fine
    x, y = np.meshgrid(at, at)
    along, across = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    off = np.hypot((along / pitch + 0.5) % 1 - 0.5, (across / pitch + 0.5) % 1 - 0.5)
    ink = (off < np.sqrt(share / np.pi)).reshape(side, fine, side, fine).mean((1, 3))
    return to_file(1 - ink)[:, :, None]


def moire(page: Floats, pitch: float) -> float:
    """Return what varies more slowly than the dots, in levels of 8 bits.

    Args:
        page: reduced; height x width x 1.
        pitch: of the dots there, in pixels.
    """
    light = to_linear(page[:, :, 0])
    light -= light.mean()
    spectrum = np.fft.fft2(light * np.outer(np.hanning(len(light)), np.hanning(len(light))))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(len(light)), np.fft.fftfreq(len(light))))
    # Slower than half of the dots, and seen at reading distance: below a cycle in six pixels.
    slow = (frequency > 2.5 / len(light)) & (frequency < min(0.5 / pitch, 1 / 6))
    energy = float((np.abs(spectrum[slow]) ** 2).sum()) / len(light) ** 2 / (light.size * 0.140625)
    return 255 * float(np.sqrt(energy))


def screens(native: int, factors: Sequence[float]) -> Iterator[dict[str, object]]:
    """Yield the measurements of each drawn tone and factor, by method; ``native`` is the factor of the network."""
    for pitch in PITCHES:
        for share in TONES:
            drawn = tone(pitch * native, share, SIDE)
            for factor in factors:
                side = round(SIDE / factor)
                made = {str(method): reduce(drawn, (side, side), method) for method in METHODS}
                light = to_linear(drawn).mean()
                yield {
                    "pitch": pitch,
                    "ink": share,
                    "reduced_by": factor,
                    "moire": {
                        name: round(moire(page, pitch * native / factor), 3) for name, page in made.items()
                    },
                    "tone_shift": {
                        name: round(255 * float(to_linear(page).mean() - light), 2)
                        for name, page in made.items()
                    },
                }


def descreened() -> Iterator[dict[str, object]]:
    """Yield, for each pitch and filter, the strength that makes a tone even, and what is left of lines of ink."""
    for pitch in PITCHES:
        dots = Image.fromarray(np.rint(tone(pitch, 0.35, 160)[:, :, 0] * 255).astype(np.uint8))
        lines = {}
        for width in (1, 2):
            page = np.full((160, 160), 255, np.uint8)
            page[80 : 80 + width] = 0
            lines[width] = Image.fromarray(page)
        filters: dict[str, list[tuple[float, ImageFilter.Filter]]] = {
            "gaussian": [(radius / 10, ImageFilter.GaussianBlur(radius / 10)) for radius in range(3, 60)],
            "median": [(side, ImageFilter.MedianFilter(side)) for side in range(3, 17, 2)],
        }
        for name, strengths in filters.items():
            for strength, each in strengths:
                if np.asarray(dots.filter(each), np.float64)[20:-20, 20:-20].std() <= EVEN:
                    left = {
                        width: round(1 - float(np.asarray(line.filter(each))[40:-40].min()) / 255, 3)
                        for width, line in lines.items()
                    }
                    yield {"pitch": pitch, "filter": name, "strength": strength, "contrast_left": left}
                    break
            else:
                yield {"pitch": pitch, "filter": name, "strength": None, "contrast_left": {}}


def pages(folder: Path, count: int) -> Iterator[dict[str, object]]:
    """Yield the measurements of crops of real pages, by method."""
    found = resolve_weights(
        MODEL, denoise=None, folders=[REPOSITORY / "weights"], cache=Path(), download=False
    )
    engine = open_torch_engine(load_network(found, None), "cpu")
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".json")
    crops = ((path, crop) for path in paths if (crop := centre_crop(path)) is not None)
    for number, (path, whole) in enumerate(crops):
        if number == count:
            return
        crop = np.asarray(whole.crop((60, 60, 60 + SIDE, 60 + SIDE)), np.float64) / 255
        for halved_in in (False, True):
            half = area(crop, SIDE // 2, linear=halved_in)
            small = np.rint(half * 255).astype(np.uint8)[None]
            native = engine.upscale(Batch(small, (SIDE * NATIVE // 2, SIDE * NATIVE // 2))).pixels[0]
            large = native.astype(np.float64) / 255
            for side in (SIDE, SIDE * 3 // 4):
                truth = crop if side == SIDE else area(crop, side, linear=halved_in)
                yield {
                    "page": path.name,
                    "halved_in_linear_light": halved_in,
                    "reduced_by": SIDE * NATIVE / 2 / side,
                    "psnr": {
                        str(method): round(_psnr(truth, reduce(large, (side, side), method)), 3)
                        for method in METHODS
                    },
                }


def area(page: Floats, side: int, *, linear: bool) -> Floats:
    """Reduce a page to a square by the mean of each area."""
    values = (to_linear(page) if linear else page).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(values[:, :, at]).resize((side, side), Image.Resampling.BOX))
        for at in range(values.shape[2])
    ]
    small = np.dstack(planes).astype(np.float64)
    return to_file(small) if linear else small


def _psnr(one: Floats, other: Floats) -> float:
    return float(-10 * np.log10(max(np.mean((one - other) ** 2), 1e-9)))


def _means(rows: list[dict[str, object]], key: str, by: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return the means of the methods for each group of rows."""
    groups: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = ", ".join(f"{name} {row[name]}" for name in by) or "all"
        values = row[key]
        assert isinstance(values, dict)
        for method, value in values.items():
            groups[group][method].append(abs(value))
    return {
        group: {method: round(statistics.mean(values), 3) for method, values in found.items()}
        for group, found in groups.items()
    }


def main() -> None:
    """Measure, print the means, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=Path, default=PAGES)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    tones, shrunk = list(screens(NATIVE, FACTORS)), list(screens(1, SHRUNK))
    without_dots = list(descreened())
    for each in without_dots:
        print(each)
    found = list(pages(options.pages, options.count))
    summary = {
        "moire": _means(tones, "moire", ("reduced_by",)),
        "tone_shift": _means(tones, "tone_shift", ("reduced_by",)),
        "moire_without_network": _means(shrunk, "moire", ("reduced_by",)),
        "tone_shift_without_network": _means(shrunk, "tone_shift", ("reduced_by",)),
        "psnr": _means(found, "psnr", ("halved_in_linear_light", "reduced_by")),
    }
    for name, groups in summary.items():
        print(f"\n{name}")
        for group, values in groups.items():
            print(f"  {group}: " + "; ".join(f"{method} {value:g}" for method, value in values.items()))
    report = {
        "methods": [asdict(each) for each in METHODS],
        "summary": summary,
        "descreened": without_dots,
        "tones": tones,
        "shrunk": shrunk,
        "pages": found,
    }
    write_report({**facts(1), **report}, options.json)


if __name__ == "__main__":
    main()
