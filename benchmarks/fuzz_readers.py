"""Feed mutated archives and images to the readers: whatever comes, they answer, or fail in words.

    python benchmarks/fuzz_readers.py --count 20000 [--seed 1] [--corpus DIR ...] [--json FILE]

Takes good archives (small ones made here, and the files of --corpus), changes bytes, cuts, repeats and
mixes, then lists and reads them. Each must end with bytes or a `PageError` within --seconds, and leave no
file behind. A crash of a library ends this process: the seed and the last number printed make it again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzz import mutate, outcome, seeds

SUFFIXES = (".cbz", ".cbr", ".cb7", ".cbt", ".epub", ".pdf")


def main() -> int:
    """Run the fuzz and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="longest that one file may take")
    parser.add_argument(
        "--corpus", type=Path, action="append", default=[], help="folders of further archives"
    )
    parser.add_argument(
        "--largest", type=int, default=200_000, help="bytes; larger files of a corpus are left out"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    outcomes = collections.Counter[str]()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = seeds(folder)
        for extra in arguments.corpus:
            corpus += [
                path.read_bytes()
                for path in sorted(extra.iterdir())
                if path.suffix in (*SUFFIXES, ".zip", ".rar", ".7z")
                and path.stat().st_size <= arguments.largest
            ]
        for path in folder.iterdir():
            path.unlink()
        began = time.monotonic()
        for number in range(arguments.count):
            path = folder / f"v{chance.choice(SUFFIXES)}"
            path.write_bytes(mutate(chance.choice(corpus), chance, corpus))
            if number % 500 == 0:
                print(f"{number:,} of {arguments.count:,}", flush=True)
            start = time.monotonic()
            try:
                outcomes[outcome(path)] += 1
            except BaseException:
                keep = Path(tempfile.gettempdir()) / f"fuzz-{arguments.seed}-{number}{path.suffix}"
                os.replace(path, keep)  # noqa: PTH105 - so that it can be looked at
                print(f"number {number}: {keep}", flush=True)
                raise
            took = time.monotonic() - start
            slowest = max(slowest, took)
            if took > arguments.seconds:
                print(f"number {number} took {took:.1f} s", flush=True)
                return 1
            path.unlink()
            left = list(folder.iterdir())
            assert not left, f"number {number} left {left}"
        seconds = time.monotonic() - began
    result = {
        "count": arguments.count,
        "seed": arguments.seed,
        "archives in the corpus": len(corpus),
        "seconds": round(seconds, 1),
        "slowest seconds": round(slowest, 3),
        "outcomes": dict(outcomes.most_common()),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
