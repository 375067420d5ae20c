"""Draws the example pages: `python examples/draw.py [folder]`, by default into examples/pages/.

The pages are kept in the repository, so this needs to be run only after a change to a drawing. It needs Pillow,
numpy and two fonts under the SIL Open Font License, which Debian packages as fonts-comic-neue and fonts-reggae.
The same Pillow draws the same bytes each time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from drawing.lettering import FontMissingError
from drawing.pages import argument, harvest, night, parcel, squint, stickers
from drawing.pen import Sheet
from PIL import Image


def _true_colour(sheet: Sheet) -> Image.Image:
    return sheet.shrunk().convert("RGB")


def _palette(sheet: Sheet) -> Image.Image:
    return _true_colour(sheet).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)


def _grey(sheet: Sheet) -> Image.Image:
    return _true_colour(sheet).convert("L").point(lambda value: round(value / 17) * 17)


def _see_through(sheet: Sheet) -> Image.Image:
    page = sheet.shrunk()
    edges = page.getchannel("A").point(lambda value: round(value / 17) * 17)
    page = _coarser(page.convert("RGB")).convert("RGBA")
    page.putalpha(edges)
    blank = Image.new("RGBA", page.size)
    blank.paste(page, mask=edges.point(lambda value: 255 if value else 0))
    return blank


def _coarser(page: Image.Image) -> Image.Image:
    return page.point(lambda value: round(value / 5) * 5)


PAGES: dict[str, tuple[Callable[[], Sheet], Callable[[Sheet], Image.Image]]] = {
    "001.png": (parcel.draw, _palette),
    "002.png": (squint.draw, _grey),
    "003.png": (night.draw, _true_colour),
    "004.png": (argument.draw, _palette),
    "chapter-2/001.jpg": (harvest.draw, _true_colour),
    "stickers.png": (stickers.draw, _see_through),
}


def main(folder: Path) -> None:
    """Draw every page into the folder."""
    for name, (draw, finish) in PAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"quality": 88, "optimize": True} if path.suffix == ".jpg" else {"optimize": True}
        page = finish(draw())
        page.save(path, **options)
        print(f"{path}: {page.width}x{page.height} {page.mode}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pages")
    except FontMissingError as error:
        sys.exit(str(error))
