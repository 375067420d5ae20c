"""`rent list`, `rent down` and budgets: what is said about machines if not all providers can be asked."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands import rented
from comic_upscale.commands.rent_environment import open_providers, rent_records
from comic_upscale.commands.ssh_options import SshOptions
from comic_upscale.errors import ProviderError
from comic_upscale.provisioning.base import RentedMachine, new_name
from comic_upscale.provisioning.ending import ending
from comic_upscale.provisioning.lifecycle import RentPlan
from tests.provisioning.clouds import KEY, Cloud


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """The only provider of a user without any other key."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    cloud = Cloud("runpod")
    cloud.start()
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_API_URL", cloud.url)
    yield cloud
    cloud.stop()


def rent(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["rent", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def machine(cloud: Cloud | None, provider: str = "runpod") -> RentedMachine:
    """A machine that a provider bills, or that only a record names, launched an hour ago."""
    now = dt.datetime.now(dt.UTC)
    made = RentedMachine(
        provider=provider, id="7", name=new_name(now + dt.timedelta(hours=2)), state="starting", gpu="RTX 4090",
        hour=0.5,
    )  # fmt: skip
    if cloud is not None:
        made = replace(made, id=cloud.launch(made.name, "NVIDIA GeForce RTX 4090", {"cloud": "SECURE"}))
    rent_records().note_machine(made)
    return made


def make_old(name: str) -> None:
    path = rent_records().folder / f"{name}.json"
    launched = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "launched": launched.isoformat()}))


@pytest.mark.parametrize("wrong", ["aws", "key-file"])
def test_a_provider_that_is_badly_configured_does_not_hide_the_others(
    runpod: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str
) -> None:
    if wrong == "aws":  # without a region, or without boto3
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    else:
        monkeypatch.setenv("VAST_API_KEY_FILE", str(tmp_path / "missing"))
    name = machine(runpod).name
    code, out, err = rent("list")
    assert (code, name in out, "error:" in err) == (0, True, True)
    # Of a machine at the other provider, nothing is forgotten.
    other = machine(None, "aws" if wrong == "aws" else "vast").name
    make_old(other)
    assert f"{other} may still be rented" in rent("list")[2]
    assert rent("down", name)[0] == 0
    assert runpod.machines == {}
    # Alone, it is an error: an empty list would be no news.
    monkeypatch.delenv("RUNPOD_API_KEY")
    (rent_records().folder / f"{other}.json").unlink()
    assert rent("list")[0] == 2


def test_a_list_during_a_launch_does_not_end_the_record_of_the_machine(runpod: Cloud) -> None:
    starting = machine(None)
    rent("list")
    record = rent_records().get(starting.name)
    assert record is not None and record.ended is None
    make_old(starting.name)
    rent("list")
    record = rent_records().get(starting.name)
    assert record is not None and record.ended is not None
    # It was wrong, and more becomes known: the machine exists.
    rent_records().note_machine(starting)
    record = rent_records().get(starting.name)
    assert record is not None and record.ended is None


def test_a_machine_that_is_not_listed_yet_is_ended_by_its_id(runpod: Cloud) -> None:
    runpod.hidden_looks = 99
    name = machine(runpod).name
    assert rent("down", name)[0] == 0
    assert runpod.machines == {}


def test_a_budget_counts_the_machines_of_all_providers(
    runpod: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(runpod)
    vast = Cloud("vast")
    vast.start()
    try:
        monkeypatch.setenv("VAST_API_KEY", KEY)
        monkeypatch.setenv("VAST_URL", vast.url)
        code, _, err = rent("up", "vast", "--pages", 100, "--budget", 0.7)
        assert (code, "those that exist cost up to" in err) == (2, True), err
        # Without its key, what it costs is unknown.
        monkeypatch.delenv("RUNPOD_API_KEY")
        code, _, err = rent("up", "vast", "--pages", 100, "--budget", 50)
        assert (code, "may still be rented, but runpod cannot be asked" in err) == (2, True), err
        assert vast.launched == 0
    finally:
        vast.stop()


def test_the_first_signal_waits_while_a_machine_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def fail(line: str) -> None:
        notes.append(line)
        raise RuntimeError("reentrant call")

    monkeypatch.setattr(rented, "note", fail)
    done: list[str] = []
    with pytest.raises(typer.Exit) as exit, rented.end_before_a_signal_does():
        with ending():
            signal.raise_signal(signal.SIGTERM)
            done.append("ended")
        done.append("never")
    assert (done, exit.value.exit_code, len(notes)) == (["ended"], 128 + signal.SIGTERM, 1)
    # At any other time it interrupts at once.
    with pytest.raises(typer.Exit), rented.end_before_a_signal_does():
        signal.raise_signal(signal.SIGINT)
        done.append("never")
    assert done == ["ended"]


def test_the_third_signal_counts_over_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with pytest.raises(typer.Exit), rented.end_before_a_signal_does():
        try:
            with rented.end_before_a_signal_does():
                signal.raise_signal(signal.SIGINT)
        finally:
            with ending():
                signal.raise_signal(signal.SIGINT)
                assert left == []
                signal.raise_signal(signal.SIGINT)
    assert left == [128 + signal.SIGINT]


def test_each_machine_that_cannot_be_ended_is_told(
    runpod: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = iter(("one", "two"))

    def rent(plan: RentPlan, *_: object) -> rented.Rental:
        ssh = SshOptions(host="nobody.example")
        return rented.Rental(providers[0], next(names), 1.0, ssh, rent_records())

    def fail(provider: object, name: str, *_: object, **__: object) -> None:
        raise ProviderError(f"{name} could NOT be ended")

    monkeypatch.setattr(rented, "rent", rent)
    monkeypatch.setattr(rented, "end_machine", fail)
    providers = open_providers("runpod")
    with (
        pytest.raises(ProviderError, match="one could NOT be ended"),
        rented.rent_machine(providers, [], rented.RentOptions(), {}),
        rented.rent_machine(providers, [], rented.RentOptions(), {}),
    ):
        pass
    assert "two could NOT be ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(5, "the terminal is gone"), ValueError("closed file"), BrokenPipeError()]
)
def test_a_note_is_no_error_without_a_terminal(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(typer, "echo", fail)
    rented.note("ending it")
