"""What a person reads: lines of a log and of summaries, and a refusal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.console import display
from comic_upscale.console.quote_text import summary_lines
from comic_upscale.console.text import hooks_lines
from comic_upscale.costs.quote import PARTS, Part, Quote
from comic_upscale.costs.ranges import Range
from comic_upscale.execution.events import HooksFinished, Progress
from comic_upscale.execution.stop import StopRequest


def progress(pending: int) -> Progress:
    return Progress(
        total=10_000, done=10_000 - pending, failed=0, skipped=0, pending=pending, pages_per_second=None,
        eta_seconds=None, in_hand=None, bottleneck=None, busy={},
    )  # fmt: skip


def test_pages_that_were_done_before_make_no_run_look_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    log = display.LogDisplay(lines.append, verbose=False)
    monkeypatch.setattr(display, "LOG_INTERVAL_SECONDS", 0)
    log(progress(1000))
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: log._start + 100))
    log(progress(999))
    # One page in 100 s, and 999 to go.
    assert "27:45:00, 100.00s/page" in lines[-1]


def test_a_stop_is_shown_before_the_first_page() -> None:
    stop = StopRequest()
    shown = display.Preparation("loading comic-fast-x3", stop)
    assert str(shown.__rich__()) == "loading comic-fast-x3"
    stop.request("SIGINT")
    assert str(shown.__rich__()) == "loading comic-fast-x3: stopping after this"


def test_equal_failures_of_hooks_are_said_once() -> None:
    failures = (("--komga", "no library"), ("--webhook", "status 500"), ("--komga", "no library"))
    assert hooks_lines(HooksFinished(ran=9, failures=failures)) == [
        "3 of 9 hooks failed; the pages are not affected",
        "  --komga: no library (2 times)",
        "  --webhook: status 500",
    ]


def test_a_watch_refuses_a_folder_that_was_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    ended = CliRunner().invoke(
        app, ["watch", str(tmp_path / "nope"), "--once", "--output", str(tmp_path / "out")]
    )
    assert (ended.exit_code, "nope does not exist: check its name" in ended.stderr) == (3, True)
    assert not (tmp_path / "out").exists()


def quoted(hardware: str, seller: str, seconds: float, dollars: float | None) -> Quote:
    paid = None if dollars is None else Range.exactly(dollars)
    part = Part(seconds=Range.exactly(0.0), dollars=paid, source="measured")
    return Quote(
        hardware=hardware, seller=seller, model="m", pages=1, hour=paid, price_source="", basis="measured",
        parts=dict.fromkeys(PARTS, part), seconds=Range.exactly(seconds), dollars=paid,
    )  # fmt: skip


T4, H100 = quoted("T4", "AWS", 300.0, 0.1), quoted("H100", "Vast", 250.0, 0.5)


@pytest.mark.parametrize(
    ("here", "recommended", "fastest"),
    [
        (quoted("CPU", "", 9.0, None), "this machine, CPU: no rent in 9.0 s, the cheapest and the fastest", None),
        (quoted("CPU", "", 999.0, None), "this machine, CPU: no rent in 16:39, the cheapest", "H100 at Vast: $0.50"),
        (quoted("CPU", "", 9.0, 0.2), "T4 at AWS: $0.10 in 5:00, the cheapest", "this machine, CPU: $0.20 in 9.0 s"),
    ],
    ids=["fast", "slow", "with a price"],
)  # fmt: skip
def test_a_machine_is_rented_only_where_it_saves_time_or_money(
    here: Quote, recommended: str, fastest: str | None
) -> None:
    lines = summary_lines([here, T4, H100], None)
    assert f"recommended: {recommended}" in lines
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("fastest")]
    assert [each[: len(fastest or "")] for each in named] == ([] if fastest is None else [fastest])
    assert not any("bench" in line for line in lines)


def test_the_machine_that_is_not_measured_has_a_way_to_be() -> None:
    lines = summary_lines([T4, H100], None)
    assert "recommended: T4 at AWS: $0.10 in 5:00, the cheapest" in lines
    assert sum("comic-upscale bench" in line for line in lines) == 1


def test_a_watch_says_how_long_files_must_be_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "in").mkdir()
    words = ["watch", str(tmp_path / "in"), "--once", "--output", str(tmp_path / "out"), "--settle"]
    for settle, says in (("1", "still for 1 second\n"), ("0.5", "still for 0.5 seconds\n")):
        assert says in CliRunner().invoke(app, [*words, settle]).stdout
