"""SkyPilot by a program on the path, and the commands that rent with it. Its own list says what is left over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from comic_upscale.commands import rented
from comic_upscale.errors import ProviderError, SettingsError
from comic_upscale.provisioning.base import LaunchRequest, RentalOffer
from comic_upscale.provisioning.lifecycle import end_machine
from comic_upscale.provisioning.program import call_program, json_in
from comic_upscale.provisioning.registry import PROVIDERS
from comic_upscale.provisioning.sky import Sky
from comic_upscale.retries import RetryPolicy
from tests.provisioning.conftest import Clock
from tests.provisioning.sky_program import SkyCloud
from tests.provisioning.test_providers import PUBLIC
from tests.provisioning.test_rent_commands import rent
from tests.server.running import wait_for

NAME = "comic-upscale-0a1b2c-2611271830"


def request(image: str | None = None) -> LaunchRequest:
    return LaunchRequest(name=NAME, public_key=PUBLIC, disk_gb=40, max_hours=2, image=image)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SkyCloud]:
    """SkyPilot's program on the path of a user without any key."""
    for entry in PROVIDERS.values():
        for name in filter(None, (entry.key_variable, entry.url_variable)):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    cloud = SkyCloud("sky")
    cloud.start()
    monkeypatch.setenv("PATH", str(cloud.folder), prepend=os.pathsep)
    (tmp_path / ".sky" / "generated").mkdir(parents=True)
    (tmp_path / ".sky" / "generated" / "ssh").symlink_to(cloud.folder / "ssh")
    yield cloud
    cloud.stop()


@pytest.fixture
def client(cloud: SkyCloud, clock: Clock) -> Sky:
    return Sky(ssh_folder=str(cloud.folder / "ssh"), retry=RetryPolicy(attempts=3, wait=clock.wait))


def offer_of(client: Sky, kind: str) -> RentalOffer:
    return next(each for each in client.offers("L4", 40) if (each.gpu, each.kind) == ("L4", kind))


def test_the_program_launches_lists_and_ends_a_machine(client: Sky, cloud: SkyCloud) -> None:
    assert client.list() == (), "machines of other names are not ours"
    assert client.launch(offer_of(client, "on-demand"), request()) == NAME
    (resources,) = (task["resources"] for task in cloud.tasks)
    assert (resources["infra"], resources["instance_type"], resources["accelerators"]) == (
        "aws/us-east-1", "g6.xlarge", "L4:1",
    )  # fmt: skip
    assert (resources["disk_size"], resources["use_spot"]) == (40, False)
    machine = client.find(NAME)
    while machine is None or machine.state != "running":
        machine = client.find(NAME)
    assert machine.ssh is not None
    assert (machine.ssh.host, machine.ssh.port, machine.ssh.user) == cloud.ssh
    assert [each.name for each in client.list()] == [NAME]
    client.terminate(NAME)
    assert (cloud.machines, client.list(), client.find(NAME)) == ({}, (), None)
    client.terminate(NAME)  # of a machine that is gone: no error


def test_spot_instances_are_launched_as_such(client: Sky, cloud: SkyCloud) -> None:
    client.launch(offer_of(client, "spot"), request())
    assert cloud.tasks[0]["resources"]["use_spot"] is True


def test_offers_are_of_enabled_clouds_and_one_gpu(client: Sky) -> None:
    offers = {
        (each.id, each.kind): (each.gpu, each.hour, each.is_on_request) for each in client.offers(None, 40)
    }
    assert offers == {
        ("aws/g6.xlarge/L4", "on-demand"): ("L4", 0.805, False),
        ("aws/g6.xlarge/L4", "spot"): ("L4", 0.35, True),
        ("lambda/gpu_1x_a10/A10", "on-demand"): ("A10", 0.75, False),
        ("runpod/1x_RTX4090_SECURE/RTX4090", "on-demand"): ("RTX 4090", 0.69, False),
    }


def test_a_launch_that_waits_in_the_server_is_listed_and_cancelled(
    client: Sky, cloud: SkyCloud, clock: Clock
) -> None:
    cloud.is_queued = True
    client.launch(offer_of(client, "on-demand"), request())
    assert [each.state for each in client.list()] == ["starting"]
    end_machine(client, NAME, note=lambda line: None, timing=clock.timing())
    cloud.boot_queued()
    assert (cloud.launched, cloud.machines) == (0, {})


def test_a_launch_that_failed_says_where_to_look(client: Sky, cloud: SkyCloud) -> None:
    cloud.fault("launch", "capacity")
    client.launch(offer_of(client, "on-demand"), request())
    machine = client.find(NAME)
    assert machine is not None
    assert (machine.state, "sky api logs" in machine.problem) == ("failed", True)


def test_names_that_are_patterns_or_not_ours_are_never_ended(client: Sky, cloud: SkyCloud) -> None:
    client.launch(offer_of(client, "on-demand"), request())
    cloud.calls.clear()
    for name in ("comic-upscale-*", "--all", "somebody-elses", ""):
        with pytest.raises(ProviderError, match="not the name of a machine of ours"):
            client.terminate(name)
    assert (cloud.calls, list(cloud.machines)) == ([], [NAME])


def test_a_machine_behind_a_proxy_is_refused(client: Sky, cloud: SkyCloud) -> None:
    cloud.proxy, cloud.boots_after = "  ProxyCommand ssh -W %h:%p sky@host\n", 0
    client.launch(offer_of(client, "on-demand"), request())
    machine = client.find(NAME)
    assert machine is not None
    assert (machine.state, machine.ssh, "proxy" in machine.problem) == ("failed", None, True)
    with pytest.raises(ProviderError, match="machine image"):
        client.launch(offer_of(client, "on-demand"), request("docker:pytorch/pytorch"))


def test_the_job_on_the_machine_is_its_switch(client: Sky, cloud: SkyCloud, tmp_path: Path) -> None:
    """SkyPilot ends a machine whose job is over. Here the script of the job runs, with its end requested."""
    client.launch(offer_of(client, "on-demand"), request())
    home = {**os.environ, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    subprocess.run(["sh", "-c", client.end_command], env=home, check=True)
    subprocess.run(["sh", "-c", cloud.tasks[0]["run"]], env=home, check=True, timeout=60)
    assert PUBLIC in (tmp_path / "home" / ".ssh" / "authorized_keys").read_text()
    assert f"+ {2 * 3600 - 300})" in cloud.tasks[0]["run"], "it ends in time for --max-hours"


def test_the_time_that_a_machine_takes_to_start_counts(client: Sky, cloud: SkyCloud, tmp_path: Path) -> None:
    # The end in this name has passed.
    client.launch(offer_of(client, "on-demand"), replace(request(), name="comic-upscale-4f7a2c-2001010000"))
    home = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["sh", "-c", cloud.tasks[0]["run"]], env=home, check=True, timeout=60)


def test_an_end_that_skypilot_switched_off_is_switched_on_again(client: Sky, cloud: SkyCloud) -> None:
    cloud.boots_after = 0
    cloud.create(NAME)
    cloud.without_end.add(NAME)
    (machine,) = client.list()
    assert (machine.state, cloud.without_end) == ("running", set())
    cloud.without_end.add(NAME)
    cloud.faults += [("autostop", "503")] * 9
    (machine,) = client.list()
    assert machine.state == "failed" and "does not end itself" in machine.problem


def test_rent_commands_take_sky(cloud: SkyCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = rent("offers", "--provider", "sky", "--pages", 100)
    assert (code, "sky on-demand" in out, "sky spot" in out) == (0, True, False), err
    assert out.endswith(" --input ...\n") and "--spot" not in out.splitlines()[-1]
    with_spot = rent("offers", "--provider", "sky", "--pages", 100, "--spot")[1]
    assert "sky spot" in with_spot
    # The command rents what the line above it costs.
    assert " --spot --input" in with_spot.splitlines()[-1]
    # No machine is left of one that cannot be reached.
    monkeypatch.setattr(rented, "SSH_SECONDS", 0.0)
    cloud.boots_after, cloud.ssh = 0, ("127.0.0.1", 1, "root")
    code, _, err = rent("up", "sky:A10", "--pages", 100)
    assert (code, cloud.launched, cloud.machines) == (9, 1, {}), err
    # One that another computer rented is listed and ended.
    cloud.create(NAME)
    assert NAME in rent("list")[1]
    assert rent("down", "--all", "--yes")[0] == 0
    assert cloud.machines == {}


def test_without_the_program_the_error_says_how_to_install_it(
    cloud: SkyCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SKY_PROGRAM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = rent("up", "sky", "--pages", 100)
    assert (code, "pip install 'skypilot[aws]'" in " ".join(err.split())) == (2, True), err
    with pytest.raises(SettingsError, match="is not found"):
        Sky()


def test_an_answer_is_the_json_at_its_end_and_complete() -> None:
    assert json_in('a warning [1]\n[\n  {"a": 1}\n]\n') == [{"a": 1}]
    for text in ("", "[" * 100_000, '[{"a": 1}', "[]\nTraceback"):
        with pytest.raises(ValueError, match=r"JSON|deeply"):
            json_in(text)


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    command = f"sleep 600 & echo $! > {started}.new; mv {started}.new {started}; wait"

    # On a busy machine it may be killed before it starts anything.
    while not started.exists():
        with pytest.raises(ProviderError, match="did not answer"):
            call_program("/bin/sh", ["-c", command], 1.0)
    pid = int(started.read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    # A server that a program leaves behind keeps its output open, and does not hold up the answer.
    answer = call_program("/bin/sh", ["-c", f"sleep 600 & echo $! > {started}; echo done"], 60)
    os.kill(int(started.read_text()), signal.SIGKILL)
    assert (answer.code, answer.out) == (0, "done\n")
