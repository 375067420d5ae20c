"""Contact sheets to judge models by eye: one detailed region of a page, restored by each, beside the original.

Usage: python -m benchmarks.sheets FOLDER [--pages 10 | --page NAME ...] [--model NAME|FILE ...] [--peers]
                                          [--track x2.5-clean] [--side 240] [--threads N]

Validation pages are shrunk and enlarged again as in `benchmarks.quality`. The region with the most gradient
is shown at 200 % (nearest neighbour), the input enlarged by nearest neighbour to the same size. The pictures
are made from CC BY-SA pages: keep them out of the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from benchmarks.candidates import gather
from benchmarks.machine import cores
from benchmarks.validation import (
    TRACKS,
    AbsentError,
    ValidationPage,
    open_original,
    refuse_in_repository,
    validation_pages,
)
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.picture import Box, as_pixels, busiest_region, detail
from comic_upscale.evaluation.sheet import row_of
from comic_upscale.evaluation.shrunk import shrink_original, spread

ZOOM = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sheets and print their paths; return the exit code, 2 where something is absent or refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pages", type=int, default=10)
    which.add_argument("--page", dest="names", action="extend", nargs="+", metavar="NAME")
    parser.add_argument(
        "--model", "--models", dest="models", action="extend", nargs="+", default=[], metavar="NAME|FILE"
    )
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--track", choices=[track.name for track in TRACKS], default="x2.5-clean")
    parser.add_argument("--side", type=int, default=240, help="of the region, in pixels of the original")
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args(arguments)
    try:
        write_sheets(options)
    except (AbsentError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def write_sheets(options: argparse.Namespace) -> None:
    """Write one PNG a page into the folder.

    Raises:
        AbsentError: pages or peers are not on this machine, or the folder is inside the repository.
        WeightsError: a model is not there.
    """
    refuse_in_repository(options.folder)
    pages = choose_pages(validation_pages(), options.names, options.pages)
    track = next(track for track in TRACKS if track.name == options.track)
    candidates = [each for each in gather(options.models, peers=options.peers) if each.fits(track)]
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened = [(each.label, stack.enter_context(each.open(options.threads))) for each in candidates]
        for page in pages:
            original = open_original(page)
            small = shrink_original(original, track)
            box = detailed_region(original, options.side)
            whole = [("input", small.resize(original.size, Image.Resampling.NEAREST))]
            whole += [(label, upscale(small, track.factor)) for label, upscale in opened]
            whole.append(("original", original))
            path = options.folder / f"{Path(page.name).stem}-{track.name}.png"
            sheet([(label, image.crop(box)) for label, image in whole]).save(path)
            print(path, flush=True)


def choose_pages(
    pages: Sequence[ValidationPage], names: Sequence[str] | None, count: int | None
) -> list[ValidationPage]:
    """Return the pages named, or this number, spread over the sets; all pages for None.

    Raises:
        AbsentError: a name is none of a validation page.
    """
    if names is None:
        return spread(pages, count)
    known = {page.name: page for page in pages}
    if unknown := [name for name in names if name not in known]:
        raise AbsentError(f"no validation page is called {', '.join(unknown)}; there are {', '.join(known)}.")
    return [known[name] for name in names]


def detailed_region(image: Image.Image, side: int) -> Box:
    """Return the square (cut to the page) that has the most gradient: left, top, right and bottom."""
    return busiest_region(detail(as_pixels(image).color), (side, side))


def sheet(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return the pictures, all of one size, side by side at 200 % under their labels."""
    size = tuple(side * ZOOM for side in pictures[0][1].size)
    return row_of([(label, picture.resize(size, Image.Resampling.NEAREST)) for label, picture in pictures])


if __name__ == "__main__":
    sys.exit(main())
