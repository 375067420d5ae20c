from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import quality
from benchmarks.candidates import Candidate, Upscale
from benchmarks.quality import PageResult, best_variants, run_track, summarise
from benchmarks.validation import TRACKS
from comic_upscale.evaluation.shrunk import shrink_original
from comic_upscale.evaluation.trial import lanczos


def candidate(name: str, variant: str, upscale: Upscale) -> Candidate:
    return Candidate(name, variant, lambda threads: nullcontext(upscale))


def nearest(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.NEAREST)


def test_the_best_variant_stands_for_its_candidate(drawing: Image.Image) -> None:
    track = TRACKS[2]
    told: list[str] = []
    outcomes = run_track(
        track,
        [candidate("peer", "blocky", nearest), candidate("peer", "smooth", lanczos)],
        [(name, shrink_original(drawing, track), drawing) for name in ("one", "two")],
        threads=1,
        scored=True,
        tell=told.append,
    )
    assert [outcome.candidate.variant for outcome in best_variants(outcomes)] == ["smooth"]
    rows = summarise(outcomes)
    assert [row["best"] for row in rows] == [False, True]
    assert list(rows[1]["pages"]) == ["one", "two"]  # type: ignore[call-overload]
    assert rows[1]["flat_white_kept"] == rows[1]["flat_black_kept"] == 1
    assert len(told) == 2


def test_ratios_are_taken_page_by_page() -> None:
    def outcome(name: str, *seconds: float) -> quality.Outcome:
        pages = {str(number): PageResult(value) for number, value in enumerate(seconds)}
        return quality.Outcome(candidate(name, "", lanczos), pages)

    slow, fast = summarise([outcome(quality.REFERENCE, 1, 2, 10), outcome("fast", 0.5, 0.2, 5)])
    assert slow["seconds"] == {"median": 2, "mean": 4.3333, "ratio": 1}
    assert fast["seconds"] == {"median": 0.5, "mean": 1.9, "ratio": 0.5}
    assert fast["best"], "where nothing is scored every variant is shown"


def test_a_run_writes_its_report_and_its_table(
    tmp_path: Path, small_set: Path, animevideo_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, table = tmp_path / "report.json", tmp_path / "table.md"
    arguments = f"--pages 1 --tracks x2-clean --no-peers --scores-only --json {report} --markdown {table}"
    assert quality.main(arguments.split()) == 0
    rows = json.loads(report.read_text(encoding="utf-8"))["tracks"]["x2-clean"]
    plain, reference = rows[:2]
    assert reference["candidate"] == quality.REFERENCE
    assert list(plain["pages"]) == ["drawing.png"]
    assert plain["psnr"] > 15 and reference["seconds"]["ratio"] == 1
    assert table.read_text(encoding="utf-8").strip() == capsys.readouterr().out.strip()
    assert "| Lanczos |" in table.read_text(encoding="utf-8")


def test_without_the_pages_the_exit_code_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_COMICS", str(tmp_path))
    assert quality.main(["--json", str(tmp_path / "report.json")]) == 2
    assert "COMIC_UPSCALE_COMICS" in capsys.readouterr().err
