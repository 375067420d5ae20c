"""RunPod, by version 2 of its REST interface: https://docs.runpod.io/api-reference-v2."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

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
from comic_upscale.provisioning.switch import delete_command, end_in_background
from comic_upscale.retries import RetryPolicy

BASE_URL = "https://api.runpod.io/v2"
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
_OWN_IMAGES = "runpod/"
"""Images of RunPod start by ``/start.sh``. How another image starts is not known, so nothing is put before it."""
_SWITCH = "COMIC_UPSCALE_SWITCH"
_START = f"bash -c 'echo ${_SWITCH} | base64 -d | bash; exec /start.sh'"
"""The arguments of the container: they start the switch, then what the image itself would start. The script is in a
variable, because it has quotes, and RunPod does not say how it reads nested ones."""
DISK_DOLLARS_A_GB_MONTH = 0.10
"""Price of the container disk, as published in November 2026."""
HOURS_A_MONTH = 730
_MOST_PAGES = 100

_STATES: Mapping[str, MachineState] = MappingProxyType(
    {"RUNNING": "running", "EXITED": "failed", "ERROR": "failed", "TERMINATED": "ending"}
)


def _explain(answer: Any) -> str:
    entry = entry_of(answer)
    texts = [text_of(entry.get(name)) for name in ("title", "detail", "error", "message")]
    texts += [text_of(each.get("message") or each.get("detail")) for each in entries_of(entry.get("errors"))]
    return ": ".join(dict.fromkeys(filter(None, texts)))


_DIALECT = Dialect(
    provider="runpod",
    explain=_explain,
    no_capacity=re.compile(r"no longer any instances|no instances|capacity|out of stock|not available", re.I),
    key_hint="make one at https://console.runpod.io/user/settings that may write pods, and set RUNPOD_API_KEY",
    authorization=lambda key: f"Bearer {key}",
)


class RunPod:
    """A `Provider`.

    Args:
        key: the API key.
        base_url: of the interface.
        retry: how requests are repeated.
    """

    name = "runpod"
    python: str | None = None

    def __init__(self, key: str, base_url: str = BASE_URL, retry: RetryPolicy = RETRY_POLICY) -> None:
        self._api = Api(base_url, key, _DIALECT, retry)

    @property
    def end_command(self) -> str:
        """The pod deletes itself with its own key."""
        return delete_command(
            self._api.base_url + "/pods/{}", id_variable="RUNPOD_POD_ID", key_variable="RUNPOD_API_KEY"
        )

    def offers(self, gpu: str | None, disk_gb: int) -> list[RentalOffer]:
        """Return an offer for each GPU and cloud that has one in stock."""
        found: list[RentalOffer] = []
        disk = disk_gb * DISK_DOLLARS_A_GB_MONTH / HOURS_A_MONTH
        for cloud in ("COMMUNITY", "SECURE"):
            query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": "1"}
            for entry in listed_in(self._api.get("/catalog/gpus", query), "gpus", self.name):
                id, kind = text_of(entry.get("id")), cloud.lower()
                price = number_of(entry_of(entry.get("price")).get(kind))
                # The catalogue has a price for clouds that do not have this GPU, too.
                if not id or not price or entry.get(kind) is not True or entry.get("availability") == "NONE":
                    continue
                found.append(
                    RentalOffer(
                        provider=self.name, id=id, gpu=text_of(entry.get("name")) or id, hour=price + disk, kind=kind
                    )
                )  # fmt: skip
        return found

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Create a pod; see `Provider`."""
        body: dict[str, Any] = {
            "name": request.name,
            "image": request.image or IMAGE,
            "cloud": offer.kind.upper(),
            "gpu": {"id": offer.id, "count": 1},
            "disk": request.disk_gb,
            "ports": ["22/tcp"],
            # The images of RunPod let this key log in.
            "env": {"PUBLIC_KEY": request.public_key},
            "startSsh": True,
        }
        if body["image"].startswith(_OWN_IMAGES):
            script = end_in_background(request.max_hours, self.end_command)
            body["env"][_SWITCH] = base64.b64encode(script.encode()).decode("ascii")
            body["args"] = _START
        answer = self._api.once("POST", "/pods", body)
        return text_of(entry_of(answer).get("id"))

    def find(self, id: str) -> RentedMachine | None:
        """Return a pod; see `Provider`."""
        answer = self._api.get(f"/pods/{_quoted(id)}")
        return None if answer is None else _machine(entry_of(answer))

    def list(self) -> tuple[RentedMachine, ...]:
        """Return our pods; see `Provider`."""
        found: list[RentedMachine] = []
        query = {"limit": "1000"}
        for _ in range(_MOST_PAGES):
            answer = self._api.get("/pods", query)
            pods = (_machine(entry) for entry in listed_in(answer, "pods", self.name))
            found += [pod for pod in pods if pod is not None]
            pages = entry_of(entry_of(answer).get("pagination"))
            cursor = text_of(pages.get("nextCursor"))
            if pages.get("hasNextPage") is not True or not cursor:
                return tuple(found)
            query = {**query, "cursor": cursor}
        raise self._api.refuse("the list of pods has no end")

    def terminate(self, id: str) -> None:
        """Delete a pod; see `Provider`."""
        self._api.repeat("DELETE", f"/pods/{_quoted(id)}")

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def _machine(entry: Mapping[str, Any]) -> RentedMachine | None:
    """Return a pod of ours that has not ended; None for any other."""
    status = text_of(entry.get("status"))
    if not is_ours(entry.get("name")) or status == "TERMINATED":
        return None
    direct = entry_of(entry_of(entry.get("ssh")).get("direct"))
    host, port = text_of(direct.get("host")), count_of(direct.get("port"))
    state = _STATES.get(status, "starting")
    return RentedMachine(
        provider="runpod",
        id=text_of(entry.get("id")),
        name=text_of(entry.get("name")),
        state=state,
        gpu=text_of(entry_of(entry.get("gpu")).get("id")),
        hour=number_of(entry.get("cost")),
        ssh=SshAddress(host=host, port=port, user=text_of(direct.get("username")) or "root")
        if host and port
        else None,
        started=read_time(entry.get("createdAt")),
        problem=f"the pod is {status}" if state == "failed" else "",
    )


def read_time(value: object) -> datetime | None:
    """Return a time in ISO format, in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time.astimezone(UTC) if time is not None and time.tzinfo is not None else None


def _quoted(id: str) -> str:
    from urllib.parse import quote

    return quote(id, safe="")
