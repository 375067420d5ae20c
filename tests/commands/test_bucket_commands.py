"""The commands over a job between buckets, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from comic_upscale.cli import app
from comic_upscale.settings.places import place_of
from tests.archives import picture
from tests.engines.test_command import QUICK_ENGINE
from tests.storage.conftest import OFTEN, OpenBucket, bucket_of, open_bucket, servers

__all__ = ["open_bucket", "servers"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def call(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("kind", [kind for kind in OFTEN if kind != "rclone"])
def test_a_job_between_buckets_from_the_check_to_the_report(
    open_bucket: OpenBucket, home: Path, kind: str
) -> None:
    address = open_bucket(kind)
    source, output = (place_of(address / name).address for name in ("in", "out"))
    for number in range(3):
        bucket_of(address / "in").put(f"ch 1/{number}.png", picture(number))
    job = ("run", "--input", source, "--output", output, *QUICK_ENGINE, "--scale", "2")
    said = call(*job, "--check-storage").stdout
    assert said.splitlines()[:2] == ["input:  list: ok", "input:  read: ok, by ranges"]
    assert "output: delete: ok" in said
    assert f"into {output}" in call(*job, "--dry-run").stdout
    events = [json.loads(line) for line in call(*job, "--json").stdout.splitlines()]
    assert (events[-1]["done"], events[-1]["output"]) == (3, output)
    # The ledger is in a folder of the user, and is found by the address, or as that of the newest job.
    assert Path(events[-1]["ledger"]).is_relative_to(home)
    for named in (("--job", output), ()):
        status = json.loads(call("status", *named, "--json").stdout)
        assert (status["done"], status["input"], status["output"]) == (3, source, output)
    assert call("export", "--job", output, "--format", "csv").stdout.count("\n") == 4
    refused = CliRunner().invoke(app, ["export", "--job", output, "--format", "imagefolder"])
    assert (refused.exit_code, "these are in a bucket" in refused.output) == (2, True)
    assert "nothing to prune" in call("prune", "--job", output).stdout
    # A place in a bucket may be named as the input, alone.
    assert (
        "nothing left to do" in call("run", source, "--output", output, *QUICK_ENGINE, "--scale", "2").stdout
    )


def test_what_is_refused_is_explained(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    for words, code, message in (
        (("run", "s3://comics/a", "s3://comics/b"), 2, "name it alone"),
        (("run", "s3://comics"), 2, "whole bucket"),
        (("run", "s3://Bad_Name/x"), 2, "no address of a bucket"),
        (("run", tmp_path, "--check-storage"), 2, "needs a bucket"),
        (("run", tmp_path, "--ledger", "s3://comics/l.sqlite3"), 2, "file of this machine"),
        (("run", tmp_path, "--cluster", "nowhere"), 2, "--cluster must be"),
        (("run", tmp_path, "--cluster", "auto", "--cluster-actors", "0"), 2, "at least 1"),
        (("run", tmp_path, "--cluster", "auto", "--worker", "w"), 2, "exclude each other"),
        (("status", "--job", "s3://comics/never"), 3, "no ledger"),
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert (result.exit_code, message in result.output) == (code, True), (words, result.output)
