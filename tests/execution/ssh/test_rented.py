"""Machines rented from a provider on this machine: its "machine" is a real SSH server. None is left over, ever."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands.rent_environment import open_providers, rent_records
from comic_upscale.commands.rented import RentOptions, rent_machine
from comic_upscale.commands.ssh_options import SshOptions
from comic_upscale.errors import ProviderError
from comic_upscale.estimates.rental import RankedOffer
from comic_upscale.provisioning.lifecycle import Timing
from comic_upscale.provisioning.registry import PROVIDERS
from tests.conftest import LONG, REPOSITORY, draw
from tests.execution.ssh.conftest import Box, Invoke
from tests.execution.ssh.test_whole_way import wait_for
from tests.provisioning.clouds import KEY, Cloud
from tests.provisioning.sky_program import SkyCloud


@pytest.fixture
def cloud(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cloud]:
    """A provider whose machines are all this one, and a user with a key for it. A test may choose the provider."""
    provider = getattr(request, "param", "runpod")
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", "LAMBDA_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    cloud = Cloud(provider, boots_after=0, ssh=("127.0.0.1", box.port, getpass.getuser()))
    cloud.start()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(PROVIDERS[provider].key_variable, KEY)
    monkeypatch.setenv(PROVIDERS[provider].url_variable, cloud.url)
    _, public = rent_records().key()
    with (box.folder / "authorized_keys").open("a") as file:
        file.write(f"{public}\n")
    yield cloud
    for process in watchdogs(box):
        process.kill()
    cloud.stop()


def watchdogs(box: Box) -> list[psutil.Process]:
    """The watchdogs that run on this machine of the test, without the shells that they start for a moment."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"{box.base}/idle_watchdog.sh" in process.cmdline():
                found[process.pid] = (process, process.ppid())
    return [process for process, parent in found.values() if parent not in found]


@pytest.fixture
def asked(box: Box, tmp_path: Path, tiny_weights: Path) -> list[str]:
    """What to do on a rented machine."""
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number)
    options = [
        "--rent", "runpod:4090", "--input", tmp_path / "pages", "--output", tmp_path / "out", "--model", tiny_weights,
        "--device", "cpu", "--scale", 2, "--poll", 0.3, "--remote-dir", box.base, "--remote-python", sys.executable,
    ]  # fmt: skip
    return [str(option) for option in options]


def rent(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["rent", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_machine_is_rented_for_a_job_and_ended_after_it(
    cloud: Cloud, box: Box, remote: Invoke, asked: list[str], tmp_path: Path
) -> None:
    code, _, err = remote("upscale", *asked)
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert (cloud.launched, cloud.machines) == (1, {})
    # It had its switch: a time to live, and a command that ends it.
    (watchdog,) = watchdogs(box)
    line = watchdog.cmdline()
    assert 8 * 3600 - 600 < int(line[line.index("--ttl") + 1]) <= 8 * 3600
    assert "/pods/" in line[line.index("--then") + 1]
    assert KEY not in " ".join(line), "the user's key stays at home"
    # The cost is shown and recorded.
    assert re.search(r"comic-upscale-\w+-\d+ has ended: rented for .*, about <?\$0", err)
    (record,) = rent_records().all()
    assert (record.hour, record.ended is not None, KEY in repr(record)) == (0.34, True, False)
    ledger = sqlite3.connect(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    (settings,) = ledger.execute("select settings from jobs").fetchone()
    ledger.close()
    assert json.loads(settings)["price"] == 0.34
    assert not rent_records().ssh_config(record.name).exists()
    assert KEY not in err


class Hosting(SkyCloud):
    """SkyPilot's machine is this one: it runs SkyPilot's job, and its login takes the keys that the job writes."""

    job: subprocess.Popen[bytes] | None = None

    def create(self, name: str) -> None:
        super().create(name)
        home = self.folder / "home"
        home.mkdir()
        self.job = subprocess.Popen(
            ["sh", "-c", self.tasks[-1]["run"]], env={**os.environ, "HOME": str(home)}, start_new_session=True
        )
        wait_for((home / ".ssh" / "authorized_keys").exists)


@pytest.fixture
def sky(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosting]:
    """SkyPilot, whose machines are all this one."""
    cloud = Hosting("sky", boots_after=0, ssh=("127.0.0.1", box.port, getpass.getuser()))
    cloud.start()
    monkeypatch.setenv(PROVIDERS["sky"].url_variable, cloud.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / ".sky" / "generated").mkdir(parents=True)
    (tmp_path / ".sky" / "generated" / "ssh").symlink_to(cloud.folder / "ssh")
    config = box.folder / "sshd_config"
    keys = f"AuthorizedKeysFile {box.folder}/authorized_keys"
    config.write_text(
        config.read_text().replace(keys, f"AuthorizedKeysFile {cloud.folder}/home/.ssh/authorized_keys")
    )
    box.stop()
    box.start()
    yield cloud
    for process in watchdogs(box):
        process.kill()
    if cloud.job is not None:
        os.killpg(cloud.job.pid, signal.SIGKILL)
        cloud.job.wait()
    cloud.stop()


def test_skypilot_rents_a_machine_for_a_job_and_takes_it_down(
    sky: Hosting, box: Box, remote: Invoke, asked: list[str], tmp_path: Path
) -> None:
    asked[asked.index("runpod:4090")] = "sky:L4"
    code, _, err = remote("upscale", *asked)
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert (sky.launched, sky.machines) == (1, {})
    # Our watchdog ends SkyPilot's job, and SkyPilot the machine without a job.
    (watchdog,) = watchdogs(box)
    line = watchdog.cmdline()
    end = line[line.index("--then") + 1]
    assert sky.job is not None and sky.job.poll() is None
    subprocess.run(["sh", "-c", end], env={**os.environ, "HOME": str(sky.folder / "home")}, check=True)
    assert sky.job.wait(timeout=60) == 0
    sky.job = None
    (record,) = rent_records().all()
    assert (record.hour, record.ended is not None) == (0.805, True)


def test_nothing_is_rented_for_a_mistake_or_a_dry_run(
    cloud: Cloud, remote: Invoke, asked: list[str], tmp_path: Path
) -> None:
    assert remote("upscale", *asked, "--when-done", "true")[0] == 2
    assert remote("upscale", "--rent", "nebius", "--input", tmp_path / "pages")[0] == 2
    assert remote("upscale", *asked, "--dry-run")[0] == 0
    assert remote("upscale", "box", "--max-hours", 2, "--input", tmp_path / "pages")[0] == 2
    assert remote("upscale")[0] == 2
    # What no remote machine can do is refused before one is rented.
    for option in (("--levels", "volume"), ("--face-model", str(tmp_path))):
        code, _, err = remote("upscale", *asked, *option)
        assert (code, "remote machine" in err) == (2, True), err
    # Of a budget over all machines, nothing is left.
    code, _, err = remote("upscale", *asked, "--budget", 0.01)
    assert (code, "--budget" in err) == (2, True)
    assert (cloud.launched, cloud.count("launch")) == (0, 0)


def test_a_job_that_fails_ends_the_machine(cloud: Cloud, remote: Invoke, asked: list[str]) -> None:
    asked[asked.index("--remote-python") + 1] = "/not/there/python3"
    code, _, err = remote("upscale", *asked)
    assert (code, cloud.launched, cloud.machines) == (9, 1, {})
    assert "has ended" in err


def test_a_machine_that_cannot_be_ended_is_said_and_never_a_success(cloud: Cloud, box: Box) -> None:
    providers = open_providers("runpod")
    offers = [RankedOffer(offer, None) for offer in providers[0].offers(None, 60)]
    timing = Timing(end_seconds=0)
    cloud.fault("terminate", "ignored", times=9)
    with (
        pytest.raises(ProviderError, match=r"IS STILL BILLED\. Run `comic-upscale rent down comic-upscale-"),
        rent_machine(
            providers, offers, RentOptions(), {"remote_dir": str(box.base)}, timing=timing
        ) as rental,
    ):
        assert rental.hour == 0.34
    assert len(cloud.machines) == 1
    record = rent_records().get(rental.name)
    assert record is not None
    assert record.ended is None
    cloud.faults.clear()
    rental.timing = Timing()
    rental.end()
    assert cloud.machines == {}


def start(asked: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, to which signals are sent."""
    command = [sys.executable, "-m", "comic_upscale", "remote", "upscale", *asked]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path
    )


def test_signals_end_the_machine_at_any_time(
    cloud: Cloud, box: Box, asked: list[str], tmp_path: Path
) -> None:
    # While the machine starts, which this one never does.
    cloud.boots_after = None
    with start(asked, tmp_path) as process:
        wait_for(lambda: cloud.machines)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[0]
    assert (process.returncode, cloud.machines) == (128 + signal.SIGTERM, {}), said
    # While it works, and again with an impatient user, for whom the process ends at once.
    cloud.boots_after = 0
    for number in range(3, 24):
        draw(tmp_path / "pages" / f"{number}.png", number, size=(400, 500))
    for signals in (1, 2) if LONG else (1,):
        send_while_it_works(cloud, box, asked, tmp_path, signals)


def send_while_it_works(cloud: Cloud, box: Box, asked: list[str], tmp_path: Path, signals: int) -> None:
    before = outputs(box)
    with start(asked, tmp_path) as process:
        wait_for(lambda: cloud.launched > signals or process.poll() is not None)
        wait_for(lambda: outputs(box) - before or process.poll() is not None)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        said = process.communicate(timeout=120)[0]
    # The machine is gone, and its processes with it.
    for run in box.runs():
        run.kill()
    ended = (process.returncode, cloud.launched, cloud.machines)
    assert ended == (128 + signal.SIGINT, 1 + signals, {}), said


def outputs(box: Box) -> set[Path]:
    """The pages that are done on the machine."""
    return set(box.base.glob("jobs/*/output/*.png"))


def test_a_killed_client_leaves_the_switch_and_a_machine_that_can_be_used_and_ended(
    cloud: Cloud, box: Box, asked: list[str], tmp_path: Path
) -> None:
    with start(asked, tmp_path) as process:
        wait_for(lambda: watchdogs(box) or process.poll() is not None)
        process.kill()
    assert len(watchdogs(box)) == 1
    ((_, machine),) = cloud.machines.items()
    code, out, _ = rent("list")
    assert (code, machine.name in out, "$" in out) == (0, True, True)
    # Its name is enough to reach it.
    connection = SshOptions(host=machine.name).connection().open()
    assert connection.check("echo here") == b"here\n"
    connection.close()
    code, _, err = rent("down", machine.name)
    assert (code, cloud.machines) == (0, {})
    assert "rented for" in err
    assert "no machine is rented" in rent("list")[1]
    # Once more is no error: it is gone.
    assert rent("down", machine.name)[0] == 0


def test_machines_are_kept_listed_and_ended_by_name(cloud: Cloud, box: Box) -> None:
    code, out, err = rent("up", "any:3090", "--remote-dir", box.base, "--max-hours", 2, "--budget", 5)
    assert code == 0, err
    name = out.strip()
    assert [machine.name for machine in cloud.machines.values()] == [name]
    # A budget counts what exists: two hours at $0.34 are taken.
    code, _, err = rent("up", "runpod", "--remote-dir", box.base, "--budget", 0.7)
    assert (code, cloud.launched) == (2, 1)
    assert "those that exist cost up to" in err
    (entry,) = json.loads(rent("list", "--json")[1])["machines"]
    assert (entry["name"], entry["provider"], entry["overdue"]) == (name, "runpod", False)
    assert rent("down", "my-own-server")[0] == 2
    assert rent("down")[0] == 2
    cloud.fault("terminate", "503", times=2)
    assert rent("down", "--all")[0] == 0
    assert cloud.machines == {}
    assert rent("down", "--all")[1] == "no machine is rented\n"


def test_without_its_key_a_machine_is_not_taken_for_ended(
    cloud: Cloud, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rent("up", "runpod:4090", "--remote-dir", box.base)[1].strip()
    monkeypatch.delenv("RUNPOD_API_KEY")
    code, _, err = rent("list")
    assert (code, f"{name} may still be rented" in err) == (0, True)
    for arguments in ((name,), ("--all",)):
        code, _, err = rent("down", *arguments)
        assert (code, "cannot be asked" in err) == (9, True)
    record = rent_records().get(name)
    assert record is not None
    assert record.ended is None
    # The key may come from a file.
    (box.folder / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("RUNPOD_API_KEY_FILE", str(box.folder / "key"))
    assert rent("down", name)[0] == 0
    assert cloud.machines == {}
