"""Lambda, by version 1 of its REST interface: https://docs.lambda.ai/api/cloud."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from comic_upscale.errors import UncertainError
from comic_upscale.provisioning.base import (
    LaunchRequest,
    MachineState,
    RentalOffer,
    RentedMachine,
    SshAddress,
    is_ours,
)
from comic_upscale.provisioning.http import (
    RETRY_POLICY,
    Api,
    Dialect,
    count_of,
    entries_of,
    entry_of,
    listed_in,
    number_of,
    text_of,
)
from comic_upscale.provisioning.switch import POWER_OFF, power_off_at_boot
from comic_upscale.retries import RetryPolicy

BASE_URL = "https://cloud.lambda.ai/api/v1"
IMAGE = "lambda-stack-24-04"
"""The family of images with Python 3.12 and PyTorch. Ubuntu 22.04 has Python 3.10, which is too old."""

_STATES: Mapping[str, MachineState] = MappingProxyType(
    {"active": "running", "unhealthy": "failed", "preempted": "failed", "terminating": "ending"}
)


def _explain(answer: Any) -> str:
    error = entry_of(entry_of(answer).get("error"))
    return ": ".join(filter(None, (text_of(error.get(name)) for name in ("code", "message", "suggestion"))))


_DIALECT = Dialect(
    provider="lambda",
    explain=_explain,
    no_capacity=re.compile(r"insufficient-capacity|not enough capacity", re.I),
    key_hint="make one at https://cloud.lambda.ai/api-keys, and set LAMBDA_API_KEY",
    authorization=lambda key: "Basic " + base64.b64encode(f"{key}:".encode()).decode(),
)


class LambdaCloud:
    """A `Provider`.

    Args:
        key: the API key.
        base_url: of the interface.
        retry: how requests are repeated.
    """

    name = "lambda"
    end_command = POWER_OFF
    python: str | None = None

    def __init__(self, key: str, base_url: str = BASE_URL, retry: RetryPolicy = RETRY_POLICY) -> None:
        self._api = Api(base_url, key, _DIALECT, retry)

    def offers(self, gpu: str | None, disk_gb: int) -> list[RentalOffer]:
        """Return an offer for each type with one GPU and each region that has it."""
        answer = self._api.get("/instance-types")
        data = entry_of(answer).get("data")
        if not isinstance(data, dict):
            raise self._api.refuse("the answer has no list of instance types; its interface may have changed")
        return [offer for entry in entries_of(data) for offer in _offers(entry, disk_gb)]

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Launch an instance; see `Provider`."""
        body = {
            "region_name": offer.region,
            "instance_type_name": offer.id,
            "ssh_key_names": [self._register_key(request.public_key)],
            "file_system_names": [],
            "quantity": 1,
            "name": request.name,
            "image": {"family": request.image or IMAGE},
            "user_data": power_off_at_boot(request.max_hours),
        }
        answer = entry_of(self._api.once("POST", "/instance-operations/launch", body))
        ids = entry_of(answer.get("data")).get("instance_ids")
        if not isinstance(ids, list) or not ids:
            raise UncertainError("lambda: the answer to a launch names no instance")
        return text_of(ids[0])

    def _register_key(self, public_key: str) -> str:
        """Return the name of a public key in the account; register it if it is new."""
        body = public_key.split()[1]
        for entry in listed_in(self._api.get("/ssh-keys"), "data", self.name):
            if body in text_of(entry.get("public_key")).split():
                return text_of(entry.get("name"))
        name = f"comic-upscale-{hashlib.sha256(body.encode()).hexdigest()[:8]}"
        self._api.repeat("POST", "/ssh-keys", {"name": name, "public_key": public_key})
        return name

    def find(self, id: str) -> RentedMachine | None:
        """Return an instance; see `Provider`."""
        answer = self._api.get(f"/instances/{quote(id, safe='')}")
        return None if answer is None else _machine(entry_of(entry_of(answer).get("data")))

    def list(self) -> tuple[RentedMachine, ...]:
        """Return our instances; see `Provider`."""
        entries = listed_in(self._api.get("/instances"), "data", self.name)
        return tuple(machine for entry in entries if (machine := _machine(entry)) is not None)

    def terminate(self, id: str) -> None:
        """Terminate an instance; see `Provider`."""
        self._api.repeat("POST", "/instance-operations/terminate", {"instance_ids": [id]})

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def _offers(entry: Mapping[str, Any], disk_gb: int) -> list[RentalOffer]:
    kind = entry_of(entry.get("instance_type"))
    specs, cents = entry_of(kind.get("specs")), number_of(kind.get("price_cents_per_hour"))
    name, gpu = text_of(kind.get("name")), text_of(kind.get("gpu_description") or kind.get("description"))
    gpu = re.sub(r"^\d+x ", "", gpu.partition("(")[0].strip())
    disk = number_of(specs.get("storage_gib")) or 0
    if not name or not cents or count_of(specs.get("gpus")) != 1 or disk * 1.07 < disk_gb:
        return []
    return [
        RentalOffer(
            provider="lambda", id=name, gpu=gpu, hour=cents / 100, region=region, vcpus=count_of(specs.get("vcpus"))
        )
        for each in entries_of(entry.get("regions_with_capacity_available"))
        if (region := text_of(each.get("name")))
    ]  # fmt: skip


def _machine(entry: Mapping[str, Any]) -> RentedMachine | None:
    """Return an instance of ours that has not ended; None for any other."""
    status = text_of(entry.get("status"))
    if not is_ours(entry.get("name")) or status == "terminated":
        return None
    kind, state = entry_of(entry.get("instance_type")), _STATES.get(status, "starting")
    cents, host = number_of(kind.get("price_cents_per_hour")), text_of(entry.get("ip"))
    return RentedMachine(
        provider="lambda",
        id=text_of(entry.get("id")),
        name=text_of(entry.get("name")),
        state=state,
        gpu=text_of(kind.get("gpu_description") or kind.get("name")),
        hour=None if cents is None else cents / 100,
        ssh=SshAddress(host=host, port=22, user="ubuntu") if host and state == "running" else None,
        problem=f"the instance is {status}" if state == "failed" else "",
    )
