"""Feed mutated archives and images to the readers: whatever comes, they answer, or fail in words.

    python benchmarks/fuzz_readers.py --count 20000 [--kind images] [--seed 1] [--corpus DIR ...] [--json FILE]

Takes good archives, or images of every format that is read (small ones made here, and the files of
--corpus), changes bytes, cuts, repeats and mixes, then reads them. Each must end with bytes or a `PageError`
within --seconds, in bounded memory, and leave no file behind. A crash of a library ends this process: the seed
and the last number printed make it again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comic_upscale.imaging.formats import IMAGE_EXTENSIONS
from tests.fuzz import image_outcome, image_seeds, mutate, outcome, seeds

ARCHIVES = (".cbz", ".cbr", ".cb7", ".cbt", ".epub", ".pdf")
IMAGES = tuple(sorted(f".{extension}" for extension in IMAGE_EXTENSIONS))


def main() -> int:
    """Run the fuzz and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--kind", choices=("archives", "images"), default="archives")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="longest that one file may take")
    parser.add_argument(
        "--corpus", type=Path, action="append", default=[], help="folders of further files of the kind"
    )
    parser.add_argument(
        "--largest", type=int, default=200_000, help="bytes; larger files of a corpus are left out"
    )
    parser.add_argument("--json", type=lambda text: Path(text).absolute())
    arguments = parser.parse_args()
    # What odd tags say by way of warnings is no failure; the command line silences them, too.
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        result = fuzz(arguments, Path(name))
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def fuzz(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Break files one after the other in a folder that nothing else uses, and tell what came of all."""
    images = arguments.kind == "images"
    chance = random.Random(arguments.seed)
    outcomes = collections.Counter[str]()
    corpus = image_seeds() if images else seeds(folder)
    suffixes = IMAGES if images else (*ARCHIVES, ".zip", ".rar", ".7z")
    for extra in arguments.corpus:
        corpus += [
            path.read_bytes()
            for path in sorted(extra.iterdir())
            if path.suffix in suffixes and path.stat().st_size <= arguments.largest
        ]
    for path in folder.iterdir():
        path.unlink()
    # The readers write nothing: what appears where they work, or where programs keep what is temporary, is theirs.
    os.chdir(folder)
    before = memory_mb()
    slowest, began = 0.0, time.monotonic()
    for number in range(arguments.count):
        path = folder / ("page" if images else f"v{chance.choice(ARCHIVES)}")
        path.write_bytes(mutate(chance.choice(corpus), chance, corpus))
        if number % 500 == 0:
            print(f"{number:,} of {arguments.count:,}", flush=True)
        start = time.monotonic()
        try:
            outcomes[image_outcome(path.read_bytes()) if images else outcome(path)] += 1
        except BaseException:
            keep = folder.parent / f"fuzz-{arguments.seed}-{number}{path.suffix}"
            path.replace(keep)  # so that it can be looked at
            print(f"number {number}: {keep}", flush=True)
            raise
        took = time.monotonic() - start
        slowest = max(slowest, took)
        if took > arguments.seconds:
            raise TimeoutError(f"number {number} took {took:.1f} s")
        path.unlink()
        left = list(folder.iterdir())
        assert not left, f"number {number} left {left}"
    return {
        "count": arguments.count,
        "seed": arguments.seed,
        f"{arguments.kind} in the corpus": len(corpus),
        "seconds": round(time.monotonic() - began, 1),
        "slowest seconds": round(slowest, 3),
        "memory before, MB": before,
        "largest memory, MB": memory_mb(),
        "outcomes": dict(outcomes.most_common()),
    }


def memory_mb() -> int:
    """Return the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
