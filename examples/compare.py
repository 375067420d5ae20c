"""Draw the README's picture: parts of two example pages, enlarged by bicubic and by comic-upscale.

Usage: python examples/compare.py [UPSCALED-FOLDER [PICTURE]]

Run `make demo` first. Both sides show the same pixels of the same page at the same size. The left side is what an
image viewer shows when it enlarges the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
PARTS = {"004.png": (24, 668, 188, 760), "002.png": (332, 292, 496, 380)}
"""Left, top, right, bottom of a part in pixels of the source, for each page."""
SCALE = 2.5
LABELS = ("bicubic, 2.5x", "comic-upscale, 2.5x")
GAP = 8
LABEL_HEIGHT = 26


def main() -> None:
    """Draw it."""
    arguments = [Path(argument) for argument in sys.argv[1:]]
    folder = arguments[0] if arguments else HERE / "pages-x2.5"
    picture = arguments[1] if len(arguments) > 1 else HERE.parent / "docs" / "before-after.png"
    rows = [sides(folder, page, part) for page, part in PARTS.items()]
    width = max(before.width for before, _ in rows)
    height = LABEL_HEIGHT + sum(before.height + GAP for before, _ in rows) - GAP
    drawn = Image.new("RGB", (2 * width + GAP, height), "white")
    font = ImageFont.load_default(size=18)
    for label, left in zip(LABELS, (0, width + GAP), strict=True):
        ImageDraw.Draw(drawn).text((left + 2, 1), label, fill="black", font=font)
    top = LABEL_HEIGHT
    for before, after in rows:
        drawn.paste(before, (0, top))
        drawn.paste(after, (width + GAP, top))
        top += before.height + GAP
    drawn.save(picture, optimize=True)
    print(f"{picture}: {drawn.width}x{drawn.height}, {picture.stat().st_size:,} bytes")


def sides(folder: Path, page: str, part: tuple[int, int, int, int]) -> tuple[Image.Image, Image.Image]:
    """The part of the page as bicubic enlarges it, and as it was upscaled."""
    box = tuple(round(edge * SCALE) for edge in part)
    with Image.open(HERE / "pages" / page) as source, Image.open(folder / page) as upscaled:
        after = upscaled.convert("RGB")
        before = source.convert("RGB").resize(after.size, Image.Resampling.BICUBIC)
        return before.crop(box), after.crop(box)


if __name__ == "__main__":
    main()
