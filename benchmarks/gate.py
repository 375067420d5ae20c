"""What the gate sees: scores of pages that are right, faults planted at the seam for engines, and its own time.

Usage: python -m benchmarks.gate [--pages 60] [--planted 200] [--json FILE]

* clean: pieces of real pages through every model at hand, at 2x and 2.5x, judged as a run judges them. The bounds of
  ``comic_upscale/gate/thresholds.toml`` are set by hand from these distributions; how many pages are
  beyond them now is counted as false alarms.
* planted: pages of the package's own model, with one fault each where an engine hands them over, so that what a run
  puts right afterwards (tone, solid white and black) counts as right. A page that comes out as it would have
  without the fault is mended, and no miss.
* time: the gate's processor time over that of the network, for a page of 512x768 at 2.5x.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import cores, facts, write_report
from benchmarks.whole_run import REPOSITORY, weights_folders
from comic_upscale.errors import PageError
from comic_upscale.gate.scores import Scores, compare
from comic_upscale.gate.verdict import default_bounds, judge, reasons
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights
from comic_upscale.pages.decode import decode
from comic_upscale.pages.page import Pixels, SampleArray, UInt8Array
from comic_upscale.pages.size import target_size
from comic_upscale.upscaling.pages import finish, prepare, upscale_pages
from comic_upscale.upscaling.torch_engine import TorchEngine, open_torch_engine

RESULT = REPOSITORY / "benchmarks" / "results" / "gate-cpu.json"
OWN = "comic-compact-x3"
MODELS = (OWN, "realesr-animevideov3", "realesr-general-x4v3.from-ncnn-fp16.pth")
PIECE = (320, 448)
"""Width and height of a piece of a page."""
Plant = Callable[[UInt8Array, UInt8Array, np.random.Generator], SampleArray]
"""Takes a page as the engine made it, another such page of the same shape, and chance; gives the faulty page."""


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    pieces = list(cut_pieces(options.pages))
    clean: dict[str, list[Scores]] = {}
    made: list[tuple[str, Pixels, Pixels]] = []
    for model in MODELS:
        engine = open_model(model)
        if engine is None:
            continue
        name = model.partition(".")[0]
        for scale in (2.5, 2.0):
            scores = clean.setdefault(f"{name} x{scale:g}", [])
            for label, page in pieces if model == OWN else pieces[::2]:
                result = through(engine, page, scale)
                if scale == 2.5 and model == OWN:
                    made.append((label, page, result))
                done = finish(replace(result, color=result.color.copy()))
                scores.append(compare(page.color, done.color))
            print(name, scale, len(scores), flush=True)
    bounds = default_bounds()
    every = [score for scores in clean.values() for score in scores]
    alarms = [reasons(score, bounds) for score in every]
    report = {
        **facts(torch.get_num_threads()),
        "bounds": asdict(bounds),
        "clean": {
            "pages": len(every),
            "false_alarms": sum(map(bool, alarms)),
            "share": round(sum(map(bool, alarms)) / max(1, len(every)), 4),
            "reasons": sorted({text for texts in alarms for text in texts}),
            "distributions": {name: spread(scores) for name, scores in clean.items()},
        },
        "planted": planted(made, options.planted),
        "time": timed(),
    }
    write_report(report, options.json)
    print(json.dumps({key: report[key] for key in ("clean", "planted", "time")}, indent=1))


def cut_pieces(count: int) -> Iterator[tuple[str, Pixels]]:
    """Yield pieces of real pages, several of each, prepared as a run prepares pages.

    Args:
        count: of pages to cut from.
    """
    comics = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    for path in sorted(comics.glob("*"))[:count]:
        # As with --gray off, so that gray pages of three channels are among them.
        page = decode(path.read_bytes(), max_pixels=10**9, gray="off")
        height, width = page.color.shape[:2]
        rows, columns = min(PIECE[1], height), min(PIECE[0], width)
        for number, (down, right) in enumerate(((0.5, 0.5), (0.1, 0.2), (0.8, 0.7), (0.3, 0.9))):
            top, left = round(down * (height - rows)), round(right * (width - columns))
            if number and (height < 2 * rows or width < 2 * columns):
                break
            color = page.color[top : top + rows, left : left + columns].copy()
            if color.dtype == np.uint8 and color.std() > 2:
                yield f"{path.stem}-{number}", prepare(Pixels(color))


def open_model(model: str) -> TorchEngine | None:
    """Return an engine for a model, None where its weights are not here."""
    folders = weights_folders()
    name = next((str(folder / model) for folder in folders if (folder / model).is_file()), model)
    try:
        weights = resolve_weights(name, denoise=None, folders=folders, cache=Path("weights"), download=False)
    except Exception as error:  # any way of not being here
        print(f"without {model}: {error}")
        return None
    return open_torch_engine(load_network(weights, None), "cpu")


def through(engine: TorchEngine, page: Pixels, scale: float) -> Pixels:
    """Return a page as the engine hands it over."""
    result = upscale_pages(engine, [page], target_size(page.width, page.height, scale))[0]
    if isinstance(result, PageError):
        raise result
    return result


def planted(made: list[tuple[str, Pixels, Pixels]], count: int) -> dict[str, dict[str, object]]:
    """Plant each fault in so many pages, and count what is caught, mended and missed."""
    rng = np.random.default_rng(7)
    pages = [made[index] for index in rng.permutation(len(made))[:count]]
    found: dict[str, dict[str, object]] = {}
    for name, plant in FAULTS.items():
        caught = mended = 0
        missed: list[str] = []
        for label, source, result in pages:
            other = next(
                (
                    each.color
                    for tag, _, each in made
                    if each.color.shape == result.color.shape and tag != label
                ),
                None,
            )
            if other is None or (name == "chroma on gray" and not looks_gray(source)):
                continue
            if name == "white to 252" and np.mean(result.color == 255) < 0.02:
                continue
            faulty = plant(result.color, other, rng)
            right = finish(replace(result, color=result.color.copy())).color.astype(np.int16)
            page = finish(replace(result, color=np.ascontiguousarray(faulty).astype(np.uint8)))
            if judge(source.color, page.color).is_suspect:
                caught += 1
            elif np.abs(page.color - right).mean() < 0.5:
                mended += 1
            else:
                missed.append(label)
        tried = caught + mended + len(missed)
        found[name] = {
            "planted": tried,
            "caught": caught,
            "mended": mended,
            "caught_or_mended": round((caught + mended) / max(1, tried), 3),
            "missed": sorted(missed)[:12],
        }
        print(name, found[name], flush=True)
    return found


def looks_gray(page: Pixels) -> bool:
    """Tell whether a page of three channels has next to no colour."""
    spread_ = page.color.max(axis=2).astype(np.int16) - page.color.min(axis=2)
    return page.color.shape[2] == 3 and bool(np.mean(spread_ <= 6) > 0.99)


def _moved(page: UInt8Array, by: float) -> UInt8Array:
    plane = page[:, :, 0] if page.shape[2] == 1 else page
    image = Image.fromarray(plane)
    affine = (1, 0, by, 0, 1, 0)
    moved = image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(moved).reshape(page.shape)


def _tile(page: UInt8Array, other: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    side = min(256, *page.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in page.shape[:2])
    page = page.copy()
    page[top : top + side, left : left + side] = other[top : top + side, left : left + side]
    return page


def _tint(page: UInt8Array, rng: np.random.Generator) -> SampleArray:
    tinted = page.astype(np.int16)
    tinted[:, :, rng.integers(page.shape[2])] += 3 * int(rng.choice((-1, 1)))
    return tinted.clip(0, 255).astype(np.uint8)


def _chroma(page: UInt8Array) -> SampleArray:
    colored = page.astype(np.int16)
    colored[:, :, 0] += 5
    colored[:, :, 2] -= 5
    return colored.clip(0, 255).astype(np.uint8)


def _seam(page: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Let tiles meet off by some pixels, as they do where one of them lacks its overlap."""
    page = page.copy()
    column = int(rng.integers(page.shape[1] // 4, 3 * page.shape[1] // 4))
    page[:, column : column + 3] = page[:, column - 6 : column - 3]
    darker = page[:, column:].astype(np.int16) - 5
    page[:, column:] = darker.clip(0, 255)
    return page


FAULTS: dict[str, Plant] = {
    "black": lambda page, other, rng: np.zeros_like(page),
    # What is left of a network's NaN once it is cast to bytes; the engine itself sees it before.
    "not finite": lambda page, other, rng: np.where(rng.random(page.shape) < 0.5, 0, page).astype(np.uint8),
    "swapped neighbour": lambda page, other, rng: other,
    "tile of another page": _tile,
    "tint of 3 levels": lambda page, other, rng: _tint(page, rng),
    "white to 252": lambda page, other, rng: np.minimum(page, 252),
    "seam": lambda page, other, rng: _seam(page, rng),
    "chroma on gray": lambda page, other, rng: _chroma(page),
    "half-pixel shift": lambda page, other, rng: _moved(page, 1.25),
}


def spread(scores: list[Scores]) -> dict[str, list[float]]:
    """Least, 1st, 50th and 99th percentile, and most of each score."""
    return {
        name: [
            round(float(value), 4)
            for value in np.percentile([getattr(score, name) for score in scores], (0, 1, 50, 99, 100))
        ]
        for name in Scores.__slots__
    }


def timed() -> dict[str, float]:
    """Milliseconds of processor time of the gate and of the network, the best of five, and their ratio."""
    rng = np.random.default_rng(3)
    engine = open_model(OWN)
    assert engine is not None
    base = rng.integers(0, 256, (96, 64, 3), np.uint8)
    color = np.asarray(Image.fromarray(base).resize((512, 768), Image.Resampling.BICUBIC))
    page = prepare(Pixels(color))
    result = through(engine, page, 2.5)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return 1000 * min(times)

    gate = best(lambda: judge(page.color, result.color))
    network = best(lambda: through(engine, page, 2.5))
    return {"gate_ms": round(gate, 1), "network_ms": round(network, 1), "share": round(gate / network, 4)}


if __name__ == "__main__":
    main()
