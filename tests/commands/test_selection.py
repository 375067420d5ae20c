"""Which pages a run looks at: PAGES, --from-file, --include and --exclude. Everything else stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from comic_upscale import cli
from comic_upscale.cli import app
from comic_upscale.commands import selection
from comic_upscale.console.text import summary_lines
from comic_upscale.errors import InputError
from comic_upscale.execution.events import JobFinished
from comic_upscale.library.selector import Selector
from comic_upscale.planning.discovery import find_pages
from comic_upscale.settings.selection import Selection
from tests.archives import make_zip, pictures
from tests.conftest import MakeSettings, draw
from tests.windows import as_on_windows


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def comics(tmp_path: Path) -> Path:
    folder = tmp_path / "comics"
    for number, name in enumerate(("cover.png", "vol 1/1.png", "vol 1/2.png", "vol 2/1.png")):
        draw(folder / name, number)
    (folder / "vol 1/1.txt").write_text("a caption")
    make_zip(folder / "a.cbz", pictures(2))
    (folder / "b.cbz").write_bytes(b"PK\3\4 not an archive, and never opened here")
    return folder


def invoke(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run(weights: Path, *arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    return invoke(
        "run", *arguments, "--model", weights, "--device", "cpu", "--workers", 2, "-s", 2, stdin=stdin
    )


def outputs(folder: Path) -> dict[str, int]:
    """Return the files of an output folder with their times."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.parts
    }


def planned(*arguments: object, stdin: bytes | None = None) -> dict[str, str]:
    """Return what a run would do, by source."""
    code, out, err = invoke("run", *arguments, "--dry-run", "--json", "--device", "cpu", "-s", 2, stdin=stdin)
    assert code == 0, err
    return {page["source"]: page["action"] for page in json.loads(out)["pages"]}


def test_several_pages_are_a_part_of_the_folder_that_they_share(comics: Path, tiny_weights: Path) -> None:
    code, out, err = run(tiny_weights, comics / "cover.png", comics / "vol 1", comics / "a.cbz")
    assert (code, err) == (0, "")
    assert "only cover.png, vol 1, a.cbz" in out
    folder = comics.with_name("comics-x2")
    assert set(outputs(folder)) == {"cover.png", "vol 1/1.png", "vol 1/1.txt", "vol 1/2.png", "a.cbz"}
    code, out, _ = invoke("status")
    assert "finished: 100 %, 5 of 5 done" in out
    assert "only cover.png, vol 1, a.cbz" in out
    assert json.loads(invoke("status", "--json")[1])["selection"] == "only cover.png, vol 1, a.cbz"
    assert invoke("export", "--job", folder)[0] == 0


def test_a_run_over_a_part_of_a_job_leaves_the_rest_alone(comics: Path, tiny_weights: Path) -> None:
    (comics / "b.cbz").unlink()
    output = comics.with_name("out")
    assert run(tiny_weights, comics, "-o", output)[0] == 0
    before = outputs(output)
    # Pages outside of the part are gone, and one has the content of a finished page under a new name.
    (comics / "vol 2/1.png").rename(comics / "vol 2/renamed.png")
    (comics / "a.cbz").unlink()
    (comics / "vol 1/2.png").unlink()
    draw(comics / "cover.png", 99)
    code, out, err = run(tiny_weights, comics / "cover.png", "-o", output)
    assert (code, err) == (0, "")
    assert "no source" not in out
    assert "moved" not in out
    after = outputs(output)
    assert after.pop("cover.png") != before.pop("cover.png")
    assert after == before
    status = json.loads(invoke("status", "--json")[1])
    assert (status["done"], status["pending"], status["orphans"]) == (6, 0, 0)
    code, out, _ = invoke("prune", "--job", output, "--yes")
    assert outputs(output).keys() == {"cover.png", *before}
    # The whole input again: now they count as gone, and the renamed page keeps its output.
    code, out, _ = run(tiny_weights, comics, "-o", output)
    assert "2 outputs have no source" in out
    assert "1 output moved" in out
    assert json.loads(invoke("status", "--json")[1])["orphans"] == 2


def test_what_was_gone_before_stays_gone_after_a_run_over_another_part(
    comics: Path, tiny_weights: Path
) -> None:
    (comics / "b.cbz").unlink()
    assert run(tiny_weights, comics)[0] == 0
    (comics / "vol 2/1.png").unlink()
    assert "1 output has no source" in run(tiny_weights, comics)[1]
    assert run(tiny_weights, "--input", comics, "--include", "/cover.png")[0] == 0
    assert json.loads(invoke("status", "--json")[1])["orphans"] == 1


def test_a_job_without_a_new_part_continues_with_what_it_had(comics: Path, tiny_weights: Path) -> None:
    assert run(tiny_weights, "--input", comics, "--include", "vol*/", "--exclude", "2.png")[0] == 0
    folder = comics.with_name("comics-x2")
    assert set(outputs(folder)) == {"vol 1/1.png", "vol 1/1.txt", "vol 2/1.png"}
    draw(comics / "vol 2/3.png", 50)
    assert planned("--input", comics) == {"vol 1/1.png": "do", "vol 2/1.png": "do", "vol 2/3.png": "do"}
    code, out, _ = run(tiny_weights, "--input", comics)
    assert code == 0
    assert "only vol*/; without 2.png" in out
    assert set(outputs(folder)) == {"vol 1/1.png", "vol 1/1.txt", "vol 2/1.png", "vol 2/3.png"}
    # A folder named as an argument is meant whole. The broken volume is opened now.
    code, out, _ = run(tiny_weights, comics)
    assert code == 1
    assert "b.cbz" in out
    assert "selection" not in out


def test_a_list_of_pages(comics: Path, tmp_path: Path) -> None:
    pages = (comics / "cover.png", Path("comics/vol 1/2.png"))
    expected = {"cover.png": "do", "vol 1/2.png": "do"}
    listed = "\r\n".join(map(str, pages)).encode()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + listed)
    assert planned("--from-file", "list.txt") == expected
    assert planned("--from-file", "-", stdin=b"\0".join(map(os.fsencode, pages)) + b"\0") == expected
    assert planned(comics / "cover.png", "--from-file", "-", stdin=b"comics/vol 1/2.png\n") == expected
    code, _, err = invoke("run", "--from-file", "-", stdin=b"\n")
    assert (code, "names no page" in err) == (3, True)
    assert invoke("run", "--from-file", "missing.txt")[0] == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_a_list_that_powershell_wrote(comics: Path, tmp_path: Path, encoding: str) -> None:
    draw(comics / "Ærø 1.png", 30)
    mark = "" if encoding == "utf-16" else "\ufeff"
    listed = f"{mark}{comics / 'Ærø 1.png'}\r\n{comics / 'cover.png'}\r\n"
    (tmp_path / "list.txt").write_bytes(listed.encode(encoding))
    assert planned("--from-file", "list.txt") == {"cover.png": "do", "Ærø 1.png": "do"}


def test_a_list_of_names_that_are_not_unicode(comics: Path, tmp_path: Path) -> None:
    odd = draw(comics / "plain.png", 30).rename(comics / os.fsdecode(b"\xe9.png"))
    (tmp_path / "list.txt").write_bytes(os.fsencode(odd) + b"\n" + os.fsencode(comics / "cover.png"))
    assert set(planned("--from-file", "list.txt")) == {"cover.png", "%E9.png"}


def test_a_list_in_the_code_page_of_cmd_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_windows(monkeypatch, selection)
    (tmp_path / "list.txt").write_bytes("Ærø.png\r\n".encode("cp850"))
    with pytest.raises(InputError, match="write the list as UTF-8"):
        selection.with_pages({}, None, tmp_path / "list.txt")


def test_pages_are_found_in_another_case_as_on_windows_and_macos(
    comics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (comics / "É.png").touch()

    def same(path: object) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    on_disk = {same(path) for path in comics.rglob("*")}
    monkeypatch.setattr(os.path, "lexists", lambda path: same(path) in on_disk)
    monkeypatch.setattr(Path, "samefile", lambda one, other: same(one) == same(other))
    named = [comics / name for name in ("A.CBZ", "VOL 1/1.PNG", "a.cbz", "E\u0301.png")]
    found = selection.with_pages({"input": comics}, named, None)["selection"]
    assert found.paths == ("a.cbz", "vol 1/1.png", "É.png")


def main_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> set[str]:
    """Return the sources that a run would do, from the whole program on Windows."""
    as_on_windows(monkeypatch, typer.core, selection)
    options = ("--dry-run", "--json", "--device", "cpu", "-s", "2")
    monkeypatch.setattr(sys, "argv", ["comic-upscale", "run", *arguments, *options])
    # The program replaces them.
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return {page["source"] for page in json.loads(out)["pages"]}


def test_patterns_of_options_are_not_expanded_on_windows(
    comics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(comics)
    found = main_on_windows(monkeypatch, capsys, "--input", str(comics), "--exclude", "*.cbz")
    assert found == {"cover.png", "vol 1/1.png", "vol 1/2.png", "vol 2/1.png"}


def test_patterns_of_pages_are_expanded_on_windows(
    comics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_on_windows(monkeypatch, capsys, "comics/vol 1/?.png") == {"1.png", "2.png"}


def test_the_home_folder_is_put_in_on_windows(
    comics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(comics.parent))
    (comics.parent / "list.txt").write_text("comics/cover.png\ncomics/vol 1/1.png\n", "utf-8")
    as_on_windows(monkeypatch, cli)
    found = main_on_windows(monkeypatch, capsys, "--from-file", "~/list.txt")
    assert found == {"cover.png", "vol 1/1.png"}


def test_brackets_in_patterns_stand_for_themselves_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1 [Digital].png", "1 D.png"):
        draw(tmp_path / name, 1)
    as_on_windows(monkeypatch, selection)
    named = selection.with_pages({}, [Path("* [Digital].png")], None)
    assert named["input"] == tmp_path / "1 [Digital].png"
    with pytest.raises(InputError, match="does not exist"):
        selection.with_pages({}, [Path("*.gif")], None)


def test_one_page_is_the_input_as_with_the_flag(comics: Path, tiny_weights: Path) -> None:
    assert run(tiny_weights, comics / "cover.png")[0] == 0
    assert set(outputs(comics / "cover-x2")) == {"cover.png"}


def test_a_page_of_an_existing_job_is_a_part_of_it(comics: Path, tiny_weights: Path, tmp_path: Path) -> None:
    assert run(tiny_weights, "--input", comics, "--exclude", "b.cbz", "-o", "out")[0] == 0
    assert planned(comics / "vol 1", "-o", "out", "--model", tiny_weights) == {
        "vol 1/1.png": "done", "vol 1/2.png": "done",
    }  # fmt: skip
    other = draw(tmp_path / "elsewhere/1.png", 60)
    code, _, err = invoke("run", other, "-o", "out")
    assert code == 3
    assert f"{other} is outside of {comics}" in err
    assert "--input" in err
    assert set(planned("--input", other, "-o", "out")) == {"1.png"}
    # The input was moved: its new place is named.
    (comics / "b.cbz").unlink()
    shutil.move(comics, tmp_path / "moved")
    assert len(planned(tmp_path / "moved", "-o", "out", "--model", tiny_weights)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to upscale is named"),
        (("comics/missing.png",), "comics/missing.png does not exist"),
        (("comics/cover.png", "--input", "comics/vol 1"), "is outside of the input"),
        (("comics/cover.png", "/etc"), "share no folder but /"),
        (("comics/cover.png", "comics/vol 1", "--exclude", "*"), "no page or volume of the selection"),
        (("--input", "comics", "--include", "*.tiff"), "no page or volume of the selection (only *.tiff)"),
        (("--input", "comics/cover.png", "--exclude", "*.png"), "no page or volume of the selection"),
        (("--input", "comics", "--include", ""), "--include must be texts"),
        (("--input", "comics", "--include", "!"), "--include has a pattern that cannot be used"),
    ],
)
def test_pages_that_cannot_be_meant(comics: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = invoke("run", *arguments, "--dry-run")
    assert code in (2, 3)
    assert message in err
    assert not list(comics.parent.glob("*-x2*"))


def test_cost_is_about_the_same_pages(comics: Path) -> None:
    code, out, err = invoke(
        "cost", comics / "cover.png", comics / "vol 1", "--gpu", "T4", "--json", "--device", "cpu"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["work"]["pages"] == 3
    assert invoke("cost", "--pages", 3, comics)[0] == 2
    code, _, err = invoke("cost", comics / "cover.png", comics / "vol 1", "--gpu", "T4", "--device", "cpu")
    assert (code, err) == (0, "selection: only cover.png, vol 1\n")


def test_a_page_behind_a_link_has_the_name_that_discovery_gives_it(comics: Path) -> None:
    (comics / "latest").symlink_to("vol 2")
    assert planned(comics / "latest/1.png", comics / "cover.png") == {"cover.png": "do", "vol 2/1.png": "do"}


def test_what_is_named_and_is_no_page_is_said(comics: Path, make_settings: MakeSettings) -> None:
    (comics / "notes.txt").write_text("not a page")
    (comics / "empty").mkdir()
    paths = ("cover.png", "notes.txt", "vol 1", "vol 2/1.png", "a.cbz", "empty")
    found = find_pages(make_settings(input=comics, selection=Selection(paths)))
    assert found.warnings == (
        "notes.txt was named, but it is no page, volume or folder with pages.",
        "empty was named, but it is no page, volume or folder with pages.",
    )
    found = find_pages(make_settings(input=comics, selection=Selection(paths[:2], exclude=("*.txt",))))
    assert found.warnings[0].endswith("or the patterns leave it out.")
    many = tuple(f"{number}.txt" for number in range(30))
    found = find_pages(make_settings(input=comics, selection=Selection(("cover.png", *many))))
    assert found.warnings[-1] == "20 more of the named paths are no pages."


def test_a_link_does_not_lead_into_a_folder_that_is_excluded(comics: Path) -> None:
    (comics / "latest").symlink_to("vol 2")
    without = ("--exclude", "*.cbz", "--exclude", "vol 1/", "--exclude")
    assert planned("--input", comics, *without, "vol 2/") == {"cover.png": "do"}
    # A link that is excluded says nothing about its folder.
    assert planned("--input", comics, *without, "latest/") == {"cover.png": "do", "vol 2/1.png": "do"}


def test_a_part_has_the_names_of_the_whole(comics: Path) -> None:
    (comics / "b.cbz").unlink()
    for name in ("cover.webp", "cover.png.png"):
        draw(comics / name, 7)
    # Both would be v.cbz.
    make_zip(comics / "v.cbz", pictures(1))
    make_zip(comics / "v.zip", pictures(2))
    whole = json.loads(invoke("run", comics, "--dry-run", "--json")[1])["pages"]
    names = {page["source"]: page["output"] for page in whole}
    for source in ("cover.webp", "cover.png", "vol 1/2.png", "v.cbz", "v.zip"):
        part = json.loads(invoke("run", "-i", comics, comics / source, "--dry-run", "--json")[1])["pages"]
        assert {page["source"]: page["output"] for page in part} == {
            name: output for name, output in names.items() if name == source or name.startswith(f"{source}/")
        }


@pytest.mark.parametrize(
    ("selection", "looked_at", "left_alone"),
    [
        (Selection(("vol",)), ("vol/1.png", "vol/a.cbz/1.png", "vol"), ("vol 2/1.png", "cover.png")),
        # Pages of a volume that is left out are not gone, whatever their own names are.
        (Selection(include=("p*.png",)), ("p1.png", "x/p2.png"), ("a.cbz", "a.cbz/p1.png", "x.zip/b.cbz/p1.png")),
        (Selection(include=("*.cbz",)), ("a.cbz", "a.cbz/p1.png"), ("p1.png", "b.cbr/p1.png")),
        (Selection(exclude=("vol/", "!vol/1.png")), ("1.png", "other/vol.png"), ("vol/1.png", "vol/2/3.png")),
        (Selection(("a",), ("*.png",), ("2.*",)), ("a/1.png",), ("a/2.png", "a/1.jpg", "b/1.png")),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_selection_looks_at(
    selection: Selection, looked_at: tuple[str, ...], left_alone: tuple[str, ...]
) -> None:
    selector = Selector(selection)
    assert [selector.looks_at(source) for source in looked_at] == [True] * len(looked_at)
    assert [selector.looks_at(source) for source in left_alone] == [False] * len(left_alone)
    assert all(selector.takes(source) for source in looked_at if "/" not in source and "." in source)


def test_folders_that_hold_nothing_selected_are_not_entered() -> None:
    assert Selector(Selection(("a/b/c.png",))).may_enter("a")
    assert not Selector(Selection(("a/b/c.png",))).may_enter("a/x")
    assert not Selector(Selection(exclude=("raw/",))).may_enter("vol/raw")


@pytest.mark.parametrize("pending", [0, 2])
def test_a_part_that_is_done_is_not_the_end_of_the_job(pending: int) -> None:
    finished = JobFinished(
        state="finished", reason=None, total=5, done=5 - pending, done_now=0, failed=0, skipped=0, pending=pending,
        seconds=1.0, pages_per_second=None, output="out", ledger="ledger.sqlite3",
    )  # fmt: skip
    assert ("nothing left to do" in summary_lines(finished)) == (pending == 0)
