"""How much of real pages is flat, so that a network need not look at it: what skipping it could gain at most.

Usage: python -m benchmarks.flat PAGES... [--reach 17] [--time] [--json FILE]

Around a pixel, a network of 3x3 convolutions sees as many pixels each way as it has of them (`--reach`). So in the
midst of a run of equal rows that is longer than twice the reach, every row comes out the same: all but one of them
can be left out before the network and repeated behind it. The same holds for columns, and a tile that is of one
colour with all that it sees can be painted. Counted for every page, at its own size and shrunk to fit 512 x 768:

* rows, columns: the share of the page that equal rows, or equal columns, would save; both: the two together.
* tiles: the share of tiles of 128 pixels, inside the page, that are of one colour with their surroundings.

``--time`` adds what the package's model takes on the CPU for small pages that
`upscaling/fold.py` folds, folded and whole: processor seconds, the least of three each in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.engines.torch.device import choose_precision
from comic_upscale.engines.torch.fold import find_fold
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

Samples = NDArray[np.uint8]

SMALL = (512, 768)
TILE = 128


def main() -> None:
    """Measure, print a line a page and the means, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--reach", type=int, default=17)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    clock = Clock() if options.time else None
    for path in pages_of(options.pages):
        found = shares(path, options.reach, clock)
        rows += found
        for row in found:
            print(json.dumps(row), flush=True)
    report = {"reach": options.reach, "means": means(rows), "pages": rows}
    print(json.dumps(report["means"], indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def pages_of(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those in the folders named."""
    return [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]


class Clock:
    """Times pages through the package's model on the CPU."""

    def __init__(self) -> None:
        import torch

        weights = resolve_weights(
            "comic-compact-x3", denoise=None, folders=[], cache=Path("weights"), download=False
        )
        network, cpu = load_network(weights, None), torch.device("cpu")
        assert network.receptive_radius is not None
        self._reach = network.receptive_radius
        self._pass = NetworkPass(network, cpu, choose_precision("auto", cpu, network))

    def seconds(self, samples: NDArray[np.uint8]) -> dict[str, float] | None:
        """Processor seconds, folded and whole; None for a page that is not folded."""
        import torch

        window = torch.from_numpy(samples)[None]
        if find_fold(window, self._reach) is None:
            return None
        least = {"folded": float("inf"), "whole": float("inf")}
        with torch.inference_mode():
            for _ in range(3):
                for name, run in (("folded", self._pass), ("whole", self._pass._run)):
                    start = time.process_time()
                    run(window)
                    least[name] = min(least[name], time.process_time() - start)
        return {name: round(seconds, 3) for name, seconds in least.items()}


def shares(path: Path, reach: int, clock: Clock | None) -> list[dict[str, object]]:
    """What could be skipped of a page, at its own size and small; nothing for a file that is no page."""
    try:
        color = decode(path.read_bytes(), max_pixels=200_000_000).color
    except PageError:
        return []
    if color.dtype != np.uint8:
        return []
    image = Image.fromarray(color.squeeze())
    small = image.copy()
    small.thumbnail(SMALL, Image.Resampling.LANCZOS)
    found: list[dict[str, object]] = []
    for size, each in (("full", image), ("small", small)):
        samples = np.atleast_3d(np.asarray(each, np.uint8))
        row: dict[str, object] = {"page": path.name, "size": size, "pixels": list(each.size)}
        row["saved"] = skippable(samples, reach)
        if clock is not None and size == "small":
            row["processor_seconds"] = clock.seconds(samples)
        found.append(row)
    return found


def skippable(samples: Samples, reach: int) -> dict[str, float]:
    """The shares of a page that need not go through the network."""
    rows, columns = saved(samples, reach), saved(samples.swapaxes(0, 1), reach)
    shares = {"rows": rows, "columns": columns, "both": 1 - (1 - rows) * (1 - columns)}
    shares["tiles"] = painted(samples, reach)
    return {name: round(share, 4) for name, share in shares.items()}


def saved(samples: Samples, reach: int) -> float:
    """The share of rows that could be left out, as they and all that they see are equal to the row before."""
    steps = (samples[1:] != samples[:-1]).reshape(len(samples) - 1, -1).any(axis=1)
    breaks = np.concatenate(([-1], np.flatnonzero(steps), [len(samples) - 1]))
    return float(np.maximum(np.diff(breaks) - 2 * reach - 1, 0).sum()) / len(samples)


def painted(samples: Samples, reach: int) -> float:
    """The share of tiles that are of one colour with all that they see, which is nothing beyond the page."""
    height, width = samples.shape[:2]
    tiles = flat = 0
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tiles += 1
            inside = top >= reach and left >= reach
            inside = inside and top + TILE + reach <= height and left + TILE + reach <= width
            if inside:
                window = samples[top - reach : top + TILE + reach, left - reach : left + TILE + reach]
                flat += bool((window == window[0, 0]).all())
    return flat / tiles


def means(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """The means over the pages of a size, and how many pages would gain a twentieth or more."""
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        share = row["saved"]
        assert isinstance(share, dict)
        groups[str(row["size"])].append(share)
    return {
        name: {
            "pages": len(shares),
            **{way: round(statistics.mean(share[way] for share in shares), 4) for way in shares[0]},
            "pages_that_gain_a_twentieth": sum(share["both"] >= 0.05 for share in shares),
        }
        for name, shares in sorted(groups.items())
    }


if __name__ == "__main__":
    main()
