"""AWS EC2, by boto3: spot instances, and on-demand instances whose price is listed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from comic_upscale.costs.prices import listed_offers
from comic_upscale.errors import CapacityError, ProviderError, SettingsError, UncertainError
from comic_upscale.provisioning.base import (
    PREFIX,
    LaunchRequest,
    MachineState,
    RentalOffer,
    RentedMachine,
    SshAddress,
)
from comic_upscale.provisioning.switch import POWER_OFF, authorize_key, power_off_at_boot

INSTANCE_TYPES = (
    "g4dn.xlarge", "g4dn.2xlarge", "g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge", "g6.4xlarge", "g6e.xlarge",
    "g6e.2xlarge",
)  # fmt: skip
"""Types with one GPU."""
IMAGE = "Deep Learning OSS Nvidia Driver AMI GPU PyTorch 2.*Ubuntu 2*"
"""Amazon's images with PyTorch in ``/opt/pytorch``; the newest is used."""
EGRESS_DOLLARS_A_GB = 0.09
DISK_DOLLARS_A_GB_MONTH = 0.08
"""Prices of us-east-1, as published in November 2026; those of other regions are a little higher."""
HOURS_A_MONTH = 730
GROUP = "comic-upscale"
"""The security group that lets SSH in. It is made once in each region."""

_NO_CAPACITY = frozenset(
    ("InsufficientInstanceCapacity", "InsufficientHostCapacity", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded",
     "VcpuLimitExceeded", "Unsupported", "InstanceLimitExceeded")
)  # fmt: skip
_STATES: Mapping[str, MachineState] = MappingProxyType(
    {"running": "running", "shutting-down": "ending", "stopping": "failed", "stopped": "failed"}
)


class Aws:
    """A `Provider`. boto3 finds the key and the region where Amazon's own programs keep them.

    Args:
        region: in place of the user's default region.
        base_url: of the interface, in place of Amazon's.

    Raises:
        SettingsError: boto3 is not installed, or no region is set.
    """

    name = "aws"
    end_command = POWER_OFF
    python = "/opt/pytorch/bin/python"

    def __init__(self, region: str | None = None, base_url: str | None = None) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise SettingsError("renting at AWS needs boto3: run pip install '.[aws]' in a clone") from None
        # A launch may be repeated as well: its token makes Amazon carry it out once.
        config = Config(retries={"mode": "standard", "max_attempts": 6}, connect_timeout=10, read_timeout=60)
        try:
            self._ec2: Any = boto3.client("ec2", region_name=region, endpoint_url=base_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"aws: {error}: set AWS_DEFAULT_REGION, such as us-east-1") from None

    def offers(self, gpu: str | None, disk_gb: int) -> list[RentalOffer]:
        """Return an offer for each type and zone at its spot price, and on demand where the price is listed."""
        with _translate_errors():
            types = self._ec2.describe_instance_types(InstanceTypes=list(self._types_here()))["InstanceTypes"]
            history = self._ec2.describe_spot_price_history(
                InstanceTypes=[each["InstanceType"] for each in types],
                ProductDescriptions=["Linux/UNIX"],
                StartTime=datetime.now(UTC),
            )["SpotPriceHistory"]
        disk = disk_gb * DISK_DOLLARS_A_GB_MONTH / HOURS_A_MONTH
        cards = {each["InstanceType"]: each for each in types}
        zones = {
            (each["InstanceType"], each["AvailabilityZone"]): float(each["SpotPrice"]) for each in history
        }
        spot = [
            _offer(cards[name], hour + disk, "spot", zone)
            for (name, zone), hour in zones.items()
            if name in cards
        ]
        listed = {offer.seller: offer.hour.high for offer in listed_offers()}
        demand = [
            _offer(card, listed[f"AWS {name}"] + disk, "on-demand", self._ec2.meta.region_name)
            for name, card in cards.items()
            if f"AWS {name}" in listed
        ]
        return spot + demand

    def _types_here(self) -> Iterator[str]:
        answer = self._ec2.describe_instance_type_offerings(
            LocationType="region", Filters=[{"Name": "instance-type", "Values": list(INSTANCE_TYPES)}]
        )
        yield from (each["InstanceType"] for each in answer["InstanceTypeOfferings"])

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Run an instance; see `Provider`."""
        with _translate_errors():
            image = self._image(request.image)
            group = self._security_group()
        options: dict[str, Any] = {}
        if offer.kind == "spot":
            options = {
                "InstanceMarketOptions": {
                    "MarketType": "spot",
                    "SpotOptions": {
                        "SpotInstanceType": "one-time",
                        "InstanceInterruptionBehavior": "terminate",
                    },
                },
                "Placement": {"AvailabilityZone": offer.region},
            }
        key = authorize_key(request.public_key, "/home/ubuntu") + "chown -R ubuntu: /home/ubuntu/.ssh\n"
        size = max([request.disk_gb, *(_snapshot_gb(image))])
        with _translate_errors(launching=True):
            answer = self._ec2.run_instances(
                ImageId=image["ImageId"],
                InstanceType=offer.id,
                MinCount=1,
                MaxCount=1,
                ClientToken=request.name,
                UserData=power_off_at_boot(request.max_hours) + key,
                # With it, the switch on the machine ends the bill.
                InstanceInitiatedShutdownBehavior="terminate",
                SecurityGroupIds=[group],
                BlockDeviceMappings=[
                    {
                        "DeviceName": image.get("RootDeviceName", "/dev/sda1"),
                        "Ebs": {"VolumeSize": size, "VolumeType": "gp3", "DeleteOnTermination": True},
                    }
                ],
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": request.name}]}
                ],
                **options,
            )
        return str(answer["Instances"][0]["InstanceId"])

    def _image(self, given: str | None) -> Mapping[str, Any]:
        """Return the newest image of the pattern, or the one with the given ID or name."""
        if given is not None and given.startswith("ami-"):
            found = self._ec2.describe_images(ImageIds=[given])["Images"]
        else:
            # Amazon names its images for ARM differently.
            named = [{"Name": "name", "Values": [given or IMAGE]}]
            found = self._ec2.describe_images(Owners=["amazon", "self"], Filters=named)["Images"]
        if not found:
            raise ProviderError(
                f"aws: there is no image {given or IMAGE!r} in {self._ec2.meta.region_name}: name one with --image"
            )
        newest: Mapping[str, Any] = max(found, key=lambda image: str(image.get("CreationDate", "")))
        return newest

    def _security_group(self) -> str:
        """Return the ID of our security group in the default network; make it if it does not exist."""
        filters = [{"Name": "group-name", "Values": [GROUP]}]
        found = self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        if found:
            return str(found[0]["GroupId"])
        made = self._ec2.create_security_group(
            GroupName=GROUP, Description="SSH to rented machines, by key only"
        )
        ssh = {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "SSH by key"}],
        }
        self._ec2.authorize_security_group_ingress(GroupId=made["GroupId"], IpPermissions=[ssh])
        return str(made["GroupId"])

    def find(self, id: str) -> RentedMachine | None:
        """Return an instance; see `Provider`."""
        return next(iter(self._describe([{"Name": "instance-id", "Values": [id]}])), None)

    def list(self) -> tuple[RentedMachine, ...]:
        """Return our instances; see `Provider`."""
        return tuple(self._describe([{"Name": "tag:Name", "Values": [f"{PREFIX}*"]}]))

    def _describe(self, filters: Any) -> Sequence[RentedMachine]:
        with _translate_errors():
            pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
            instances = [
                instance for page in pages for each in page["Reservations"] for instance in each["Instances"]
            ]
        return [machine for instance in instances if (machine := _machine(instance)) is not None]

    def terminate(self, id: str) -> None:
        """Terminate an instance; see `Provider`."""
        with contextlib.suppress(CapacityError), _translate_errors():
            self._ec2.terminate_instances(InstanceIds=[id])

    def close(self) -> None:
        """Close the connections."""
        self._ec2.close()


@contextlib.contextmanager
def _translate_errors(*, launching: bool = False) -> Iterator[None]:
    """Turn the errors of boto3 into ours; in a launch, an error without an answer leaves its success open."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code, words = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        text = f"aws: {code}: {words}"
        if code in _NO_CAPACITY or code.startswith("InvalidInstanceID"):
            raise CapacityError(text) from None
        if launching and status >= 500:
            raise UncertainError(text) from None
        raise ProviderError(text) from None
    except NoCredentialsError:
        raise ProviderError(
            "aws: there is no key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"
        ) from None
    except BotoCoreError as error:
        kind = UncertainError if launching else ProviderError
        raise kind(f"aws: {error}") from None


def _offer(entry: Mapping[str, Any], hour: float, kind: str, region: str) -> RentalOffer:
    return RentalOffer(
        provider="aws",
        id=str(entry["InstanceType"]),
        gpu=str(entry["GpuInfo"]["Gpus"][0]["Name"]),
        hour=hour,
        kind=kind,
        region=region,
        vcpus=int(entry["VCpuInfo"]["DefaultVCpus"]),
        egress_gb=EGRESS_DOLLARS_A_GB,
    )


def _machine(entry: Mapping[str, Any]) -> RentedMachine | None:
    """Return an instance of ours that has not ended; None for any other."""
    tags = {each["Key"]: each["Value"] for each in entry.get("Tags", ())}
    status = entry["State"]["Name"]
    if not tags.get("Name", "").startswith(PREFIX) or status == "terminated":
        return None
    state, host = _STATES.get(status, "starting"), entry.get("PublicIpAddress")
    began = entry.get("LaunchTime")
    return RentedMachine(
        provider="aws",
        id=entry["InstanceId"],
        name=tags["Name"],
        state=state,
        gpu=entry["InstanceType"],
        ssh=SshAddress(host=host, port=22, user="ubuntu") if host and state == "running" else None,
        started=began.astimezone(UTC) if isinstance(began, datetime) else None,
        problem=f"the instance is {status}" if state == "failed" else "",
    )


def _snapshot_gb(image: Mapping[str, Any]) -> list[int]:
    sizes = (each.get("Ebs", {}).get("VolumeSize") for each in image.get("BlockDeviceMappings", ()))
    return [size for size in sizes if isinstance(size, int)]
