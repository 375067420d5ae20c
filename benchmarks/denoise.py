"""What a denoise strength does: likeness to the original, and how much white is white, by JPEG quality and strength.

Usage: python -m benchmarks.denoise [--model comic-fast] [--pages N] [--side 480] [--factors 2 2.5]
                                    [--qualities 30 50 75] [--strengths 0 0.5 1] [--threads N] [--json FILE]

Originals are the middles of the CC BY-SA pages that no model of ours was trained on. They are shrunk (bicubic), clean
and through JPEG, and enlarged as a run does it.

* Likeness is the mean PSNR on luma over the pages, in decibels.
* White is counted where the original is pure white with its eight neighbours: the share of these pixels that is pure
  white (255), in the input and in each output, and by how many levels they fall short on average.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.candidates import weights_folders
from benchmarks.machine import cores, facts, write_report
from benchmarks.sheets import choose_pages
from benchmarks.texture import white_kept, white_mask
from benchmarks.validation import REPOSITORY, AbsentError, open_original, validation_pages
from comic_upscale import Upscaler
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.metrics import psnr
from comic_upscale.evaluation.picture import as_pixels, luma
from comic_upscale.evaluation.shrunk import Track, shrink_original
from comic_upscale.models.catalogue import in_family

RESULT = REPOSITORY / "benchmarks" / "results" / "denoise-cpu.json"
INPUT = "input"
"""What the tables call the page before the network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the report; return the exit code, 2 where something is absent or refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="comic-fast")
    parser.add_argument("--pages", type=int, help="a sample of this number of pages, spread evenly")
    parser.add_argument("--side", type=int, default=480, help="the longest side of an original, in pixels")
    parser.add_argument("--factors", type=float, nargs="+", default=[2, 2.5])
    parser.add_argument("--qualities", type=int, nargs="+", default=[30, 50, 75])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.5, 1])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    try:
        report = measure(options)
    except (AbsentError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(as_markdown(report))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the report; it is written after every page.

    Raises:
        AbsentError: the pages are not on this machine.
        SettingsError: the model has no such strength.
    """
    torch.set_num_threads(options.threads)
    tracks = [
        Track(f"x{factor:g} {'clean' if quality is None else f'JPEG {quality}'}", factor, quality)
        for factor in options.factors
        for quality in (None, *options.qualities)
    ]
    likeness: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    white: dict[str, dict[str, list[tuple[int, int, float]]]] = defaultdict(lambda: defaultdict(list))
    every_page = validation_pages()
    pages = choose_pages(every_page, None, options.pages)
    report: dict[str, Any] = {}
    with ExitStack() as stack:
        opened = {
            (factor, strength): stack.enter_context(
                Upscaler(
                    in_family(options.model, factor),
                    denoise=strength,
                    device="cpu",
                    weights_folders=weights_folders(),
                )
            )
            for factor in options.factors
            for strength in options.strengths
        }
        for page in pages:
            original = open_original(page, (options.side, options.side))
            mask = white_mask(original)
            for track in tracks:
                small = shrink_original(original, track)
                shown = {INPUT: small.resize(original.size, Image.Resampling.NEAREST)}
                for strength in options.strengths:
                    output = _enlarge(opened[track.factor, strength], small, track)
                    shown[f"{strength:g}"] = output
                    likeness[track.name][f"{strength:g}"].append(_psnr(output, original))
                for name, picture in shown.items():
                    kept = white_kept(mask, picture)
                    white[track.name][name].append((kept.pixels, kept.pure, _missing(mask, picture)))
            report = {
                **facts(options.threads),
                "model": options.model,
                "pages": f"{len(pages)} of {len(every_page)} CC BY-SA pages, at most {options.side} pixels a side",
                "psnr": {
                    track: {name: round(statistics.fmean(scores), 3) for name, scores in found.items()}
                    for track, found in likeness.items()
                },
                "white": {
                    track: {name: _shares(counts) for name, counts in found.items()}
                    for track, found in white.items()
                },
            }
            write_report(report, options.json)
            print(page.name, file=sys.stderr, flush=True)
    return report


def _enlarge(upscaler: Upscaler, small: Image.Image, track: Track) -> Image.Image:
    """Return a page as a run makes it, which treats pages from JPEGs as such."""
    page = replace(as_pixels(small), lossless=track.quality is None)
    color = upscaler.upscale_pixels(page, track.factor).color
    return Image.fromarray(color[:, :, 0] if color.shape[2] == 1 else color)


def _psnr(output: Image.Image, original: Image.Image) -> float:
    one, other = (torch.from_numpy(luma(as_pixels(image).color)) for image in (output, original))
    return psnr(one, other)


def _missing(mask: np.ndarray, picture: Image.Image) -> float:
    """Return the levels that white pixels fall short of 255, all together."""
    levels = as_pixels(picture).color.min(axis=2)[mask]
    return float((255 - levels.astype(np.int64)).sum())


def _shares(counts: Sequence[tuple[int, int, float]]) -> dict[str, float]:
    pixels, pure, missing = (sum(column) for column in zip(*counts, strict=True))
    return {"pure": round(pure / max(1, pixels), 4), "short": round(missing / max(1, pixels), 3)}


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return a table of a row for each track: PSNR by strength, then pure white of the input and by strength."""
    strengths = list(next(iter(report["psnr"].values())))
    heads = [f"PSNR at {each}" for each in strengths] + [
        f"white {each}" for each in (INPUT, *(f"at {strength}" for strength in strengths))
    ]
    lines = ["| track | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    for track, scores in report["psnr"].items():
        shares = report["white"][track]
        cells = [f"{scores[each]:.2f}" for each in strengths] + [
            f"{shares[each]['pure']:.1%}" for each in (INPUT, *strengths)
        ]
        lines.append(f"| {track} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
