"""Draw the README's picture: a part of an example page as it is, beside the same part upscaled.

Usage: python examples/compare.py [UPSCALED-FOLDER [PICTURE]]

Run `make demo` first. The part on the left is enlarged without smoothing, so that it shows the pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
PAGE = "001.png"
PART = (322, 318, 498, 430)
"""Left, top, right, bottom in pixels of the source."""
SCALE = 2.5
GAP = 12


def main() -> None:
    """Draw it."""
    arguments = [Path(argument) for argument in sys.argv[1:]]
    folder = arguments[0] if arguments else HERE / "pages-x2.5"
    picture = arguments[1] if len(arguments) > 1 else HERE.parent / "docs" / "before-after.png"
    with Image.open(HERE / "pages" / PAGE) as page, Image.open(folder / PAGE) as upscaled:
        after = upscaled.convert("RGB").crop(tuple(round(side * SCALE) for side in PART))
        before = page.convert("RGB").crop(PART).resize(after.size, Image.Resampling.NEAREST)
    both = Image.new("RGB", (2 * after.width + GAP, after.height), "white")
    both.paste(before, (0, 0))
    both.paste(after, (after.width + GAP, 0))
    both.save(picture, optimize=True)
    print(f"{picture}: {both.width}x{both.height}")


if __name__ == "__main__":
    main()
