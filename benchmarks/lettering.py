"""How well lettering can still be read after upscaling: Tesseract's character error rate on drawn pages.

Usage: python -m benchmarks.lettering [--pages 20] [--seed 1] [--x-height LOW HIGH]
                                      [--model NAME|FILE ...] [--no-peers] [--threads N]
                                      [--json FILE] [--markdown FILE]

Pages with known text are drawn at 1280 x 1920, shrunk to 512 x 768 (bicubic), clean and through JPEG 75, and
enlarged again to 1280 x 1920 by every candidate. Tesseract reads each block of Latin lettering by itself, in
the original too, which shows what it misreads without any help. Spaces and typographer's quotes are made
plain and case is folded before letters are compared. The rate is of all letters of all pages together.

A peer's variants take part as in `benchmarks.quality`; the one with the fewest errors stands for the peer.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.candidates import LANCZOS, Candidate, gather
from benchmarks.machine import cores, facts, write_report
from benchmarks.validation import REPOSITORY, TRACKS, AbsentError
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.shrunk import Track, shrink_original, without_needless_color

if TYPE_CHECKING:
    from training.pages import DrawnPage, Lettering

RESULT = REPOSITORY / "benchmarks" / "results" / "lettering-cpu.json"
WIDTH, HEIGHT = 1280, 1920
X_HEIGHT = (9.0, 14.0)
"""Height of a small x in pixels of the shrunk page, unless asked for otherwise: 9 to 14, as the generator has it."""
MARGIN = 2
"""Pixels around a block that Tesseract sees with it: more would show it the outline of the balloon."""
LANGUAGES = {"latin": "eng"}
"""Tesseract's language for each script that is read. Its Japanese misreads even originals, so it measures little."""
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "..."})  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Errors:
    """Letters changed, left out or put in, and letters in all."""

    edits: int = 0
    characters: int = 0

    @property
    def rate(self) -> float:
        """Edits over characters; above 1 where more is read than is there."""
        return self.edits / max(1, self.characters)

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.edits + other.edits, self.characters + other.characters)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write what was asked for; return the exit code, 2 where something is absent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first page; the others follow")
    parser.add_argument(
        "--x-height",
        type=float,
        nargs=2,
        default=X_HEIGHT,
        metavar=("LOW", "HIGH"),
        help="bounds of a small x, in pixels of the shrunk page",
    )
    parser.add_argument(
        "--model", "--models", dest="models", action="extend", nargs="+", default=[], metavar="NAME|FILE"
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="candidates whose label has one of these in it"
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    try:
        check_tesseract()
        pages = draw_pages(options.pages, options.seed, tuple(options.x_height))
        candidates = gather(options.models, peers=options.peers)
        if options.only:
            candidates = [
                each for each in candidates if any(text in each.label for text in (LANCZOS, *options.only))
            ]
        report = {"x_height": list(options.x_height)} | measure(pages, candidates, options.threads)
    except (AbsentError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    write_report(report, options.json)
    table = as_markdown(report)
    print(table)
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    return 0


def check_tesseract() -> None:
    """Return quietly where Tesseract and the library that counts can be used.

    Raises:
        AbsentError: one of them is not installed.
    """
    if shutil.which("tesseract") is None:
        raise AbsentError("tesseract is not installed: apt-get install tesseract-ocr.")
    try:
        import rapidfuzz  # noqa: F401
    except ImportError as error:
        raise AbsentError(f"{error}: pip install rapidfuzz.") from error


def draw_pages(count: int, seed: int, x_height: tuple[float, float] = X_HEIGHT) -> list[DrawnPage]:
    """Return this number of drawn pages of 1280 x 1920 with lettering; the same for the same seed.

    Raises:
        AbsentError: the drawing is not there.
    """
    try:
        from training.pages import draw_lettered_page
    except ImportError as error:
        raise AbsentError(
            f"pages cannot be drawn: {error}. Run this in the root of the repository."
        ) from error
    low, high = (value * 2.5 / HEIGHT for value in x_height)
    return [
        draw_lettered_page(number, width=WIDTH, height=HEIGHT, x_height=(low, high))
        for number in range(seed, seed + count)
    ]


def measure(pages: Sequence[DrawnPage], candidates: Sequence[Candidate], threads: int) -> dict[str, object]:
    """Return the report: the rate of the originals, and of each candidate on clean and on JPEG pages.

    Raises:
        AbsentError: peers are not on this machine.
        WeightsError: a model is not there.
    """
    originals = [without_needless_color(Image.fromarray(page.pixels)) for page in pages]
    drawn = [
        read_errors(image, page.lettering, threads) for image, page in zip(originals, pages, strict=True)
    ]
    tracks = {
        track.name: run_track(track, candidates, originals, [page.lettering for page in pages], threads)
        for track in TRACKS
        if track.factor == 2.5
    }
    return {
        **facts(threads),
        "tesseract": _tesseract_version(),
        "pages": f"{len(pages)} drawn pages, {WIDTH}x{HEIGHT} from {WIDTH * 2 // 5}x{HEIGHT * 2 // 5}",
        "characters": _sum(drawn).characters,
        "original": {"cer": round(_sum(drawn).rate, 5), "pages": [round(page.rate, 5) for page in drawn]},
        "tracks": tracks,
    }


def run_track(
    track: Track,
    candidates: Sequence[Candidate],
    originals: Sequence[Image.Image],
    lettering: Sequence[Sequence[Lettering]],
    threads: int,
) -> list[dict[str, object]]:
    """Return a row for each candidate that fits the track; ``best`` is True for one variant of each."""
    measured: dict[Candidate, list[Errors]] = {}
    for candidate in (each for each in candidates if each.fits(track)):
        with candidate.open(threads) as upscale:
            measured[candidate] = [
                read_errors(upscale(shrink_original(original, track), track.factor), blocks, threads)
                for original, blocks in zip(originals, lettering, strict=True)
            ]
        print(f"{track.name} | {candidate.label}: {_sum(measured[candidate]).rate:.4f}", file=sys.stderr)
    lanczos = next((_sum(pages).rate for each, pages in measured.items() if each.name == LANCZOS), 0.0)
    fewest: dict[str, Candidate] = {}
    for candidate, pages in measured.items():
        known = fewest.get(candidate.name)
        if known is None or _sum(pages).edits < _sum(measured[known]).edits:
            fewest[candidate.name] = candidate
    return [
        {
            "candidate": candidate.name,
            "variant": candidate.variant,
            "best": fewest[candidate.name] is candidate,
            "cer": round(_sum(pages).rate, 5),
            "ratio_to_lanczos": round(_sum(pages).rate / lanczos, 4) if lanczos else None,
            "pages": [round(page.rate, 5) for page in pages],
        }
        for candidate, pages in measured.items()
    ]


def read_errors(image: Image.Image, lettering: Iterable[Lettering], threads: int) -> Errors:
    """Return the errors over all blocks of a page whose script is read."""
    blocks = [block for block in lettering if block.script in LANGUAGES]
    with ThreadPoolExecutor(threads) as pool:
        texts = pool.map(lambda block: read_text(image, block.box, LANGUAGES[block.script]), blocks)
        return _sum(count_errors(text, block.text) for text, block in zip(texts, blocks, strict=True))


def read_text(image: Image.Image, box: tuple[int, int, int, int], language: str) -> str:
    """Return what Tesseract reads in a box of left, top, right and bottom, with a margin around it."""
    left, top, right, bottom = box
    part = image.crop(
        (
            max(0, left - MARGIN),
            max(0, top - MARGIN),
            min(image.width, right + MARGIN),
            min(image.height, bottom + MARGIN),
        )
    )
    data = io.BytesIO()
    part.save(data, "PNG", compress_level=1)
    finished = subprocess.run(
        ["tesseract", "stdin", "stdout", "--psm", "6", "-l", language],
        input=data.getvalue(),
        capture_output=True,
        check=True,
        # Blocks are read side by side; threads within one would only be in each other's way.
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    return finished.stdout.decode("utf-8")


def count_errors(read: str, text: str) -> Errors:
    """Compare what was read with what is there: Levenshtein distance, after `normalise`."""
    from rapidfuzz.distance import Levenshtein

    expected = normalise(text)
    return Errors(Levenshtein.distance(normalise(read), expected), len(expected))


def normalise(text: str) -> str:
    """Return the text in one line, spaces single, case folded, quotes and dots plain."""
    return " ".join(text.translate(_PLAIN).split()).casefold()


def as_markdown(report: dict) -> str:  # type: ignore[type-arg]
    """Return the table: a row for the original and for the best variant of each candidate on each track."""
    lines = [
        "| page | candidate | character error rate | / Lanczos |",
        "|---|---|---:|---:|",
        f"| original | | {report['original']['cer']:.2%} | |",
    ]
    for track, rows in report["tracks"].items():
        for row in (row for row in rows if row["best"]):
            label = f"{row['candidate']} ({row['variant']})" if row["variant"] else row["candidate"]
            ratio = "" if row["ratio_to_lanczos"] is None else f"{row['ratio_to_lanczos']:.2f}"
            lines.append(f"| {track} | {label} | {row['cer']:.2%} | {ratio} |")
    lines += ["", f"{report['pages']}; {report['characters']} characters; {report['tesseract']}"]
    return "\n".join(lines) + "\n"


def _sum(errors: Iterable[Errors]) -> Errors:
    return sum(errors, Errors())


def _tesseract_version() -> str:
    finished = subprocess.run(["tesseract", "--version"], capture_output=True, check=True)
    return finished.stdout.decode("utf-8").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
