"""What a training set needs, out of the ledger: the same job, the same bytes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.jobs.restore import restore
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import replace_folder
from tests.conftest import draw
from tests.fakes import NearestEngine


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of a job over a small training set."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "any.pth").write_bytes(b"weights")
    folder = tmp_path / "set"
    for name in ("p10.png", "p2.png", "deep/p1.png"):
        draw(folder / name, len(name))
    (folder / "p2.txt").write_text("a cat, inked — 猫\n", encoding="utf-8")
    (folder / "p10.caption").write_text('says "no", twice', encoding="utf-8")
    settings = JobSettings(input=folder, output=tmp_path / "out", model=str(tmp_path / "any.pth"), workers=1)
    run_job(settings, open_engines=lambda *_: [NearestEngine()])
    return settings.output


def export(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_rows_hold_everything_and_come_in_natural_order(job: Path) -> None:
    code, out, err = export("--job", job, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, "3 pages exported" in err) == (0, True)
    assert [row["source"] for row in rows] == ["deep/p1.png", "p2.png", "p10.png"]
    assert [row["caption"] for row in rows] == [None, "a cat, inked — 猫", 'says "no", twice']
    for row in rows:
        output, source = job / row["file"], job.parent / "set" / row["source"]
        assert row["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
        assert row["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert (row["bytes"], row["source_bytes"]) == (output.stat().st_size, source.stat().st_size)
        assert (row["source_width"], row["source_height"], row["width"], row["height"]) == (24, 32, 60, 80)
        assert (row["scale"], row["model"]) == (2.5, "any.pth")
        assert row["model_sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_csv_says_the_same_and_the_same_job_gives_the_same_bytes(job: Path, tmp_path: Path) -> None:
    assert export("--job", job, "--format", "csv", "--output", tmp_path / "a.csv")[0] == 0
    assert export("--job", job, "--format", "csv", "--output", tmp_path / "b.csv")[0] == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["caption"] for row in rows] == ["", "a cat, inked — 猫", 'says "no", twice']


def test_a_file_that_says_something_else_is_not_replaced_unasked(job: Path) -> None:
    assert export("--job", job)[0] == 0
    assert export("--job", job)[0] == 0
    (job / "p2.txt").write_text("another caption", encoding="utf-8")
    code, _, err = export("--job", job)
    assert (code, "--overwrite" in err) == (2, True)
    assert export("--job", job, "--overwrite")[0] == 0
    assert "another caption" in (job / "metadata.jsonl").read_text(encoding="utf-8")


def test_metadata_has_its_place_and_gone_outputs_are_left_out(job: Path, tmp_path: Path) -> None:
    code, _, err = export("--job", job, "--output", tmp_path / "metadata.jsonl")
    assert (code, "beside the images" in err) == (2, True)
    (job / "p2.png").unlink()
    code, _, err = export("--job", job, "--output", job / "metadata.csv")
    assert (code, "left out 1 whose outputs are missing" in err) == (0, True)
    assert (job / "metadata.csv").read_text(encoding="utf-8").splitlines()[0] == "file_name,text"
    assert export("--job", tmp_path / "nowhere")[0] == 3
    assert export("--job", job, "--format", "parquet")[0] == 2


def test_hugging_face_loads_the_imagefolder(job: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    export("--job", job)
    script = (
        "import sys, json; from datasets import load_dataset;"
        "rows = load_dataset('imagefolder', data_dir=sys.argv[1], split='train');"
        "print(json.dumps([[row['image'].size, row['text']] for row in rows]))"
    )
    home = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script, str(job)], env=home, capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(rows, key=str) == sorted(
        [[[60, 80], ""], [[60, 80], "a cat, inked — 猫"], [[60, 80], 'says "no", twice']], key=str
    )


def test_neither_export_nor_its_help_imports_torch(job: Path) -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from comic_upscale.cli import app;"
        f"CliRunner().invoke(app, ['export', '--job', {str(job)!r}]); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def captions(job: Path) -> dict[str, str]:
    assert export("--job", job, "--overwrite")[0] == 0
    rows = map(json.loads, (job / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["file_name"]: row["text"] for row in rows}


def test_a_caption_that_was_deleted_is_left_out(job: Path) -> None:
    source = job.parent / "set"
    assert "cat" in captions(job)["p2.png"]
    (source / "p2.txt").unlink()
    assert captions(job)["p2.png"] == ""
    assert "2 have no caption" in export("--job", job)[2]
    # Of a job with other settings, too, which copies nothing again.
    again = JobSettings(
        input=source, output=job, model=str(job.parent / "any.pth"), workers=1, scale=3.0, device="cpu"
    )
    run_job(again, open_engines=lambda *_: [NearestEngine()])
    assert captions(job)["p2.png"] == ""
    # An edited copy is somebody's own.
    (job / "p2.txt").write_text("my own words", encoding="utf-8")
    assert captions(job)["p2.png"] == "my own words"


def test_without_the_input_every_copy_counts(job: Path) -> None:
    (job.parent / "set").rename(job.parent / "moved")
    assert "cat" in captions(job)["p2.png"]


def test_replaced_images_are_exported_where_they_are(tmp_path: Path) -> None:
    library = tmp_path / "library"
    draw(library / "deep" / "a.jpg", 1, size=(96, 128))
    (library / "deep" / "a.jpg.txt").write_text("my tags", encoding="utf-8")
    # The gate compares no tiny page, so that it is not replaced.
    draw(library / "tiny.png", 2, size=(4, 4))
    (tmp_path / "any.pth").write_bytes(b"weights")
    settings = JobSettings(
        input=library, output=replace_folder(library), model=str(tmp_path / "any.pth"), workers=1,
        replace_sources=True,
    )  # fmt: skip
    finished = run_job(settings, open_engines=lambda *_: [NearestEngine()])
    assert (finished.done, finished.replaced_now) == (2, 1), finished.warnings
    assert captions(library) == {"deep/a.png": "my tags"}
    restore(library, change=True)
    assert captions(library) == {}
