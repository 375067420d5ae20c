"""vast.ai, by version 0 of its REST interface: https://docs.vast.ai/api-reference."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from comic_upscale.errors import ProviderError, UncertainError
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
from comic_upscale.provisioning.switch import authorize_key, delete_command, end_in_background
from comic_upscale.retries import RetryPolicy

BASE_URL = "https://console.vast.ai/api/v0"
IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel"
LEAST_CUDA = 12.8
"""The driver of the host must support the CUDA of the image."""
MOST_OFFERS = 200
LEAST_MBPS = 100
"""Slower hosts would spend the rent on the transfers."""


def _explain(answer: Any) -> str:
    entry = entry_of(answer)
    return ": ".join(filter(None, (text_of(entry.get(name)) for name in ("error", "msg", "message"))))


_DIALECT = Dialect(
    provider="vast",
    explain=_explain,
    no_capacity=re.compile(
        r"no_such_ask|not available|no longer available|not rentable|already rented", re.I
    ),
    key_hint="make one at https://cloud.vast.ai/manage-keys/, and set VAST_API_KEY",
    authorization=lambda key: f"Bearer {key}",
)


class Vast:
    """A `Provider`.

    Args:
        key: the API key.
        base_url: of the interface.
        retry: how requests are repeated.
    """

    name = "vast"
    python: str | None = None

    def __init__(self, key: str, base_url: str = BASE_URL, retry: RetryPolicy = RETRY_POLICY) -> None:
        self._api = Api(base_url, key, _DIALECT, retry)

    @property
    def end_command(self) -> str:
        """The instance deletes itself with its own key."""
        return delete_command(
            self._api.base_url + "/instances/{}/",
            id_variable="CONTAINER_ID",
            key_variable="CONTAINER_API_KEY",
        )

    def offers(self, gpu: str | None, disk_gb: int) -> list[RentalOffer]:
        """Return the cheapest offers of verified hosts, on demand."""
        body = {
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "num_gpus": {"eq": 1},
            "cuda_max_good": {"gte": LEAST_CUDA},
            "disk_space": {"gte": disk_gb},
            "inet_down": {"gte": LEAST_MBPS},
            "inet_up": {"gte": LEAST_MBPS},
            "direct_port_count": {"gte": 1},
            "type": "on-demand",
            "order": [["dph_total", "asc"]],
            "limit": MOST_OFFERS,
            # The price of an offer then includes this disk.
            "allocated_storage": disk_gb,
        }
        answer = self._api.repeat("POST", "/bundles/", body)
        return [
            offer for entry in listed_in(answer, "offers", self.name) if (offer := _offer(entry)) is not None
        ]

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Create an instance; see `Provider`."""
        body = {
            "client_id": "me",
            "image": request.image or IMAGE,
            "disk": request.disk_gb,
            "label": request.name,
            "runtype": "ssh_direc ssh_proxy",
            "target_state": "running",
            "cancel_unavail": True,
            "env": {},
            "onstart": authorize_key(request.public_key)
            + end_in_background(request.max_hours, self.end_command),
        }
        answer = entry_of(self._api.once("PUT", f"/asks/{quote(offer.id, safe='')}/", body))
        if answer.get("success") is False:
            raise self._api.refuse(_explain(answer))
        id = text_of(answer.get("new_contract"))
        if not id:
            raise UncertainError("vast: the answer to a launch names no instance")
        self._attach_key(id, request.public_key)
        return id

    def _attach_key(self, id: str, public_key: str) -> None:
        """Let a key log in. The start script does the same, so a failure is no reason to lose the machine's ID."""
        with contextlib.suppress(ProviderError):
            self._api.repeat("POST", f"/instances/{quote(id, safe='')}/ssh/", {"ssh_key": public_key})

    def find(self, id: str) -> RentedMachine | None:
        """Return an instance; see `Provider`."""
        answer = self._api.get(f"/instances/{quote(id, safe='')}/", {"owner": "me"})
        return None if answer is None else _machine(entry_of(entry_of(answer).get("instances")))

    def list(self) -> tuple[RentedMachine, ...]:
        """Return our instances; see `Provider`."""
        entries = listed_in(self._api.get("/instances/", {"owner": "me"}), "instances", self.name)
        return tuple(machine for entry in entries if (machine := _machine(entry)) is not None)

    def terminate(self, id: str) -> None:
        """Destroy an instance; see `Provider`."""
        answer = entry_of(self._api.repeat("DELETE", f"/instances/{quote(id, safe='')}/", {}))
        if answer.get("success") is False:
            raise self._api.refuse(_explain(answer))

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def _offer(entry: Mapping[str, Any]) -> RentalOffer | None:
    id, gpu = text_of(entry.get("id")), text_of(entry.get("gpu_name")).replace("_", " ")
    hour = number_of(entry.get("dph_total"))
    if not id or not gpu or not hour:
        return None
    return RentalOffer(
        provider="vast",
        id=id,
        gpu=gpu,
        hour=hour,
        region=text_of(entry.get("geolocation")).rpartition(", ")[2],
        vcpus=count_of(entry.get("cpu_cores_effective")),
        egress_gb=number_of(entry.get("inet_up_cost")) or 0.0,
        ingress_gb=number_of(entry.get("inet_down_cost")) or 0.0,
    )


def _machine(entry: Mapping[str, Any]) -> RentedMachine | None:
    """Return an instance of ours; None for any other."""
    if not is_ours(entry.get("label")):
        return None
    actual, began = text_of(entry.get("actual_status")), number_of(entry.get("start_date"))
    state: MachineState = "running" if actual == "running" else "starting"
    if actual in ("exited", "offline", "stopped") or entry.get("intended_status") == "stopped":
        state = "failed"
    return RentedMachine(
        provider="vast",
        id=text_of(entry.get("id")),
        name=text_of(entry.get("label")),
        state=state,
        gpu=text_of(entry.get("gpu_name")),
        hour=number_of(entry.get("dph_total")),
        ssh=_address(entry) if state == "running" else None,
        started=None if began is None or began > 1e11 else datetime.fromtimestamp(began, UTC),
        problem=text_of(entry.get("status_msg")) or f"the instance is {actual}" if state == "failed" else "",
    )


def _address(entry: Mapping[str, Any]) -> SshAddress | None:
    """Return the address of the host itself if it has an open port, else that of vast's proxy."""
    open_ports = entries_of(entry_of(entry.get("ports")).get("22/tcp"))
    port = count_of(open_ports[0].get("HostPort")) if open_ports else None
    host = text_of(entry.get("public_ipaddr")).strip()
    if not host or port is None:
        host, port = text_of(entry.get("ssh_host")), count_of(entry.get("ssh_port"))
    return SshAddress(host=host, port=port, user="root") if host and port else None
