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
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comic_upscale.errors import PageError
from comic_upscale.pages.containers import list_volume, open_container
from comic_upscale.pages.decode import decode
from comic_upscale.settings import VolumeRules

RULES = VolumeRules(max_members=2000, max_unpacked=256 << 20, max_pixels=4_000_000)
SUFFIXES = (".cbz", ".cbr", ".cb7", ".cbt", ".epub", ".pdf")


def seeds(folder: Path) -> list[bytes]:
    """Small good archives of every kind that can be made here."""
    from tests.archives import make_7z, make_tar, make_zip, pictures
    from tests.pages.test_containers import as_jpeg_pdf, epub, smooth

    inside = {**pictures(3), "a/ComicInfo.xml": b"<ComicInfo/>"}
    images = {f"OPS/{name}": data for name, data in pictures(2).items()}
    book = epub([("one", "p02.png"), ("two", "1.xhtml")], {**images, "OPS/1.xhtml": b"<img src='p01.png'>"})
    made = [
        make_zip(folder / "a", inside),
        make_zip(folder / "b", inside, 0),
        make_zip(folder / "c", book),
        make_tar(folder / "d", inside),
        make_tar(folder / "e", inside, "w:gz"),
        make_tar(folder / "f", inside, "w:xz"),
        make_7z(folder / "g", inside),
        as_jpeg_pdf(folder / "h.pdf", smooth((60, 80)), smooth((50, 70))),
    ]
    return [path.read_bytes() for path in made]


def mutate(data: bytes, chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change an archive in one of several ways, some of them several times."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        way = chance.randrange(7)
        at = chance.randrange(len(changed) + 1)
        # Directories stand at the ends: half of the changes go there.
        if chance.random() < 0.5 and len(changed) > 600:
            at = chance.choice((chance.randrange(300), len(changed) - chance.randrange(1, 300)))
        if way == 0 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif way == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            changed[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\1\0\0\0"))
        elif way == 3:
            del changed[at:]
        elif way == 4:
            del changed[at : at + chance.randrange(1, 200)]
        elif way == 5:
            piece = changed[at : at + chance.randrange(1, 400)]
            changed[at:at] = piece
        else:
            other = chance.choice(corpus)
            start = chance.randrange(len(other))
            changed[at : at + 100] = other[start : start + 100]
        if not changed:
            break
    return bytes(changed)


def outcome(path: Path, pages: int = 8) -> str:
    """List a volume and read its first pages; ``"read"``, or the kind of what was said instead.

    Anything but a `PageError` goes through: that is what is looked for.
    """
    try:
        listed = list_volume(path, RULES, extension="png")
    except PageError as error:
        return f"refused: {error.kind}"
    kinds = collections.Counter[str]()
    container = open_container(path, RULES)
    try:
        for member in listed.members[:pages]:
            try:
                data = container.read(member.index)
                if member.is_page:
                    decode(data, max_pixels=RULES.max_pixels)
            except PageError as error:
                kinds[error.kind] += 1
    finally:
        container.close()
    return "read" if not kinds else f"page: {kinds.most_common(1)[0][0]}"


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
