"""What is written down about a rented machine, the budget over all of them, and the switch on the machine."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from comic_upscale.commands import watchdog
from comic_upscale.errors import SettingsError
from comic_upscale.execution.ssh.address import SshFiles, find_address
from comic_upscale.provisioning.base import RentedMachine, SshAddress
from comic_upscale.provisioning.budget import committed, hours_within
from comic_upscale.provisioning.records import Records
from comic_upscale.provisioning.switch import start_watchdog, watchdog_options

NOW = dt.datetime(2026, 11, 27, 16, 0, tzinfo=dt.UTC)
MACHINE = RentedMachine(
    provider="vast", id="7", name="comic-upscale-0a1b2c-2611271830", state="running", gpu="RTX 4090", hour=0.4,
    ssh=SshAddress(host="203.0.113.7", port=40022, user="root"), started=NOW - dt.timedelta(hours=1),
)  # fmt: skip


@pytest.mark.parametrize("folder", ["rented", "Application Support", "Zoë Müller"])
def test_a_machine_is_reached_by_its_name_and_its_own_files(folder: str, tmp_path: Path) -> None:
    records = Records(tmp_path / folder)
    key, public = records.key()
    assert records.key() == (key, public), "it is made once"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    records.note_machine(MACHINE)
    files = SshFiles(user="me", config=records.ssh_config(MACHINE.name), known_hosts=tmp_path / "known_hosts")
    address = find_address(MACHINE.name, files)
    assert (address.host, address.port, address.user) == ("203.0.113.7", 40022, "root")
    assert address.keys == (key,)
    assert address.only_these_keys
    # Providers give the same address to others later.
    assert address.known_hosts == (tmp_path / folder / f"{MACHINE.name}.known_hosts",)
    records.note_end(MACHINE.name)
    assert not records.ssh_config(MACHINE.name).exists()


def test_an_address_that_is_none_writes_nothing_into_a_configuration(tmp_path: Path) -> None:
    bad = replace(MACHINE, ssh=SshAddress(host="x\n  ProxyCommand evil", port=22, user="root"))
    with pytest.raises(SettingsError, match="address"):
        Records(tmp_path / "rented").note_machine(bad)


def test_costs_are_counted_from_the_launch_until_the_end(tmp_path: Path) -> None:
    records = Records(tmp_path / "rented")
    records.note_machine(replace(MACHINE, id="", ssh=None))
    records.note_machine(replace(MACHINE, hour=None))
    record = records.get(MACHINE.name)
    assert record is not None
    assert (record.id, record.hour, record.ended) == ("7", 0.4, None)
    launched = dt.datetime.fromisoformat(record.launched)
    assert record.cost(launched + dt.timedelta(minutes=30)) == pytest.approx(0.2)
    ended = replace(record, ended=(launched + dt.timedelta(hours=2)).isoformat())
    assert ended.cost(launched + dt.timedelta(hours=9)) == pytest.approx(0.8)
    assert replace(record, hour=None).cost(NOW) is None
    assert replace(record, launched="never").cost(NOW) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"hour": "much", "ended": 7}', '{"hour": true}'])
def test_a_damaged_record_is_no_reason_to_fail(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{MACHINE.name}.json").write_text(text)
    records = Records(tmp_path)
    for record in records.all():
        assert (record.hour, record.ended) == (None, None)
    records.note_machine(MACHINE)
    assert json.loads((tmp_path / f"{MACHINE.name}.json").read_text())["hour"] == 0.4
    assert records.get("comic-upscale-../../secret") is None


def test_a_budget_counts_what_all_machines_can_still_cost() -> None:
    later = replace(MACHINE, name="comic-upscale-0a1b2d-2611271700", hour=1.0)
    overdue = replace(MACHINE, name="comic-upscale-0a1b2e-2611271530", hour=1.0)
    hours = {each.name: each.hour for each in (MACHINE, later, overdue)}
    total = committed([MACHINE, later, overdue], lambda machine: hours[machine.name], NOW)
    # From their start, an hour ago: 3.5 h at $0.40, 2 h at $1, and one that should have ended but goes on.
    assert total == pytest.approx(3.5 * 0.4 + 2 + 1)
    assert hours_within(None, total, 0.5, 8) == 8
    assert hours_within(10, total, 0.5, 8) == 8
    assert hours_within(5.4, total, 0.5, 8) == pytest.approx(2)
    with pytest.raises(SettingsError, match="rent list"):
        hours_within(4.4, total, 0.5, 8)
    for unknown in (replace(MACHINE, hour=None), replace(MACHINE, name="comic-upscale-old")):
        with pytest.raises(SettingsError, match="rent down"):
            committed([unknown], lambda machine: machine.hour, NOW)


@pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid")
def test_the_switch_acts_when_its_time_is_up_though_nobody_is_connected(tmp_path: Path) -> None:
    folder, gone = tmp_path / "on it's own", tmp_path / "gone"
    options = watchdog_options(
        hours_left=1 / 3600, idle_minutes=30, folder=str(folder), end_command=f"touch '{gone}'"
    )
    options = [*options, "--every", "1"]
    script = start_watchdog(str(folder), options)
    started = subprocess.run(["sh", "-c", script], input=watchdog.read_watchdog(), capture_output=True)
    assert started.returncode == 0, started.stderr
    until = time.monotonic() + 60
    while not gone.exists():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_machine_without_bash_gets_no_switch_and_says_so(tmp_path: Path) -> None:
    script = start_watchdog(str(tmp_path / "there"), watchdog_options(
        hours_left=1, idle_minutes=0, folder=str(tmp_path), end_command="true"
    ))  # fmt: skip
    for program in ("mkdir", "cat", "sh"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    ended = subprocess.run(
        [str(shutil.which("sh")), "-c", script], input=b"", capture_output=True, env={"PATH": str(tmp_path)}
    )
    assert ended.returncode != 0


def test_a_script_that_git_wrote_for_windows_is_sent_with_the_line_ends_of_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "idle_watchdog.sh"
    script.write_bytes(b"#!/usr/bin/env bash\r\nset -eu\r\n")
    monkeypatch.setattr(watchdog, "CANDIDATES", (script,))
    assert watchdog.read_watchdog() == b"#!/usr/bin/env bash\nset -eu\n"
