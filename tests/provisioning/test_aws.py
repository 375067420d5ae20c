"""AWS through boto3, against moto, which keeps instances as Amazon does; faults come in at the HTTP boundary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comic_upscale.errors import CapacityError, ProviderError, SettingsError, UncertainError
from comic_upscale.provisioning.aws import GROUP, Aws
from comic_upscale.provisioning.base import RentalOffer
from tests.provisioning.test_providers import PUBLIC, request

pytest.importorskip("boto3", reason="boto3 is not installed: pip install '.[aws]'")
moto = pytest.importorskip("moto", reason="moto is not installed")

IMAGE = "Deep Learning OSS Nvidia Driver AMI GPU PyTorch 2.9 (Ubuntu 24.04) 20261101"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    # Without Amazon's thousand images, which take a second to load.
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with moto.mock_aws():
        client = Aws("us-east-1")
        source = client._ec2.register_image(Name="base", RootDeviceName="/dev/sda1", Architecture="x86_64")
        base = client._ec2.run_instances(ImageId=source["ImageId"], MinCount=1, MaxCount=1)["Instances"][0]
        client._ec2.create_image(InstanceId=base["InstanceId"], Name=IMAGE)
        yield client
        client.close()


def spot(aws: Aws) -> RentalOffer:
    return next(offer for offer in aws.offers(None, 60) if (offer.id, offer.kind) == ("g6.xlarge", "spot"))


def test_an_instance_is_launched_listed_and_terminated(aws: Aws) -> None:
    assert aws.list() == (), "instances of other names are not ours"
    id = aws.launch(spot(aws), request())
    machine = aws.find(id)
    assert machine is not None
    assert (machine.name, machine.state) == (request().name, "running")
    assert machine.ssh is not None and (machine.ssh.port, machine.ssh.user) == (22, "ubuntu")
    assert machine.started is not None
    # Its token makes a repeated launch the same one.
    assert [each.id for each in aws.list()] == [id]
    aws.terminate(id)
    assert (aws.list(), aws.find(id)) == ((), None)
    aws.terminate(id)
    aws.terminate("i-0123456789abcdef0")


def test_an_instance_has_its_switch_and_lets_only_our_key_in(aws: Aws) -> None:
    id = aws.launch(spot(aws), request())
    data = aws._ec2.describe_instance_attribute(InstanceId=id, Attribute="userData")["UserData"]["Value"]
    import base64

    script = base64.b64decode(data).decode()
    assert script.startswith("#!/bin/sh\nshutdown -h +90\n")
    assert PUBLIC in script
    behavior = aws._ec2.describe_instance_attribute(
        InstanceId=id, Attribute="instanceInitiatedShutdownBehavior"
    )["InstanceInitiatedShutdownBehavior"]["Value"]
    assert behavior == "terminate"
    (group,) = aws._ec2.describe_security_groups(GroupNames=[GROUP])["SecurityGroups"]
    assert [(each["FromPort"], each["ToPort"]) for each in group["IpPermissions"]] == [(22, 22)]
    aws.launch(spot(aws), request("comic-upscale-0a1b2d-2611271830"))  # the group exists by now


def test_offers_are_spot_and_on_demand_where_the_price_is_known(aws: Aws) -> None:
    offers = aws.offers(None, 60)
    assert {offer.kind for offer in offers} == {"spot", "on-demand"}
    assert {offer.gpu for offer in offers} >= {"T4", "L4"}
    demand = [offer for offer in offers if offer.kind == "on-demand"]
    assert [(offer.id, round(offer.hour, 2)) for offer in demand] == [("g4dn.xlarge", 0.53)]
    assert len({offer.label for offer in offers}) == len(offers)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (500, "InsufficientInstanceCapacity", CapacityError),
        (400, "MaxSpotInstanceCountExceeded", CapacityError),
        (403, "UnauthorizedOperation", ProviderError),
        (503, "Unavailable", UncertainError),
    ],
)
def test_failures_of_a_launch_are_told_apart(
    aws: Aws, status: int, code: str, error: type[ProviderError]
) -> None:
    from botocore.awsrequest import AWSResponse

    class Raw:
        def stream(self) -> Iterator[bytes]:
            text = f"<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>"
            yield text.encode()

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        return AWSResponse(request.url, status, {}, Raw())

    offer = spot(aws)
    aws._ec2.meta.events.register_first("before-send.ec2.RunInstances", answer)
    aws._ec2.meta.events.register("needs-retry.ec2.RunInstances", lambda **_: None)
    with pytest.raises(error) as caught:
        aws.launch(offer, request())
    assert type(caught.value) is error


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in (
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
        Aws()
    with pytest.raises(ProviderError, match="AWS_ACCESS_KEY_ID"):
        Aws("us-east-1").list()
