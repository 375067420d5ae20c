"""What a person reads: lines of a log and of summaries, and a refusal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.console import display
from comic_upscale.console.text import hooks_lines
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
