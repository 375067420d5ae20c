"""Draw the README's picture: parts of two pages, enlarged by bicubic and by comic-upscale.

Usage: python examples/compare.py PAGE [PICTURE]

PAGE is page 5 of episode 17 of Pepper&Carrot by David Revoy (https://www.peppercarrot.com, CC BY 4.0) without its
lettering, 992x1401 pixels: the file ``gfx_Pepper-and-Carrot_by-David-Revoy_E17P05.png``. It is reduced to half first.
No network of the package was trained on it. The other page is one of `pages/`. Both sides show the same pixels at the
same size. The left side is what an image viewer shows when it enlarges the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from comic_upscale import Upscaler

HERE = Path(__file__).resolve().parent
PAINTED = ("comic-crisp", (196, 492, 360, 612))
DRAWN = ("comic-best", (24, 668, 188, 760))
"""The model; left, top, right and bottom of the part, in pixels of the small page."""
ORIGINAL_SIZE = (992, 1401)
SCALE = 2.5
GAP = 8
LABEL_HEIGHT = 26


def main() -> None:
    """Draw it."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / "docs" / "before-after.png"
    with Image.open(sys.argv[1]) as original, Image.open(HERE / "pages" / "004.png") as page:
        if original.size != ORIGINAL_SIZE:
            raise SystemExit(
                f"{sys.argv[1]} has {original.width}x{original.height} pixels: it is another page"
            )
        painted = original.convert("RGB").reduce(2)
        rows = [sides(painted, *PAINTED), sides(page.convert("RGB"), *DRAWN)]
    width = max(before.width for _, before, _ in rows)
    height = sum(LABEL_HEIGHT + before.height + GAP for _, before, _ in rows) - GAP
    drawn = Image.new("RGB", (2 * width + GAP, height), "white")
    top = 0
    for model, before, after in rows:
        for label, part, left in (("bicubic", before, 0), (model, after, width + GAP)):
            font = ImageFont.load_default(size=18)
            ImageDraw.Draw(drawn).text((left + 2, top + 1), f"{label}, {SCALE}x", fill="black", font=font)
            drawn.paste(part, (left, top + LABEL_HEIGHT))
        top += LABEL_HEIGHT + before.height + GAP
    drawn.save(picture, optimize=True)
    print(f"{picture}: {drawn.width}x{drawn.height}, {picture.stat().st_size:,} bytes")


def sides(
    page: Image.Image, model: str, part: tuple[int, int, int, int]
) -> tuple[str, Image.Image, Image.Image]:
    """Return the model, and the part of the page as bicubic and the model enlarge it."""
    box = tuple(round(edge * SCALE) for edge in part)
    with Upscaler(model, device="cpu") as upscaler:
        after = upscaler.upscale(page, SCALE)
    before = page.resize(after.size, Image.Resampling.BICUBIC)
    return model, before.crop(box), after.crop(box)


if __name__ == "__main__":
    main()
