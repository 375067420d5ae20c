"""The blind comparison: ranks are counted by name, whatever letter each had on a sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.blind import RanksError, as_markdown, choose_variants, count, main, read_ranks, spread_over
from benchmarks.candidates import gather
from benchmarks.validation import ValidationPage
from comic_upscale.evaluation.shrunk import Track

LETTERS = {"01": {"A": "best", "B": "fast", "C": "Lanczos"}, "02": {"A": "Lanczos", "B": "best", "C": "fast"}}


def judged(folder: Path, ranks: Mapping[str, str]) -> Path:
    """Return a folder with the key of two sheets, and a text of ranks for each round."""
    key = {sheet: {"page": "page.png", "quality": None, "letters": {"1": letters, "2": letters}}
           for sheet, letters in LETTERS.items()}  # fmt: skip
    (folder / "key.json").write_text(json.dumps(key), encoding="utf-8")
    for number, text in ranks.items():
        (folder / f"round-{number}").mkdir()
        (folder / f"round-{number}" / "ranks.txt").write_text(text, encoding="utf-8")
    return folder


def test_ranks_are_counted_by_name(tmp_path: Path) -> None:
    folder = judged(tmp_path, {"1": "01 ABC\n02 BCA\n", "2": "02: c b a\n\n01 BAC\n"})

    report = count(folder)

    assert report["ranks"] == {
        "best": {"mean": 1.5, "first": 2, "rounds": {"1": 1.0, "2": 2.0}},
        "fast": {"mean": 1.5, "first": 2, "rounds": {"1": 2.0, "2": 1.0}},
        "Lanczos": {"mean": 3.0, "first": 0, "rounds": {"1": 3.0, "2": 3.0}},
    }
    # Without the other one of ours, each has only Lanczos beside it.
    assert report["without our others"]["fast"]["fast"]["mean"] == 1.0
    assert as_markdown(report).splitlines()[2] == "| best | 1.50 | 2 | 1.00 | 4 |"


@pytest.mark.parametrize(
    "text", ["01 ABC", "01 ABC\n02 AB", "01 ABC\n02 AAB", "01 ABC\n03 ABC", "01 ABC\n01 ABC"]
)
def test_ranks_that_cannot_be_counted_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ranks.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(RanksError, match=r"ranks\.txt"):
        read_ranks(path, LETTERS)


def test_sheets_that_nobody_judged_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", str(judged(tmp_path, {}))]) == 2

    assert "judge the sheets first" in capsys.readouterr().err


@pytest.mark.parametrize(("quality", "cunet", "cugan"), [(None, "no denoise x2", "no-denoise x3"),
                                                         (80, "denoise 1 x2", "conservative x3")])  # fmt: skip
def test_a_sheet_shows_one_variant_of_each_peer(quality: int | None, cunet: str, cugan: str) -> None:
    # Nothing is opened: the names of the variants stand for what upscales.
    opened = [(each, each.variant) for each in gather([], peers=True)]
    chosen = dict(choose_variants(opened, Track("blind", 2.5, quality)))  # type: ignore[arg-type]
    assert chosen["waifu2x cunet"] == cunet
    assert chosen["Real-CUGAN"] == cugan
    assert chosen["Lanczos"] == chosen["realesr-animevideov3"] == ""


def test_a_round_that_nobody_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RanksError, match="no such round"):
        count(judged(tmp_path, {"9": "01 ABC\n02 ABC"}))


def test_a_page_is_used_again_only_if_there_are_more_crops_than_pages(tmp_path: Path) -> None:
    pages = [ValidationPage(name, tmp_path / name, "manga", "CC BY-SA 4.0", "") for name in "abc"]

    assert len({page.name for page in spread_over(pages, 2)}) == 2
    assert sorted(page.name for page in spread_over(pages, 7)) == sorted("abcabc" + "b")
