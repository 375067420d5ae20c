"""The benchmark of the server measures every figure, and its report says what each is compared with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")

from benchmarks.server import Figure, main
from tests.conftest import LONG


@pytest.mark.skipif(not LONG, reason="takes a minute: set COMIC_UPSCALE_TEST_LONG=1")
@pytest.mark.skipif(os.name != "posix", reason="the server runs on POSIX systems")
def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    main(["--jobs", "300", "--viewers", "3", "--seconds", "0.3", "--busy", "--json", str(path)])
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["busy_machine"] and report["hardware"]["cores"] >= 1
    assert [(each["unit"], each["target"]) for each in report["figures"]] == [
        ("/s", 200), ("ms", 50), ("s", 1), ("MB", 150), ("s", 3), ("ms", 200), ("ms", 200), ("/s", 40), ("ms", 150),
    ]  # fmt: skip
    assert all(each["value"] > 0 for each in report["figures"])
    assert len(capsys.readouterr().out.splitlines()) == len(report["figures"])


@pytest.mark.parametrize(
    ("value", "is_least", "is_met"), [(5, True, True), (3, True, False), (5, False, False)]
)
def test_when_a_target_is_met(value: float, is_least: bool, is_met: bool) -> None:
    assert Figure("x", value, "s", 4, is_least).is_met is is_met
