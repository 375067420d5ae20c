"""The report: what it finds, what it says, and what it does not let through."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import sqlite3
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.errors import LedgerDamagedError, SettingsError
from comic_upscale.evaluation.likeness import Likeness
from comic_upscale.jobs.run import run_job
from comic_upscale.reporting.contact import contact_sheet
from comic_upscale.reporting.inspection import Inspected, _by_gate, _by_likeness, _select_worst
from comic_upscale.reporting.report import Report, as_html, make_report, write_report
from comic_upscale.reporting.timeline import make_timeline
from comic_upscale.reporting.views import LONGEST_SIDE, MOST_PIXELS
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine, pause
from tests.reporting.conftest import SPOILT, page


class Reader(HTMLParser):
    """What a browser would make of the file: its elements, its texts, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data


@pytest.fixture(scope="session")
def read(html: Path) -> Reader:
    return Reader(html.read_text(encoding="utf-8"))


def test_the_spoilt_page_is_the_worst_and_pages_of_volumes_are_looked_at(report: Report) -> None:
    assert (report.choice.looked_at, report.choice.done, report.choice.left_out) == (14, 14, {})
    first = report.choice.worst[0]
    assert first.inspected.row["source"] == SPOILT
    assert {reason.split(",")[0] for reason in first.reasons} == {
        "lowest SSIM", "lowest PSNR", "largest shift",
    }  # fmt: skip
    shown = [chosen.inspected.row["source"] for chosen in (*report.choice.worst, *report.choice.random)]
    assert len(shown) == len(set(shown)) == 10
    everything = {view.chosen.inspected.row["source"] for view in make_once(report, show=20).worst}
    assert {f"v01.cbz/p{number}.png" for number in range(4)} <= everything


def make_once(report: Report, **changes: int) -> Report:
    return make_report(Path(report.status.ledger), workers=1, **changes)  # type: ignore[arg-type]


def test_the_worst_are_taken_in_turn_by_each_measure() -> None:
    def inspected(psnr: float, ssim: float, shift: float) -> Inspected:
        return _by_likeness({"source": f"{psnr}"}, Likeness(psnr, ssim, (shift,)))

    low_ssim, low_psnr, tinted = inspected(40, 0.5, 0), inspected(10, 0.9, 0), inspected(41, 0.99, -9)
    rest = [inspected(30 + number, 0.95 + number / 1000, 0.1) for number in range(5)]
    chosen = _select_worst([*rest, tinted, low_psnr, low_ssim], 3)
    assert [each.inspected for each in chosen] == [low_ssim, low_psnr, tinted]
    assert [each.reasons[0] for each in chosen] == ["lowest SSIM", "lowest PSNR", "largest shift"]
    assert _select_worst([], 3) == []


GOOD = {"psnr": 45.0, "ssim": 0.99, "brightness": 0.1, "tint": 0.1, "worst_block": 3.0}


def scored(number: int, suspect: str | None = None, **scores: float) -> dict[str, object]:
    return {"id": number, "suspect": suspect, "scores": json.dumps({**GOOD, **scores})}


def test_pages_with_scores_are_ranked_by_them_and_suspects_come_first() -> None:
    rows = [scored(number) for number in range(6)]
    rows += [
        scored(6, psnr=30.0, worst_block=30.0),
        scored(7, ssim=0.9),
        scored(8, "tinted by 3.0 levels", tint=3.0),
    ]
    inspected = [found for row in rows if (found := _by_gate(row)) is not None]
    chosen = _select_worst(inspected, 3)
    assert [each.inspected.row["id"] for each in chosen] == [8, 7, 6]
    assert chosen[0].reasons[0] == "suspect: tinted by 3.0 levels"
    assert [each.reasons[0] for each in chosen[1:]] == ["lowest SSIM", "lowest PSNR"]
    assert "worst part" in chosen[2].reasons


@pytest.mark.parametrize(
    "scores",
    [
        None, "", "null", "[]", "[1, 2]", "{", b"\x00\xff", 7, "NaN", "[" * 100_000, '{"psnr": "high"}',
        json.dumps({**GOOD, "psnr": float("nan")}), json.dumps({**GOOD, "ssim": None}),
        json.dumps({**GOOD, "tint": 10**400}), json.dumps({**GOOD, "worst_block": True}),
    ],
)  # fmt: skip
def test_scores_that_are_none_are_not_used(scores: object) -> None:
    assert _by_gate({"id": 1, "scores": scores}) is None


def test_a_report_opens_no_page_that_it_has_scores_of_but_those_it_shows(job: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scored"
    shutil.copytree(job, copy)
    ledger = copy / ".comic-upscale" / "ledger.sqlite3"
    connection = sqlite3.connect(ledger)
    connection.execute("update pages set scores = ?", [json.dumps(GOOD)])
    connection.execute(
        "update pages set scores = ?, suspect = ? where source = 'page05.png'",
        [json.dumps({**GOOD, "ssim": 0.5}), "<b>flat</b>\nwhere the source is not"],
    )
    connection.commit()
    connection.close()
    for number in range(1, 4):
        (copy / f"page0{number}.png").unlink()
    found = make_report(ledger, show=1, workers=1)
    assert (found.choice.looked_at, found.choice.by_gate, found.choice.left_out) == (14, 14, {})
    assert found.worst[0].chosen.inspected.row["source"] == "page05.png"
    assert found.worst[0].likeness.psnr > 10
    text = as_html(found)
    assert "during the run" in text and "<b>flat</b>" not in text and "&lt;b&gt;flat" in text


def test_it_is_one_file_that_needs_nothing_else(html: Path, read: Reader) -> None:
    links = [
        value
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert links and all(str(link).startswith("data:image/webp;base64,") for link in links)
    (policy,) = (
        attributes["content"]
        for _, attributes in read.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    (script,) = read.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert html.stat().st_size < 3_000_000


def test_names_from_strangers_are_text_and_nothing_else(read: Reader) -> None:
    assert "<img src=x onerror=alert(1)>.png" in read.text
    assert "broken <b>.png" in read.text
    assert not any("onerror" in attributes for _, attributes in read.elements)
    assert "b" not in {tag for tag, _ in read.elements}


def test_it_says_what_was_done_what_failed_and_why(read: Reader) -> None:
    text = re.sub(r"\s+", " ", read.text)
    assert "14 of 16 done, 2 failed" in text
    assert "1 of 1 complete" in text
    assert "1 empty" in text and "empty.png" in text and "The file is empty (0 bytes)" in text
    assert "14 of 14 finished pages were compared:" in text
    assert "any.pth" in text and "x2.5" in text and "fake, fp32" in text
    assert sum(tag == "svg" for tag, _ in read.elements) == 2


def test_pictures_are_cut_to_a_bounded_size_and_match(report: Report) -> None:
    for view in (*report.worst, *report.random):
        assert view.width * view.height <= MOST_PIXELS * 1.01
        with Image.open(io.BytesIO(view.after)) as after, Image.open(io.BytesIO(view.before)) as before:
            assert after.size == (view.width, view.height)
            assert view.width / before.width == pytest.approx(2.5, abs=0.05)
    whole = make_once(report, show=20)
    (large,) = (v for v in whole.worst if v.chosen.inspected.row["source"] == "large.png")
    assert large.whole is not None and 0 < large.place[3] < 1
    assert max(large.width, large.height) <= LONGEST_SIDE


def test_a_sample_is_said_to_be_one_and_is_always_the_same(ledger: Path) -> None:
    one, other = (make_report(ledger, look_at=6, show=2, workers=1) for _ in range(2))
    names = [[chosen.inspected.row["source"] for chosen in each.choice.random] for each in (one, other)]
    assert names[0] == names[1] and one.choice.looked_at == 6
    assert re.search(r"6 of 14 finished pages were compared,\s+a sample", as_html(one))
    with pytest.raises(SettingsError):
        make_report(ledger, look_at=0)


def test_what_is_gone_or_changed_is_said_and_not_compared(job: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(job, copy)
    (copy / "page01.png").unlink()
    ledger = copy / ".comic-upscale" / "ledger.sqlite3"
    connection = sqlite3.connect(ledger)
    connection.execute("update pages set source_sha256 = 'x' where source = 'page02.png'")
    connection.commit()
    (copy / "page03.png").rename(tmp_path / "page03.png")
    (copy / "page03.png").symlink_to(tmp_path / "page03.png")
    found = make_report(ledger, workers=1).choice
    assert found.looked_at == 11
    assert found.left_out == {
        "The output no longer exists": 1,
        "The source has changed since it was upscaled": 1,
        "The output is a link that leads out of the output folder": 1,
    }
    # Names that lead out are in no ledger of ours.
    connection.execute("update pages set output = '../../../etc/hostname' where source = 'page03.png'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerDamagedError, match="output of row"):
        make_report(ledger)


def test_a_job_that_has_done_nothing_yet_has_a_report(job: Path, tmp_path: Path) -> None:
    copy = tmp_path / "young"
    shutil.copytree(job, copy)
    ledger = copy / ".comic-upscale" / "ledger.sqlite3"
    connection = sqlite3.connect(ledger)
    connection.execute("update pages set state = 'pending'")
    connection.commit()
    connection.close()
    young = make_report(ledger)
    assert (young.worst, young.random, young.typical_size, young.timeline.rate) == ([], [], None, None)
    text = as_html(young)
    assert "0 of 14 done, 14 to do" in text or "0 of 16 done, 16 to do" in text
    contact_sheet(young)


def test_only_a_report_of_ours_is_replaced(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(report, path)
    write_report(report, path)
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(SettingsError, match="--overwrite"):
        write_report(report, path)
    assert path.read_text(encoding="utf-8") == "my notes"
    write_report(report, path, overwrite=True)
    with pytest.raises(SettingsError, match="folder"):
        write_report(report, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_the_command_writes_report_and_sheet(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    target, sheet = tmp_path / "deep" / "r.html", tmp_path / "sheet.png"
    arguments = ["report", "--job", str(job), "--output", str(target), "--sheet", str(sheet), "--show", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "14 of 14 pages compared" in result.stdout
    assert target.read_bytes().startswith(b"<!-- report of comic-upscale -->")
    with Image.open(sheet) as image:
        image.load()
        assert 1000 < image.width < 1300 and image.format == "PNG"
    assert CliRunner().invoke(app, ["report", "--job", str(tmp_path)]).exit_code == 3


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"scale": 2.0, "size": None}, "x2.0"),
        ({"scale": None, "size": "width 2000"}, "width 2000"),
        ({"size": "scale 2.5"}, "x2.5"),
        ({"size": "fit 1x2"}, "fit 1x2"),
    ],
)
def test_the_size_of_a_job_of_any_version_is_told(
    report: Report, recorded: dict[str, object], told: str
) -> None:
    text = re.sub(r"\s+", " ", Reader(as_html(replace(report, settings=recorded))).text)
    assert re.search(rf"size\s*{re.escape(told)}\b", text)


def test_a_report_counts_the_time_as_its_run_did_and_loading_beside_it(tmp_path: Path) -> None:
    def slowly(*_: object) -> list[NearestEngine]:
        time.sleep(3)
        return [NearestEngine(pause(0.3))]

    (tmp_path / "in").mkdir()
    for number in range(4):
        page(number).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "any.pth").write_bytes(b"weights")
    settings = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", model=str(tmp_path / "any.pth"), workers=1
    )
    finished = run_job(settings, open_engines=slowly)
    found = make_report(settings.ledger_path, workers=1)
    assert found.timeline.start_seconds >= 2.9
    assert found.timeline.seconds == pytest.approx(finished.seconds, rel=0.3)
    text = re.sub(r"\s+", " ", Reader(as_html(found)).text)
    assert "starting and loading" in text
    assert re.search(r"sources\s*\d+\.\d kB", text), "small files are told in what they have"


def test_the_time_of_runs_is_put_together_without_the_pauses() -> None:
    def run(number: int, start: str, end: str | None) -> dict[str, object]:
        return {"id": number, "started_at": start, "ended_at": end, "heartbeat_at": end or start}

    def done(run_id: int | None, at: str, seconds: float) -> dict[str, object]:
        times = {f"{stage}_seconds": seconds for stage in ("decode", "upscale", "encode")}
        return {"run_id": run_id, "finished_at": at, "place_seconds": None, **times}

    first = [done(1, f"2026-01-01T10:00:{second:02}Z", 1.0) for second in range(10, 60, 10)]
    second = [done(2, f"2026-01-05T08:00:{second:02}Z", 3.0) for second in (10, 20, 30, 40)]
    taken_over = [done(None, "2026-01-02T00:00:00Z", 9.0)]
    timeline = make_timeline(
        [
            run(1, "2026-01-01T10:00:00Z", "2026-01-01T10:01:00Z"),
            run(2, "2026-01-05T08:00:00Z", None),
            run(3, "2026-01-06T08:00:00Z", "2026-01-06T09:00:00Z"),
        ],
        [*first, *second, *taken_over],
    )
    # The first page of the first run was 3 s in its stages, so work began after 7 s; that of the second 9 s, after 1 s.
    assert (timeline.seconds, timeline.pages, timeline.starts) == (53 + 39, 9, (53.0,))
    assert timeline.start_seconds == 7 + 1
    assert sum(each.pages for each in timeline.bins) == 9
    assert timeline.rate == pytest.approx(9 / 92)
    assert timeline.bins[0].stages == (1, 1, 1, 0) and timeline.bins[-1].stages == (3, 3, 3, 0)
    assert [spread.stage for spread in timeline.spreads] == ["decode", "upscale", "encode"]
    assert make_timeline([], []).bins == ()


def test_a_file_in_the_way_is_found_before_pages_are_compared(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compares(*_: object, **__: object) -> None:
        raise AssertionError("pages are compared")

    monkeypatch.setattr("comic_upscale.reporting.report.make_report", compares)
    own = tmp_path / "report.html"
    own.write_text("my own report", encoding="utf-8")
    arguments = ["report", "--job", str(job), "--output", str(own)]
    refused = CliRunner().invoke(app, arguments)
    assert (refused.exit_code, "is not a report of comic-upscale" in refused.stderr) == (2, True)
    begun = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert isinstance(begun.exception, AssertionError)
    assert begun.stderr.startswith("making the report of")
