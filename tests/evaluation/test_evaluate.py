"""``comic-upscale evaluate``: two folders against each other, and models against each other."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.evaluation.flat import FlatGround
from comic_upscale.evaluation.metrics import Metrics, Scores
from comic_upscale.evaluation.pairs import Pictures
from comic_upscale.evaluation.tables import trial_chart
from comic_upscale.evaluation.trial import LANCZOS, Candidate, Restore, Standing, Trial, Turn, run_trial
from comic_upscale.evaluation.verdict import judge
from comic_upscale.imaging.target_size import find_target
from comic_upscale.settings.sizes import Scale
from tests.evaluation.conftest import noisy


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("COLUMNS", "140")


def evaluate(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folders(tmp_path: Path, drawing: Image.Image) -> tuple[Path, Path]:
    """Originals, and candidates of which one is the same, one noisy, one of another size, one 16-bit."""
    reference, candidate = tmp_path / "reference", tmp_path / "candidate"
    for folder in (reference / "deep", candidate / "deep"):
        folder.mkdir(parents=True)
    for name in ("same.png", "noisy.png", "deep/size.png", "alone.png"):
        drawing.save(reference / name)
    drawing.save(candidate / "same.webp", lossless=True)
    noisy(drawing, 12).save(candidate / "noisy.png")
    drawing.resize((34, 50)).save(candidate / "deep" / "size.png")
    wide = np.asarray(drawing.convert("L")).astype(np.uint16) * 257
    drawing.convert("L").save(reference / "wide.png")
    Image.fromarray(wide).save(candidate / "wide.png")
    return reference, candidate


def test_folders_are_paired_by_name_and_what_cannot_be_compared_is_said(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    reference, candidate = folders
    code, out, err = evaluate(
        "--reference", reference, "--candidate", candidate, "--device", "cpu", "--output", tmp_path / "o"
    )
    assert code == 1, "one pair could not be compared"
    assert "not compared: deep/size: The image is 34 x 50" in err
    assert "1 without a candidate: alone" in err
    assert "note: wide: samples of more than 8 bits" in err
    told = json.loads((tmp_path / "o" / "comparison.json").read_text(encoding="utf-8"))
    scores = {pair["name"]: pair for pair in told["pairs"]}
    assert scores["same"]["psnr"] == scores["wide"]["psnr"] == 80
    assert 20 < scores["noisy"]["psnr"] < 35 and scores["noisy"]["ssim"] < 0.9
    assert scores["deep/size"]["psnr"] is None and "34 x 50" in scores["deep/size"]["error"]
    assert told["means"]["psnr"] == pytest.approx((160 + scores["noisy"]["psnr"]) / 3, abs=1e-4)
    with (tmp_path / "o" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["deep/size", "noisy", "same", "wide", "alone"]
    assert (rows["alone"]["psnr"], rows["alone"]["error"]) == ("", "no candidate has this name")
    assert "SSIM" in out and "noisy" in out


def test_a_volume_is_paired_with_what_became_of_it(tmp_path: Path, drawing: Image.Image) -> None:
    for folder, suffix in (("a", "zip"), ("b", "cbz")):
        (tmp_path / folder).mkdir()
        drawing.save(tmp_path / f"{folder}.png")
        with zipfile.ZipFile(tmp_path / folder / f"v1.{suffix}", "w") as archive:
            archive.write(tmp_path / f"{folder}.png", "p01.png")
    arguments = ("--reference", tmp_path / "a", "--candidate", tmp_path / "b", "--device", "cpu", "--json")
    code, out, _ = evaluate(*arguments)
    (pair,) = json.loads(out)["pairs"]
    assert (code, pair["name"], pair["psnr"]) == (0, "v1/p01", 80)


def compared(
    folder: Path, drawing: Image.Image, names: str, *more: object
) -> tuple[int, dict[str, list[str]]]:
    """Compare the folders ``a`` and ``b`` that hold one drawing under these names: exit code, and what was told."""
    for name in names.split():
        (folder / name).parent.mkdir(exist_ok=True)
        drawing.save(folder / name)
    code, out, _ = evaluate(
        "--reference", folder / "a", "--candidate", folder / "b", "--device", "cpu", "--json", *more
    )
    told = json.loads(out)
    return code, {**told, "pairs": [pair["name"] for pair in told["pairs"]]}


def test_names_of_several_pictures_are_not_guessed(tmp_path: Path, drawing: Image.Image) -> None:
    code, told = compared(tmp_path, drawing, "a/p.png a/p.webp a/q.png b/p.tiff b/q.png")
    assert (code, told["pairs"], told["ambiguous"]) == (1, ["q"], ["p"])


def test_of_several_pictures_of_one_name_those_with_the_same_suffix_belong_together(
    tmp_path: Path, drawing: Image.Image
) -> None:
    code, told = compared(
        tmp_path, drawing, "a/dup.png b/dup.png b/dup.webp a/two.png a/two.webp b/two.png b/two.webp"
    )
    assert (told["pairs"], told["ambiguous"]) == (["dup.png", "two.png", "two.webp"], [])
    assert (code, told["only_reference"], told["only_candidate"]) == (1, [], ["dup.webp"])


def test_a_partner_that_is_missing_is_a_failure_unless_it_may_be(
    tmp_path: Path, drawing: Image.Image
) -> None:
    names = "a/1.png a/2.png b/1.png"
    code, told = compared(tmp_path, drawing, names)
    assert (code, told["pairs"], told["only_reference"]) == (1, ["1"], ["2"])
    assert compared(tmp_path, drawing, names, "--allow-missing")[0] == 0
    assert compared(tmp_path, drawing, "b/2.webp")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give either"),
        (("--reference", "x"), 2, "give either"),
        (("--reference", "none", "--candidate", "none"), 3, "none"),
        (("--input", "pages", "--scale", "9"), 2, "--scale"),
        (("--input", "pages", "--jpeg", "101"), 2, "--jpeg"),
        (("--input", "pages", "--models", " , "), 2, "--models"),
        (("--input", "pages", "--models", "no-such-model"), 4, "no model named"),
        (("--input", "pages", "--models", "comicbest.pth"), 4, "The file comicbest.pth does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    tmp_path: Path, drawing: Image.Image, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], code: int, words: str,
) -> None:  # fmt: skip
    (tmp_path / "pages").mkdir()
    drawing.save(tmp_path / "pages" / "p.png")
    monkeypatch.chdir(tmp_path)
    found, _, err = evaluate(*arguments, "--device", "cpu")
    assert (found, words in err) == (code, True), err


def test_without_a_score_there_is_no_table(tmp_path: Path, drawing: Image.Image) -> None:
    for name in ("a/p.png", "b/p.png"):
        (tmp_path / name).parent.mkdir()
        drawing.save(tmp_path / name)
    (tmp_path / "b" / "p.png").write_bytes(b"no picture")
    code, out, err = evaluate("--reference", tmp_path / "a", "--candidate", tmp_path / "b", "--device", "cpu")
    assert (code, out) == (1, "")
    assert "not compared: p" in err


def test_folders_without_a_common_name_are_an_error(tmp_path: Path, drawing: Image.Image) -> None:
    for name in ("a/p.png", "b/q.png"):
        (tmp_path / name).parent.mkdir()
        drawing.save(tmp_path / name)
    code, _, err = evaluate("--reference", tmp_path / "a", "--candidate", tmp_path / "b", "--device", "cpu")
    assert (code, "no image of the reference has the same name" in err) == (3, True)


def test_models_are_tried_on_ones_own_pages(tmp_path: Path, tiny_weights: Path, drawing: Image.Image) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(3):
        noisy(drawing, 4 * number).save(pages / f"{number}.png")
    Image.new("L", (30, 30)).save(pages / "tiny.png")
    folder = tmp_path / "trial"
    code, out, err = evaluate(
        "--input", pages, "--models", tiny_weights, "--sample", 0, "--jpeg", 60, "--output", folder,
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "left out: tiny.png: The page is 30 x 30" in err
    # A network of random weights restores nothing.
    assert f"recommended: {LANCZOS}" in out
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = {(row["model"], row["track"]): row for row in told["models"]}
    assert set(rows) == {(m, t) for m in (LANCZOS, "tiny-x4") for t in ("clean", "jpeg60", "all")}
    assert rows[LANCZOS, "clean"]["psnr"] > rows[LANCZOS, "jpeg60"]["psnr"] > rows["tiny-x4", "clean"]["psnr"]
    assert len(told["turns"]) == 3 * 2 * 2
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 3 * 340 and sheet.height > 3 * 400
    chart = ET.fromstring((folder / "chart.svg").read_text(encoding="utf-8"))
    texts = {element.text for element in chart.iter() if element.tag.endswith("text")}
    assert {LANCZOS, "tiny-x4"} <= texts


@pytest.mark.parametrize(("bad", "used"), [((2, 7), ["3.png", "8.png"]), ((0, *range(2, 10)), ["1.png"])])
def test_another_page_is_tried_in_place_of_one_that_cannot_be_used(
    tmp_path: Path, drawing: Image.Image, bad: tuple[int, ...], used: list[str]
) -> None:
    for number in range(10):
        if number in bad:
            (tmp_path / f"{number}.png").write_bytes(b"no image")
        else:
            drawing.resize((173, 251)).save(tmp_path / f"{number}.png")
    told: list[tuple[int, int]] = []
    trial = run_trial(
        Pictures(tmp_path, max_pixels=10**6), [], Metrics(), scale=2, quality=None, sample=2,
        on_turn=lambda _, done, total: told.append((done, total)),
    )  # fmt: skip
    assert trial.pages == used
    assert set(trial.left_out) <= {f"{number}.png" for number in bad}
    assert len(trial.rows) == len(used) and told[-1] == (len(used), 2)


@pytest.mark.parametrize("scale", [1.3, 2, 2.5, 3.7, 8])
def test_a_piece_shrinks_and_grows_back_to_its_own_size(
    tmp_path: Path, drawing: Image.Image, scale: float
) -> None:
    drawing.resize((173, 251)).save(tmp_path / "p.png")
    sizes = []

    @contextmanager
    def opened() -> Iterator[Restore]:
        def restore(image: Image.Image, factor: float) -> Image.Image:
            larger = image.resize(find_target(*image.size, Scale(factor)).size)
            sizes.append(larger.size)
            return larger

        yield restore

    pictures = Pictures(tmp_path, max_pixels=10**6)
    trial = run_trial(pictures, [Candidate("any", opened)], Metrics(), scale=scale, quality=None, sample=None)
    assert len(trial.standings[1].turns) == 1, "a size that differs would have been refused"
    assert 160 <= sizes[-1][0] <= 173 and 240 <= sizes[-1][1] <= 251


def standing(name: str, seconds: float, *ssim: float) -> Standing:
    none = FlatGround(0, 0, 0, 0)
    return Standing(
        name,
        [
            Turn(f"{page}", "clean", seconds, 1000, Scores(30, value, None, 0.1, 0.0), none)
            for page, value in enumerate(ssim)
        ],
    )


def trial_of(*standings: Standing) -> Trial:
    pages = [turn.page for turn in standings[0].turns]
    return Trial(2.5, ("clean",), list(standings), pages, 1000.0, {})


def test_the_fastest_of_equally_good_models_is_recommended() -> None:
    lanczos = standing(LANCZOS, 0.01, 0.80, 0.82, 0.81, 0.80)
    quick = standing("quick", 0.1, 0.90, 0.92, 0.91, 0.90)
    slow = standing("slow", 2.0, 0.902, 0.921, 0.912, 0.901)
    verdict = judge(trial_of(lanczos, quick, slow))
    assert (verdict.most_faithful, verdict.recommended) == ("slow", "quick")
    assert "20.0 times as long" in verdict.why
    better = standing("better", 2.0, 0.95, 0.97, 0.96, 0.95)
    assert judge(trial_of(lanczos, quick, better)).recommended == "better"
    assert judge(trial_of(lanczos, standing("bad", 1.0, 0.7, 0.7, 0.7, 0.7))).recommended == LANCZOS


def test_a_lead_that_pages_disagree_about_is_none() -> None:
    quick = standing("quick", 0.1, 0.90, 0.80, 0.91, 0.70)
    slow = standing("slow", 2.0, 0.80, 0.92, 0.81, 0.90)
    assert judge(trial_of(quick, slow)).recommended == "quick"


def test_a_chart_escapes_the_names_of_files() -> None:
    chart = trial_chart(trial_of(standing("<b>&", 1.0, 0.9), standing(LANCZOS, 0.1, 0.8)))
    assert "<b>" not in chart
    ET.fromstring(chart)


def test_the_help_of_evaluate_and_report_imports_no_torch() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from typer.testing import CliRunner; from comic_upscale.cli import app;"
        "[CliRunner().invoke(app, [name, '--help']) for name in ('evaluate', 'report')];"
        "print('torch' in sys.modules, 'piq' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False False"
