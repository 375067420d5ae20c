"""What `--levels auto` and `--neutral-paper` do to real gray pages as a scanner gives them.

Usage: python -m benchmarks.levels [--json FILE]

Every gray page of shared/comics/dev with white paper is given the black and the white of a scan, the grain of its
paper, and the losses of a JPEG; then also the colour of yellowed paper. The original is known, so this is measured:

* PSNR against the original before and after. Without levels it is that of a page that is too gray.
* Lines lost: places of 3 x 3 pixels where the scan has contrast, and the result has none at all.
* Tones clipped: pixels between 20 and 235 in the original that became pure black or white.
* The same for all pages as one volume, whose scanner drifts from page to page, with ``auto`` and ``volume``.
* Whether the points were found, and whether yellowed pages became gray.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.validation import REPOSITORY
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.levels import apply_levels, find_points, find_shades, points_of_volume
from comic_upscale.imaging.paper import neutralise_paper
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.jobs.volume_levels import MEASURED_PAGES
from comic_upscale.settings.levels import Levels

RESULT = REPOSITORY / "benchmarks" / "results" / "levels-cpu.json"
PAGES = REPOSITORY.parent / "shared" / "comics" / "dev"
SCANS = ((20, 228, 2.0, 90), (35, 205, 4.0, 80), (0, 235, 3.0, 92))
"""Shade of the ink, shade of the paper, grain, and quality of the JPEG."""
PAPER = np.array([1.0, 0.93, 0.78])
"""The colour of yellowed paper, as a share of each channel."""
MOST_PIXELS = 4_000_000
DRIFT = 6
"""Shades by which a scanner makes the pages of a volume lighter or darker."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One page as one scan gives it."""

    page: str
    scan: str
    points: str | None
    psnr_before: float
    psnr_after: float
    lines_lost: float
    """Share of the places with contrast."""
    tones_clipped: float
    """Share of the pixels between black and white."""
    became_gray: bool
    """Whether the yellowed page has one channel once its paper is neutral."""


def scan(shades: NDArray[np.float64], black: int, white: int, grain: float, quality: int) -> Pixels:
    """Return a page, height x width or height x width x 3 with 255 as white, as a scanner and its JPEG give it."""
    rng = np.random.default_rng(1)
    noisy = black + shades * (white - black) / 255 + rng.normal(0, grain, shades.shape)
    file = io.BytesIO()
    Image.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return decode(file.getvalue(), max_pixels=MOST_PIXELS, gray="auto")


def measure(name: str, page: Pixels) -> Iterator[Measured]:
    """Yield the measurements of a gray page."""
    original = page.color[:, :, 0]
    for black, white, grain, quality in SCANS:
        found = scan(original.astype(np.float64), black, white, grain, quality)
        before, after = (each.color[:, :, 0] for each in (found, apply_levels(found, Levels())))
        has_contrast = _contrast(before) >= max(16, 5 * grain)
        middle = (original > 20) & (original < 235)
        yellow = scan(original[:, :, None] * PAPER, black, white, grain, quality)
        points = find_points(found.color)
        yield Measured(
            page=name,
            scan=f"ink {black}, paper {white}, grain {grain:g}, JPEG {quality}",
            points=None if points is None else str(points),
            psnr_before=_psnr(original, before),
            psnr_after=_psnr(original, after),
            lines_lost=float((has_contrast & (_contrast(after) == 0)).sum() / max(1, has_contrast.sum())),
            tones_clipped=float((middle & ((after == 0) | (after == 255))).sum() / max(1, middle.sum())),
            became_gray=neutralise_paper(yellow, gray=True).color.shape[2] == 1,
        )


@dataclass(frozen=True, slots=True)
class MeasuredVolume:
    """All gray pages as one volume, whose scanner drifts from page to page."""

    scan: str
    points: str | None
    psnr_before: float
    psnr_auto: float
    psnr_volume: float
    least_auto: float
    """PSNR of the page that ``auto`` serves worst."""
    least_volume: float
    measuring_seconds: float
    """To find the points in `MEASURED_PAGES` pages, decoded already."""


def measure_volumes(pages: list[Pixels]) -> Iterator[MeasuredVolume]:
    """Yield the measurements of the pages as a volume, for each scan."""
    drifts = np.random.default_rng(7).integers(-DRIFT, DRIFT + 1, len(pages))
    for black, white, grain, quality in SCANS:
        originals = [page.color[:, :, 0] for page in pages]
        scans = [
            scan(each.astype(np.float64), max(0, black + drift // 2), white + drift, grain, quality)
            for each, drift in zip(originals, drifts.tolist(), strict=True)
        ]
        start = time.perf_counter()
        shades = [found for each in scans[:MEASURED_PAGES] if (found := find_shades(each)) is not None]
        seconds = time.perf_counter() - start
        points = points_of_volume(shades)
        psnr: dict[str, list[float]] = {}
        for original, each in zip(originals, scans, strict=True):
            made = {
                "before": each,
                "auto": apply_levels(each, Levels()),
                "volume": apply_levels(each, Levels(per_volume=True), points),
            }
            for name, page in made.items():
                psnr.setdefault(name, []).append(_psnr(original, page.color[:, :, 0]))
        yield MeasuredVolume(
            scan=f"ink {black}, paper {white}, drift {DRIFT}, grain {grain:g}, JPEG {quality}",
            points=None if points is None else str(points),
            psnr_before=round(statistics.mean(psnr["before"]), 2),
            psnr_auto=round(statistics.mean(psnr["auto"]), 2),
            psnr_volume=round(statistics.mean(psnr["volume"]), 2),
            least_auto=min(psnr["auto"]),
            least_volume=min(psnr["volume"]),
            measuring_seconds=round(seconds, 2),
        )


def _contrast(gray: NDArray[np.uint8]) -> NDArray[np.int64]:
    windows = sliding_window_view(gray, (3, 3))
    contrast: NDArray[np.int64] = windows.max((2, 3)).astype(np.int64) - windows.min((2, 3))
    return contrast


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return round(float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))), 2)


def gray_pages(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Yield the gray pages of a folder that have white paper."""
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                continue
        page = decode(path.read_bytes(), max_pixels=MOST_PIXELS, gray="auto")
        if page.color.shape[2] == 1 and (page.color >= 252).mean() > 0.1:
            yield path.name, page


def main() -> None:
    """Measure, print the means, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    pages = list(gray_pages(PAGES))
    rows = [each for name, page in pages for each in measure(name, page)]
    volumes = [asdict(each) for each in measure_volumes([page for _, page in pages])]
    summary = {
        "pages": len({row.page for row in rows}),
        "scans": len(rows),
        "without_points": sum(row.points is None for row in rows),
        "psnr_before": round(statistics.mean(row.psnr_before for row in rows), 2),
        "psnr_after": round(statistics.mean(row.psnr_after for row in rows), 2),
        "psnr_least_gain": round(min(row.psnr_after - row.psnr_before for row in rows), 2),
        "most_lines_lost": max(row.lines_lost for row in rows),
        "most_tones_clipped": max(row.tones_clipped for row in rows),
        "became_gray": sum(row.became_gray for row in rows),
    }
    for name, value in summary.items():
        print(f"{name}: {value}")
    for volume in volumes:
        print(volume)
    report = {"summary": summary, "volumes": volumes, "scans": [asdict(row) for row in rows]}
    write_report({**facts(1), **report}, arguments.json)


if __name__ == "__main__":
    main()
