from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.candidates import LANCZOS, Candidate
from benchmarks.lettering import Errors, as_markdown, count_errors, measure, normalise
from comic_upscale.evaluation.trial import lanczos


@dataclass(frozen=True)
class Block:
    text: str
    box: tuple[int, int, int, int]
    script: str


@dataclass(frozen=True)
class Drawn:
    pixels: NDArray[np.uint8]
    lettering: tuple[Block, ...]


def a_page() -> Drawn:
    """A stand-in for a drawn page, smaller: two blocks that can be read, one that is of another script."""
    image = Image.new("RGB", (640, 320), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    blocks = []
    for top, text, script in (
        (20, "THE OLD LANTERN", "latin"),
        (90, "glowed tonight", "latin"),
        (200, "glowed", "japanese"),
    ):
        left, upper, right, lower = draw.textbbox((40, top), text, font=font)
        draw.text((40, top), text, fill="black", font=font)
        blocks.append(Block(text, (int(left), int(upper), int(right), int(lower)), script))
    return Drawn(np.asarray(image), tuple(blocks))


def test_text_is_made_plain() -> None:
    assert normalise("  “Don’t\n  STOP…” \f") == '"don\'t stop..."'  # noqa: RUF001


@pytest.mark.parametrize(
    ("read", "text", "edits", "characters"),
    [
        ("HELLO\nthere\n\f", "Hello there", 0, 11),
        ("HELL0 there", "Hello there", 1, 11),
        ("", "Wait!", 5, 5),
        ("No!!!", "No!", 2, 3),
    ],
)
def test_errors_are_counted(read: str, text: str, edits: int, characters: int) -> None:
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed: pip install rapidfuzz")
    assert count_errors(read, text) == Errors(edits, characters)


def test_the_rate_is_of_all_letters_together() -> None:
    assert (Errors(1, 10) + Errors(5, 10)).rate == 0.3
    assert Errors().rate == 0


def test_a_blank_page_is_all_errors_and_lanczos_reads_on() -> None:
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed: pip install rapidfuzz")
    if shutil.which("tesseract") is None:
        pytest.skip("Tesseract is not here: apt-get install tesseract-ocr")

    def blank(image: Image.Image, factor: float) -> Image.Image:
        return Image.new("RGB", (round(image.width * factor), round(image.height * factor)), "white")

    candidates = [
        Candidate(LANCZOS, "", lambda threads: nullcontext(lanczos)),
        Candidate("blank", "", lambda threads: nullcontext(blank)),
    ]
    report = measure([a_page()], candidates, threads=2)
    assert report["characters"] == len("THE OLD LANTERN" + "glowed tonight")
    assert report["original"]["cer"] < 0.1  # type: ignore[index]
    plain, empty = report["tracks"]["x2.5-clean"]  # type: ignore[index]
    assert plain["cer"] < 0.5 and empty["cer"] == 1
    assert "| x2.5-jpeg75 | blank | 100.00% |" in as_markdown(report)
