"""``comic-upscale run`` as a user meets it: what is printed, what is written, how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines import presence
from comic_upscale.models import weights
from tests.archives import make_zip, pictures, read_cbz
from tests.conftest import draw
from tests.engines.test_command import QUICK_ENGINE


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own notes out of it, and the user's terminal too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("COMIC_UPSCALE_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number)
    return tmp_path / "pages"


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_folder_becomes_a_folder_beside_it(pages: Path, tiny_weights: Path) -> None:
    code, out, err = invoke(
        "run", "--input", pages, "--model", tiny_weights, "--workers", 2, "--device", "cpu"
    )
    assert (code, err) == (0, "")
    for text in ("3 pages", "tiny-x4.safetensors", "scale 2.5", "cpu", "2 workers", "ledger.sqlite3"):
        assert text in out
    assert "3 of 3 pages done, 0 failed" in out
    assert sorted(path.name for path in (pages.parent / "pages-x2.5").glob("*.png")) == [
        "0.png",
        "1.png",
        "2.png",
    ]
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights)
    assert code == 0
    assert "nothing left to do" in out


def test_without_a_model_the_header_and_status_say_which_was_chosen(pages: Path) -> None:
    code, out, _ = invoke("run", "--input", pages, "--device", "cpu")
    assert code == 0
    assert "model: comic-fast-x3 (auto), x3 network, scale 2.5" in out
    assert "model:  comic-fast-x3 (auto) on cpu" in invoke("status")[1]
    assert json.loads(invoke("status", "--json")[1])["model_auto"] is True
    code, out, _ = invoke("run", "--input", pages, "--device", "cpu", "--model", "comic-fast")
    assert code == 0
    assert "nothing left to do" in out
    out = invoke("run", "--input", pages, "--device", "cpu", "--denoise", "0.5")[1]
    assert "model: comic-fast-x3 (auto), x3 network, denoise 0.5, scale 2.5" in out
    assert "model:  comic-fast-x3 (auto), denoise 0.5 on cpu" in invoke("status")[1]
    assert json.loads(invoke("status", "--json")[1])["denoise"] == 0.5


def test_a_dry_run_says_what_auto_is_as_far_as_it_knows(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_may_have_gpu", lambda: True)
    out = invoke("run", "--input", pages, "--dry-run")[1]
    assert "model auto (comic-best on a GPU" in out
    assert "model comic-fast-x3 (auto)" in invoke("run", "--input", pages, "--dry-run", "--device", "cpu")[1]
    monkeypatch.setattr(presence, "_may_have_gpu", lambda: False)
    assert "model comic-fast-x3 (auto)" in invoke("run", "--input", pages, "--dry-run")[1]


def test_weights_of_the_package_that_are_missing(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BUNDLED_FOLDERS", (tmp_path / "nowhere",))
    code, _, err = invoke("run", "--input", pages, "--device", "cpu")
    assert code == 4
    assert "comic-fast-x3.safetensors is missing" in err
    assert "install the package again" in err


def test_one_image(pages: Path, tiny_weights: Path) -> None:
    code, _, _ = invoke("run", "--input", pages / "0.png", "--model", tiny_weights, "--scale", 3)
    assert code == 0
    with Image.open(pages / "0-x3" / "0.png") as image:
        assert image.size == (72, 96)


def test_one_volume(tmp_path: Path, tiny_weights: Path) -> None:
    volume = make_zip(tmp_path / "v.cbz", {**pictures(2), "bad.png": b"bad"})
    arguments = ("run", "--input", volume, "--model", tiny_weights, "--scale", 2)
    code, out, _ = invoke(*arguments, "--verbose")
    assert code == 1
    assert "0 of 1 volume complete" in out
    assert "incomplete: v.cbz: 1 of its 3 pages failed" in out
    assert "incomplete: v.cbz" in invoke("status", "--failures")[1]
    code, out, _ = invoke(*arguments, "--keep-original-on-failure", "--verbose")
    assert code == 1  # a page did fail
    assert "complete: v.cbz (3 pages)" in out
    assert "1 of 1 volume complete" in invoke("status")[1]
    assert list(read_cbz(tmp_path / "v-x2" / "v.cbz")) == ["p01.png", "p02.png", "bad.png"]


def test_an_archive_that_is_cut_short_is_not_complete(tmp_path: Path, tiny_weights: Path) -> None:
    whole = make_zip(tmp_path / "in" / "whole.cbz", pictures(4))
    data = whole.read_bytes()
    (tmp_path / "in" / "cut.cbz").write_bytes(data[: len(data) // 2])
    code, out, _ = invoke("run", "--input", tmp_path / "in", "--model", tiny_weights, "--device", "cpu")
    assert code == 1
    for said in (out, invoke("status", "--job", tmp_path / "in-x2.5")[1]):
        assert "1 of 2 volumes complete" in said
        assert "1 volume has only the pages before a cut" in said
    status = json.loads(invoke("status", "--job", tmp_path / "in-x2.5", "--json")[1])
    assert (status["volumes"], status["volumes_done"], status["volumes_cut"], status["failed"]) == (
        2,
        2,
        1,
        0,
    )
    assert invoke("report", "--job", tmp_path / "in-x2.5")[0] == 0
    assert "1 of 2 complete, 1 with only the pages before a cut" in (
        tmp_path / "in-x2.5" / "report.html"
    ).read_text(encoding="utf-8")
    # Copied again, it is done from where it ended.
    (tmp_path / "in" / "cut.cbz").write_bytes(data)
    code, out, _ = invoke("run", "--input", tmp_path / "in", "--model", tiny_weights, "--device", "cpu")
    assert (code, "2 of 2 volumes complete" in out) == (0, True)


def test_deleted_pages_are_reported_and_pruned(pages: Path, tiny_weights: Path, tmp_path: Path) -> None:
    arguments = ("run", "--input", pages, "--model", tiny_weights, "--output", tmp_path / "out")
    assert invoke(*arguments)[0] == 0
    (pages / "0.png").unlink()
    code, out, _ = invoke(*arguments)
    assert (code, "2 of 2 pages done, 0 failed" in out) == (0, True)
    assert "1 output has no source any more: comic-upscale prune --job" in out
    assert "1 output has no source any more" in invoke("status", "--job", tmp_path / "out")[1]
    assert json.loads(invoke("status", "--job", tmp_path / "out", "--json")[1])["orphans"] == 1
    _, out, err = invoke("export", "--job", tmp_path / "out", "--format", "csv")
    assert len(out.splitlines()) == 3
    assert "left out 1 whose sources are gone" in err
    code, out, _ = invoke("prune", "--job", tmp_path / "out")
    assert (code, "would remove: 0.png" in out, "add --yes" in out) == (0, True, True)
    assert (tmp_path / "out" / "0.png").exists()
    code, out, _ = invoke("prune", "--job", tmp_path / "out", "--yes", "--json")
    assert (code, [file["output"] for file in json.loads(out)["files"]]) == (0, ["0.png"])
    assert not (tmp_path / "out" / "0.png").exists()
    assert "nothing to prune" in invoke("prune", "--job", tmp_path / "out")[1]
    pages.rename(tmp_path / "unmounted")
    code, _, err = invoke("prune", "--job", tmp_path / "out", "--yes")
    assert (code, "does not exist" in err) == (3, True)


def test_a_volume_that_breaks_a_limit(tmp_path: Path) -> None:
    volume = make_zip(tmp_path / "v.cbz", pictures(2))
    code, _, err = invoke("run", "--input", volume, "--max-members", 1)
    assert (code, "--max-members allows more" in err) == (3, True)
    assert invoke("run", "--input", volume, "--max-unpacked", "lots")[0] == 2


def test_json_is_events_and_nothing_else(pages: Path, tiny_weights: Path) -> None:
    (pages / "bad.png").write_bytes(b"bad")
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    kinds = [event["event"] for event in events]
    assert {"preparing", "job_started", "page_done", "page_failed", "progress", "job_finished"} == set(kinds)
    assert events[-1]["done"] == 3
    code, out, _ = invoke("run", "--input", pages / "nowhere", "--json")
    assert code == 3
    assert json.loads(out.splitlines()[-1])["exit_code"] == 3


def test_quiet_says_only_what_went_wrong(pages: Path, tiny_weights: Path) -> None:
    (pages / "bad.png").write_bytes(b"bad")
    code, out, err = invoke("run", "--input", pages, "--model", tiny_weights, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith("failed: bad.png: ") and len(err.splitlines()) == 1
    # Again: the page is not tried, and the exit code is explained nevertheless.
    code, out, err = invoke("run", "--input", pages, "--model", tiny_weights, "--quiet")
    assert (code, out) == (1, "")
    assert err == (
        "1 page failed in earlier runs: comic-upscale status --job pages-x2.5 --failures lists them, --retry-failed "
        "tries again\n"
    )
    (pages / "bad.png").unlink()
    assert invoke("run", "--input", pages, "--model", tiny_weights, "--quiet") == (0, "", "")


def test_dry_run_tells_everything_and_writes_nothing(pages: Path, tiny_weights: Path) -> None:
    (pages / "bad.png").write_bytes(b"bad")
    before = sorted(pages.parent.rglob("*"))
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights, "--dry-run")
    assert code == 0
    assert re.search(r"24x32 -> 60x80 .* 0\.png", out)
    assert "1 unreadable" in out
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights, "--dry-run", "--json")
    assert json.loads(out)["counts"] == {"do": 3, "unreadable": 1}
    assert sorted(pages.parent.rglob("*")) == before


def test_a_scale_above_the_network_is_said_once(pages: Path, tiny_weights: Path) -> None:
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights, "--scale", 6)
    assert code == 0
    assert out.count("resampling") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--scale", "0.5"], 2, "--scale"),
        (["--scale", "many"], 2, "--scale"),
        (["--batch", "many"], 2, "auto"),
        (["--format", "bmp"], 2, "--format"),
        (["--quality", "80"], 2, "--format webp or jpeg"),
        (["--max-failures", "lots"], 2, "--max-failures"),
        (["--denoise", "0.5"], 2, "realesr-general-x4v3"),
        (["--denoise", "0.5", "--model", "comic-crisp"], 2, "use comic-best"),
        (["--denoise", "1.5", "--model", "auto"], 2, "--denoise"),
        (["--device", "cuda:77", "--model", "auto"], 5, "cuda"),
        (["--output", "pages"], 2, "--output"),
        (["--output", ""], 2, "empty"),
        (["--output", "pages/0.png"], 2, "is a file: choose another --output"),
        (["--output", "pages/0.png/deeper/out"], 2, "is a file: choose another --output"),
        (["--output", "pages/0.png", "--dry-run"], 2, "is a file: choose another --output"),
        (["--weights-dir", "nowhere"], 2, "--weights-dir must name a folder"),
        (["--weights-dir", "pages/0.png"], 2, "--model takes one"),
        (["--input", ""], 2, "empty"),
        (["--input", "/"], 2, "--output"),
        (["--workers", "0"], 2, "--workers"),
        (["--max-pixels", "0"], 2, "--max-pixels"),
        (["--input", "nowhere"], 3, "nowhere"),
        (["--model", "RealESRGAN_x4plus_anime6B"], 4, "RealESRGAN_x4plus_anime_6B"),
        (["--model", "./nothing.pth"], 4, "nothing.pth"),
        (["--device", "cuda:77"], 5, "cuda"),
        (["--device", "cpu,cpu"], 2, "contains cpu twice"),
        (["--device", "gpu"], 2, "cuda:0"),
        (["--ledger", "pages/0.png"], 6, "ledger"),
    ],
    ids=str,
)
def test_every_mistake_has_its_exit_code_and_a_way_out(
    pages: Path, tiny_weights: Path, arguments: list[str], code: int, says: str
) -> None:
    found, out, err = invoke("run", "--input", pages, "--model", tiny_weights, *arguments)
    assert found == code
    assert "pages done" not in out
    assert says in re.sub(r"[\s│]+", " ", err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--max-cost", "1"], "add --price"), (["--device", "cpu,gpu"], "there is no device 'gpu'")],
)
def test_a_mistake_in_words_is_said_before_the_run_begins(
    pages: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    def begins(*_: object, **__: object) -> None:
        raise AssertionError("the run has begun")

    monkeypatch.setattr("comic_upscale.commands.run.run_shown", begins)
    code, _, err = invoke("run", "--input", pages, *arguments)
    assert (code, says in re.sub(r"[\s│]+", " ", err)) == (2, True)
    assert not (pages.parent / "pages-x2.5").exists()


def test_a_file_that_is_no_network(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.pth").write_bytes(b"no weights at all")
    code, _, err = invoke("run", "--input", pages, "--model", tmp_path / "fake.pth")
    assert code == 4
    assert "fake.pth" in err


def test_weights_are_found_through_the_environment_and_by_option(
    pages: Path, animevideo_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_WEIGHTS", str(animevideo_weights.parent))
    run = ["run", "--input", pages, "--model", "realesr-animevideov3"]
    assert invoke(*run)[0] == 0
    monkeypatch.delenv("COMIC_UPSCALE_WEIGHTS")
    assert invoke(*run, "--weights-dir", animevideo_weights.parent, "--scale", 2)[0] == 0


def test_a_folder_for_weights_that_is_missing_counts_only_if_it_was_asked_for(
    pages: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_WEIGHTS", str(tmp_path / "nowhere"))
    assert invoke("run", "--input", pages, "--model", tiny_weights, "--dry-run")[0] == 0
    for command in (["models", "list"], ["models", "verify"], ["models", "path"]):
        code, _, err = invoke(*command, "--weights-dir", tmp_path / "nowhere")
        assert (code, "does not exist" in err) == (2, True)


def test_hostile_names_do_not_command_the_terminal(pages: Path, tiny_weights: Path) -> None:
    (pages / "\x1b]0;owned\x07[red]x.png").write_bytes(b"bad")
    code, out, _ = invoke("run", "--input", pages, "--model", tiny_weights)
    assert code == 1
    assert "\x1b" not in out
    assert "[red]x.png" in out


def test_a_reader_that_goes_away_stops_the_run_quietly(pages: Path) -> None:
    command = [sys.executable, "-m", "comic_upscale", "run", "--input", str(pages), *QUICK_ENGINE, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    assert "Traceback" not in error
    assert "BrokenPipe" not in error


def test_json_is_ascii_so_that_any_terminal_passes_it_on(pages: Path, tiny_weights: Path) -> None:
    draw(pages / "漫画é.png", 9)
    _, out, _ = invoke("run", "--input", pages, "--model", tiny_weights, "--json")
    assert out.isascii()
    assert "漫画é.png" in [json.loads(line).get("source") for line in out.splitlines()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_stops_the_run_quietly(pages: Path) -> None:
    command = [sys.executable, "-m", "comic_upscale", "run", "--input", str(pages), *QUICK_ENGINE]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert ended.returncode in (0, 1)
    assert "Traceback" not in ended.stderr
