"""What ``--crop-margins`` cuts from real pages: how much, and how far its pixels differ from the paper.

python -m benchmarks.margins FOLDER [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.margins import find_content


def measure(data: bytes) -> tuple[float, int]:
    """Return the part of a page that is cut, and the largest difference of a cut pixel from the paper of its side.

    Args:
        data: the file of a page.
    """
    page = decode(data, max_pixels=10**8, gray="auto")
    color = eight_bits(page.color).astype(int)
    top, bottom, left, right = find_content(page)
    largest = 0
    for side in (
        color[:top],
        color[bottom:][::-1],
        color[:, :left].swapaxes(0, 1),
        color[:, right:][:, ::-1].swapaxes(0, 1),
    ):
        if side.size:
            paper = np.median(side[:2], axis=(0, 1))
            largest = max(largest, int(np.abs(side - paper).max()))
    return 1 - (bottom - top) * (right - left) / (page.width * page.height), largest


def main() -> None:
    """Print a row for each page, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.folder.rglob("*")):
        try:
            share, largest = measure(path.read_bytes())
        except (PageError, OSError):
            continue
        rows.append({"page": path.name, "cut": round(share, 4), "largest_difference": largest})
        print(f"{share:7.1%}  {largest:3}  {path.name}")
    cut = [row for row in rows if row["cut"]]
    print(
        f"{len(rows)} pages, {len(cut)} of them cropped, by up to {max(row['cut'] for row in rows):.0%}; "
        f"largest difference {max(row['largest_difference'] for row in rows)}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
