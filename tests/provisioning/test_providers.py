"""One suite over the clients of all providers, against servers that speak their interfaces."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands.rent_environment import open_known, provider_key
from comic_upscale.errors import CapacityError, ProviderError, SettingsError, UncertainError
from comic_upscale.provisioning.base import LaunchRequest, Provider, end_of, new_name
from comic_upscale.provisioning.http import count_of, number_of
from comic_upscale.provisioning.registry import PROVIDERS, open_provider, parse_target
from comic_upscale.retries import RetryPolicy
from tests.provisioning.clouds import KEY, Cloud
from tests.provisioning.conftest import CLIENTS, Clock

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAITestTestTest comic-upscale"


def request(name: str = "comic-upscale-0a1b2c-2611271830") -> LaunchRequest:
    return LaunchRequest(name=name, public_key=PUBLIC, disk_gb=40, max_hours=1.5)


def test_offers_have_one_gpu_a_price_and_capacity(provider: Provider) -> None:
    offers = provider.offers(None, 40)
    assert {offer.provider for offer in offers} == {provider.name}
    assert len({offer.label for offer in offers}) == len(offers), "each can be told from the others"
    assert all(offer.hour > 0 for offer in offers)
    found = {(offer.gpu, offer.kind or offer.region): round(offer.hour, 2) for offer in offers}
    disk = round(40 * 0.10 / 730, 4)
    assert (
        found
        == {
            "runpod": {
                ("RTX 4090", "community"): round(0.34 + disk, 2),
                ("RTX 4090", "secure"): round(0.69 + disk, 2),
                ("RTX 3090", "community"): round(0.22 + disk, 2),
            },
            "vast": {("RTX 4090", "SE"): 0.36, ("RTX 3090", "US"): 0.18, ("CMP 50HX", ""): 0.05},
            "lambda": {("A10", "us-east-1"): 1.29, ("A10", "us-west-1"): 1.29, ("H100", "us-east-1"): 3.29},
        }[provider.name]
    )


def test_a_machine_is_launched_found_listed_and_terminated(provider: Provider, cloud: Cloud) -> None:
    assert provider.list() == (), "machines of other names are not ours"
    id = provider.launch(provider.offers(None, 40)[0], request())
    (billed,) = cloud.machines.values()
    assert (billed.id, billed.name) == (id, request().name)
    machine = provider.find(id)
    while machine is None or machine.state != "running":
        machine = provider.find(id)
    assert machine.ssh is not None
    port = 22 if provider.name == "lambda" else cloud.ssh[1]
    assert (machine.ssh.host, machine.ssh.port) == (cloud.ssh[0], port)
    assert machine.ends == dt.datetime(2026, 11, 27, 18, 30, tzinfo=dt.UTC)
    assert machine.hour
    assert [each.id for each in provider.list()] == [id]
    provider.terminate(id)
    assert (cloud.machines, provider.list(), provider.find(id)) == ({}, (), None)
    provider.terminate(id)  # of a machine that is gone: no error


def test_all_pages_of_a_list_are_read(provider: Provider, cloud: Cloud) -> None:
    for number in range(3):
        provider.launch(provider.offers(None, 40)[0], request(f"comic-upscale-{number:06x}-2611271830"))
    assert {machine.id for machine in provider.list()} == set(cloud.machines)


@pytest.mark.parametrize("fault", ["429", "503", "half", "not-json"])
def test_requests_that_may_be_repeated_are(
    provider: Provider, cloud: Cloud, clock: Clock, fault: str
) -> None:
    id = provider.launch(provider.offers(None, 40)[0], request())
    for operation in ("offers", "find", "list", "terminate"):
        cloud.fault(operation, fault, times=2)
    assert provider.offers(None, 40)
    assert provider.find(id)
    assert provider.list()
    provider.terminate(id)
    # Of a deletion without an answer, nothing can be missing.
    assert cloud.faults in ([], [("terminate", "half")])
    assert cloud.machines == {}
    if fault == "429":
        assert all(pause >= 1 for pause in clock.pauses), "it waits as long as it was asked to"


def test_a_launch_is_repeated_after_a_rate_limit_alone(provider: Provider, cloud: Cloud) -> None:
    offer = provider.offers(None, 40)[0]
    cloud.fault("launch", "429", times=2)
    provider.launch(offer, request())
    assert (cloud.launched, cloud.count("launch")) == (1, 3)


@pytest.mark.parametrize("fault", ["503", "half", "not-json", "created-503", "created-half", "created-cut"])
def test_a_launch_whose_answer_is_lost_is_not_repeated(provider: Provider, cloud: Cloud, fault: str) -> None:
    offer = provider.offers(None, 40)[0]
    cloud.fault("launch", fault)
    with pytest.raises(UncertainError):
        provider.launch(offer, request())
    assert cloud.count("launch") == 1


def test_a_machine_at_vast_whose_key_cannot_be_attached_is_not_lost(clock: Clock) -> None:
    """Its start script lets the key in as well."""
    cloud = Cloud("vast")
    cloud.start()
    try:
        client = CLIENTS["vast"](KEY, cloud.url, RetryPolicy(attempts=2, wait=clock.wait))
        cloud.fault("key", "503", times=9)
        id = client.launch(client.offers(None, 40)[0], request())
        assert list(cloud.machines) == [id]
        client.close()
    finally:
        cloud.stop()


def test_numbers_of_an_answer_may_have_any_size() -> None:
    assert (number_of(10**400), count_of(10**400), number_of("1e999"), number_of(-1)) == (None,) * 4
    assert (number_of("0.5"), count_of(3)) == (0.5, 3)


def test_an_offer_that_is_gone_is_told_from_other_errors(provider: Provider, cloud: Cloud) -> None:
    offer = provider.offers(None, 40)[0]
    cloud.fault("launch", "capacity")
    with pytest.raises(CapacityError):
        provider.launch(offer, request())
    cloud.fault("launch", "403")
    with pytest.raises(ProviderError) as refused:
        provider.launch(offer, request())
    assert not isinstance(refused.value, (CapacityError, UncertainError))
    assert "API_KEY" in str(refused.value)


def test_no_error_shows_the_key(provider: Provider, cloud: Cloud) -> None:
    cloud.fault("list", "403")
    with pytest.raises(ProviderError) as error:
        provider.list()
    chain = [error.value, error.value.__cause__, error.value.__context__]
    assert all(KEY not in f"{each} {each!r}" for each in chain)
    wrong = CLIENTS[cloud.provider]("wrong-key", cloud.url)
    with pytest.raises(ProviderError, match="refuses the key") as refused:
        wrong.list()
    assert "wrong-key" not in str(refused.value)


def test_an_answer_without_its_list_is_no_empty_list(provider: Provider, cloud: Cloud) -> None:
    """Else machines would be forgotten that are billed."""
    nowhere = CLIENTS[cloud.provider](KEY, cloud.url.replace("/api", "/nothing"))
    with pytest.raises(ProviderError):
        nowhere.list()


def test_a_login_in_netrc_does_not_replace_the_key(
    provider: Provider, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin somebody\npassword else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    provider.list()
    assert cloud.refused_keys == 0


@pytest.mark.parametrize("name", list(CLIENTS))
def test_keys_go_through_encrypted_connections_alone(name: str) -> None:
    with pytest.raises(SettingsError, match="https"):
        open_provider(name, KEY, "http://192.0.2.1/api")


@pytest.mark.parametrize(
    ("provider_name", "names"),
    [("runpod", ("RUNPOD_POD_ID", "RUNPOD_API_KEY")), ("vast", ("CONTAINER_ID", "CONTAINER_API_KEY"))],
)
def test_a_container_ends_itself_with_its_own_key(provider_name: str, names: tuple[str, str]) -> None:
    cloud = Cloud(provider_name)
    cloud.start()
    try:
        client = CLIENTS[provider_name](KEY, cloud.url)
        id = client.launch(client.offers(None, 40)[0], request())
        environment = {**os.environ, names[0]: id, names[1]: "key-of-this-machine"}
        ended = subprocess.run(
            ["sh", "-c", client.end_command], env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        assert cloud.machines == {}
        # One that is gone cannot end itself: the watchdog would try again.
        assert subprocess.run(
            ["sh", "-c", client.end_command], env=environment, capture_output=True
        ).returncode
        client.close()
    finally:
        cloud.stop()


@pytest.mark.parametrize(
    ("provider_name", "names"),
    [("runpod", ("RUNPOD_POD_ID", "RUNPOD_API_KEY")), ("vast", ("CONTAINER_ID", "CONTAINER_API_KEY"))],
)
def test_the_switch_of_a_container_begins_with_it(
    provider_name: str, names: tuple[str, str], tmp_path: Path
) -> None:
    cloud = Cloud(provider_name)
    cloud.start()
    # Hours pass at once, until the test ends.
    sleep = tmp_path / "bin" / "sleep"
    sleep.parent.mkdir()
    sleep.write_text(f"#!/bin/sh\n[ -e {tmp_path}/over ] && kill $PPID\nexec /bin/sleep 0.01\n")
    sleep.chmod(0o755)
    try:
        client = CLIENTS[provider_name](KEY, cloud.url)
        id = client.launch(client.offers(None, 40)[0], request())
        body = cloud.machines[id].request
        command = shlex.split(body["args"]) if provider_name == "runpod" else ["bash", "-c", body["onstart"]]
        environment = {
            **os.environ, **body["env"], names[0]: id, names[1]: "key-of-this-machine", "HOME": str(tmp_path),
            "PATH": f"{sleep.parent}:{os.environ['PATH']}",
        }  # fmt: skip
        # What the image itself would start is not here.
        subprocess.run(command, env=environment, capture_output=True, timeout=60)
        deadline = time.monotonic() + 60
        while cloud.machines and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cloud.machines == {}
        client.close()
    finally:
        (tmp_path / "over").touch()
        cloud.stop()


def test_an_image_that_is_not_of_runpod_starts_as_it_does() -> None:
    cloud = Cloud("runpod")
    cloud.start()
    try:
        client = CLIENTS["runpod"](KEY, cloud.url)
        id = client.launch(client.offers(None, 40)[0], replace(request(), image="me/mine:1"))
        assert "args" not in cloud.machines[id].request
        client.close()
    finally:
        cloud.stop()


def test_names_are_unique_and_say_when_the_machine_ends() -> None:
    ends = dt.datetime(2026, 12, 31, 23, 59, tzinfo=dt.UTC)
    names = {new_name(ends) for _ in range(50)}
    assert len(names) == 50
    assert {end_of(name) for name in names} == {ends}
    assert end_of("comic-upscale-desktop") is None
    assert end_of("comic-upscale-000000-9999999999") is None


def test_targets_name_a_provider_and_perhaps_a_gpu() -> None:
    assert parse_target("vast:RTX 4090") == ("vast", "RTX 4090")
    assert parse_target("Lambda") == ("lambda", None)
    assert parse_target("any:4090") == ("any", "4090")
    with pytest.raises(SettingsError, match="vast, runpod, lambda, aws, sky or any"):
        parse_target("nebius")
    assert set(CLIENTS) < set(PROVIDERS)


def test_without_any_key_nothing_is_said_about_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for command in (["list"], ["down", "--all"], ["offers"], ["up", "vast"]):
        result = CliRunner().invoke(app, ["rent", *command])
        assert (result.exit_code, "VAST_API_KEY" in result.stderr) == (2, True), command
    # The files of the providers' own programs.
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "own-key"\n')
    (tmp_path / ".config" / "vastai").mkdir(parents=True)
    (tmp_path / ".config" / "vastai" / "vast_api_key").write_text("other-key\n")
    (tmp_path / ".lambda_cloud").mkdir()
    (tmp_path / ".lambda_cloud" / "lambda_keys").write_text("api_key = third-key\n")
    opened, unasked = open_known()
    assert [provider.name for provider in opened] == ["vast", "runpod", "lambda"]
    assert list(unasked) == ["aws", "sky"]
    assert [provider_key(provider.name) for provider in opened] == ["other-key", "own-key", "third-key"]
