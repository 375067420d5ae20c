"""Providers on this machine: HTTP servers that speak the interfaces of RunPod, vast.ai and Lambda, faults included.

Each keeps a list of its machines, which is what a user would be billed for.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "secret-key-of-the-user"
Answer = tuple[int, Any]


@dataclass
class CloudMachine:
    """A machine of a provider, billed until it is gone."""

    id: str
    name: str
    offer: str
    request: dict[str, Any]
    looks: int = 0
    """How often it was asked about since its launch."""
    launched: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @property
    def created_at(self) -> str:
        return f"{datetime.fromtimestamp(self.launched, UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Cloud:
    """The state of a provider, and the faults that come next."""

    provider: str
    machines: dict[str, CloudMachine] = field(default_factory=dict)
    launched: int = 0
    """How many machines were ever launched."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(operation, fault), each used once, in order for its operation."""
    requests: list[tuple[str, float]] = field(default_factory=list)
    """(operation, time)."""
    refused_keys: int = 0
    boots_after: int | None = 1
    """How often a machine is asked about before it runs; None: it never comes up."""
    ssh: tuple[str, int, str] = ("203.0.113.7", 40022, "root")
    hidden_looks: int = 0
    """How often the list does not show a new machine yet."""
    offers: list[dict[str, Any]] = field(default_factory=list)
    """In place of the usual ones."""
    keys: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    _server: ThreadingHTTPServer | None = None

    def fault(self, operation: str, fault: str, times: int = 1) -> None:
        self.faults += [(operation, fault)] * times

    def count(self, operation: str) -> int:
        return Counter(name for name, _ in self.requests)[operation]

    def take_fault(self, operation: str) -> str | None:
        for place, (name, fault) in enumerate(self.faults):
            if name == operation:
                del self.faults[place]
                return fault
        return None

    def launch(self, name: str, offer: str, request: dict[str, Any]) -> str:
        self.launched += 1
        id = f"{self.launched + 700}"
        self.machines[id] = CloudMachine(id, name, offer, request)
        return id

    def is_up(self, machine: CloudMachine) -> bool:
        return self.boots_after is not None and machine.looks > self.boots_after

    def start(self) -> None:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def serve(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else {}
                respond(self, cloud, body)

            do_GET = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def respond(handler: BaseHTTPRequestHandler, cloud: Cloud, body: dict[str, Any]) -> None:
    split = urlsplit(handler.path)
    path, query = split.path.removeprefix("/api"), parse_qs(split.query)
    if not split.path.startswith("/api/"):
        send(handler, 404, {"message": "there is nothing here"})
        return
    basic = "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()
    expected = basic if cloud.provider == "lambda" else f"Bearer {KEY}"
    own_key = handler.headers.get("Authorization") == "Bearer key-of-this-machine"
    if handler.headers.get("Authorization") != expected and not (own_key and handler.command == "DELETE"):
        cloud.refused_keys += 1
        send(
            handler,
            401,
            {
                "title": "Unauthorized",
                "error": {"message": f"unknown key {handler.headers.get('Authorization')}"},
            },
        )
        return
    operation, act = ROUTES[cloud.provider](cloud, handler.command, path, query, body)
    cloud.requests.append((operation, time.monotonic()))
    fault = cloud.take_fault(operation)
    if fault in (None, "created-503", "created-half", "created-cut", "half"):
        status, answer = act()
    if fault is None:
        send(handler, status, answer)
    elif fault in ("half", "created-half"):
        send(handler, status, answer, half=True)
    elif fault == "created-cut":
        handler.close_connection = True
    elif fault in ("503", "created-503"):
        send(handler, 503, {"message": "try again"})
    elif fault == "429":
        send(handler, 429, {"error": "too many"}, retry_after="1")
    elif fault == "not-json":
        send(handler, 200, "<html>a proxy</html>")
    elif fault == "ignored":
        send(handler, *DELETED[cloud.provider])
    elif fault == "capacity":
        send(handler, *NO_CAPACITY[cloud.provider])
    elif fault == "403":
        send(handler, 403, {"detail": f"the key {KEY} may not do this"})
    else:
        raise AssertionError(fault)


def send(
    handler: BaseHTTPRequestHandler, status: int, answer: Any, *, half: bool = False, retry_after: str = ""
) -> None:
    text = (
        answer.encode() if isinstance(answer, str) else b"" if answer is None else json.dumps(answer).encode()
    )
    handler.send_response(status)
    if retry_after:
        handler.send_header("Retry-After", retry_after)
    if status != 204:
        handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text[: len(text) // 2] if half else text)
    if half:
        handler.close_connection = True


NO_CAPACITY: dict[str, Answer] = {
    "runpod": (500, {"title": "Error", "detail": "There are no longer any instances available with the specs."}),
    "vast": (404, {"success": False, "error": "no_such_ask", "msg": "Instance type by id 11 is not available."}),
    "lambda": (400, {"error": {"code": "instance-operations/launch/insufficient-capacity", "message": "Not enough."}}),
}  # fmt: skip
DELETED: dict[str, Answer] = {
    "runpod": (204, None),
    "vast": (200, {"success": True}),
    "lambda": (200, {"data": {"terminated_instances": []}}),
}

Route = tuple[str, Callable[[], Answer]]


def visible(cloud: Cloud) -> list[CloudMachine]:
    for machine in cloud.machines.values():
        machine.looks += 1
    return [machine for machine in cloud.machines.values() if machine.looks > cloud.hidden_looks]


def runpod(cloud: Cloud, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Route:
    def pod(machine: CloudMachine) -> dict[str, Any]:
        host, port, user = cloud.ssh
        up = cloud.is_up(machine)
        return {
            "id": machine.id, "name": machine.name, "status": "RUNNING" if up else "PROVISIONING", "cost": 0.34,
            "gpu": {"id": machine.offer, "count": 1}, "createdAt": machine.created_at, "cloud": "COMMUNITY",
            "ssh": {"proxy": None, "direct": {"host": host, "port": port, "username": user}} if up else None,
        }  # fmt: skip

    def gpus() -> Answer:
        usual = [
            {"id": "NVIDIA GeForce RTX 4090", "name": "RTX 4090", "memory": 24, "secure": True, "community": True,
             "price": {"secure": 0.69, "community": 0.34}, "availability": "HIGH"},
            {"id": "NVIDIA GeForce RTX 3090", "name": "RTX 3090", "memory": 24, "secure": False, "community": True,
             "price": {"secure": 0.43, "community": "0.22"}, "availability": "LOW"},
            {"id": "NVIDIA H200", "name": "H200", "memory": 141, "secure": True, "community": False,
             "price": {"secure": 3.59, "community": 0.5}, "availability": "NONE"},
        ]  # fmt: skip
        return 200, {"gpus": cloud.offers or usual}

    def create() -> Answer:
        assert body["gpu"]["count"] == 1
        assert body["ports"] == ["22/tcp"]
        assert body["env"]["PUBLIC_KEY"].startswith("ssh-ed25519 ")
        id = cloud.launch(body["name"], body["gpu"]["id"], body)
        return 201, pod(cloud.machines[id])

    def pods() -> Answer:
        # Two pages, as for a user with many pods.
        machines = [pod(machine) for machine in visible(cloud)]
        foreign = {"id": "9", "name": "somebody-elses", "status": "RUNNING"}
        if "cursor" in query:
            return 200, {"pods": machines[1:], "pagination": {"nextCursor": None, "hasNextPage": False}}
        return 200, {"pods": [foreign, *machines[:1]], "pagination": {"nextCursor": "c", "hasNextPage": True}}

    def find(id: str) -> Answer:
        machine = cloud.machines.get(id)
        if machine is None:
            return 404, {"title": "Not Found", "status": 404}
        machine.looks += 1
        return 200, pod(machine)

    def delete(id: str) -> Answer:
        return (204, None) if cloud.machines.pop(id, None) else (404, {"title": "Not Found"})

    id = path.rpartition("/")[2]
    if path == "/catalog/gpus":
        return "offers", gpus
    if path == "/pods":
        return ("launch", create) if method == "POST" else ("list", pods)
    assert path == f"/pods/{id}"
    return ("terminate", lambda: delete(id)) if method == "DELETE" else ("find", lambda: find(id))


def vast(cloud: Cloud, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Route:
    def instance(machine: CloudMachine) -> dict[str, Any]:
        host, port, _ = cloud.ssh
        up = cloud.is_up(machine)
        return {
            "id": int(machine.id), "label": machine.name, "actual_status": "running" if up else "loading",
            "intended_status": "running", "gpu_name": "RTX 4090", "dph_total": 0.36, "start_date": machine.launched,
            "public_ipaddr": f"{host} ", "ports": {"22/tcp": [{"HostPort": str(port)}]} if up else {},
            "ssh_host": "ssh5.vast.ai", "ssh_port": 12345,
        }  # fmt: skip

    def bundles() -> Answer:
        assert body["num_gpus"] == {"eq": 1}
        usual = [
            {"id": 11, "gpu_name": "RTX 4090", "dph_total": 0.36, "cpu_cores_effective": 8.0, "inet_up_cost": 0.01,
             "inet_down_cost": 0.002, "geolocation": "Sweden, SE"},
            {"id": 12, "gpu_name": "RTX_3090", "dph_total": 0.18, "cpu_cores_effective": 6.0, "inet_up_cost": 0.0,
             "inet_down_cost": 0.0, "geolocation": "Oregon, US"},
            {"id": 13, "gpu_name": "CMP 50HX", "dph_total": 0.05, "geolocation": None},
        ]  # fmt: skip
        return 200, {"offers": cloud.offers or usual}

    def create(ask: str) -> Answer:
        assert body["runtype"] == "ssh_direc ssh_proxy"
        assert "authorized_keys" in body["onstart"]
        return 200, {"success": True, "new_contract": int(cloud.launch(body["label"], ask, body))}

    def find(id: str) -> Answer:
        machine = cloud.machines.get(id)
        if machine is None:
            return 404, {"success": False, "error": "no_such_instance"}
        machine.looks += 1
        return 200, {"instances": instance(machine)}

    def delete(id: str) -> Answer:
        known = cloud.machines.pop(id, None)
        return (200, {"success": True}) if known else (404, {"success": False, "error": "no_such_instance"})

    parts = path.strip("/").split("/")
    if path == "/bundles/":
        return "offers", bundles
    if parts[0] == "asks":
        return "launch", lambda: create(parts[1])
    if parts[-1] == "ssh":
        return "key", lambda: (200, {"success": True})
    if path == "/instances/":
        own = {"id": 9, "label": None, "actual_status": "running"}
        return "list", lambda: (
            200,
            {"instances_found": 1, "instances": [own, *map(instance, visible(cloud))]},
        )
    return ("terminate", lambda: delete(parts[1])) if method == "DELETE" else ("find", lambda: find(parts[1]))


def lambda_cloud(
    cloud: Cloud, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]
) -> Route:
    def kind(name: str, gpu: str, cents: int, gpus: int, regions: list[str]) -> dict[str, Any]:
        return {
            "instance_type": {
                "name": name, "description": f"{gpus}x {gpu}", "gpu_description": gpu, "price_cents_per_hour": cents,
                "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": gpus},
            },
            "regions_with_capacity_available": [{"name": region, "description": region} for region in regions],
        }  # fmt: skip

    kinds = {
        "gpu_1x_a10": kind("gpu_1x_a10", "A10 (24 GB PCIe)", 129, 1, ["us-east-1", "us-west-1"]),
        "gpu_1x_h100_pcie": kind("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 329, 1, ["us-east-1"]),
        "gpu_8x_a100": kind("gpu_8x_a100", "A100 (40 GB SXM4)", 1032, 8, ["us-east-1"]),
        "gpu_1x_gh200": kind("gpu_1x_gh200", "GH200 (96 GB)", 229, 1, []),
    }

    def instance(machine: CloudMachine) -> dict[str, Any]:
        up = cloud.is_up(machine)
        return {
            "id": machine.id, "name": machine.name, "status": "active" if up else "booting",
            "ip": cloud.ssh[0] if up else None, "instance_type": kinds[machine.offer]["instance_type"],
        }  # fmt: skip

    def create() -> Answer:
        assert len(body["ssh_key_names"]) == 1
        assert body["ssh_key_names"][0] in {each["name"] for each in cloud.keys}
        assert body["user_data"].startswith("#!/bin/sh\nshutdown -h +")
        return 200, {"data": {"instance_ids": [cloud.launch(body["name"], body["instance_type_name"], body)]}}

    def find(id: str) -> Answer:
        machine = cloud.machines.get(id)
        if machine is None:
            return 404, {"error": {"code": "global/object-does-not-exist", "message": "not found"}}
        machine.looks += 1
        return 200, {"data": instance(machine)}

    def end() -> Answer:
        ended = [cloud.machines.pop(id) for id in body["instance_ids"] if id in cloud.machines]
        return 200, {"data": {"terminated_instances": [{"id": machine.id} for machine in ended]}}

    def add_key() -> Answer:
        cloud.keys.append(body)
        return 200, {"data": body}

    if path == "/instance-types":
        return "offers", lambda: (200, {"data": kinds})
    if path == "/ssh-keys":
        return ("key", add_key) if method == "POST" else ("keys", lambda: (200, {"data": cloud.keys}))
    if path == "/instance-operations/launch":
        return "launch", create
    if path == "/instance-operations/terminate":
        return "terminate", end
    if path == "/instances":
        gone = {"id": "8", "name": "comic-upscale-000000-2611010000", "status": "terminated"}
        own = {"id": "9", "name": "my-desktop", "status": "active"}
        return "list", lambda: (200, {"data": [own, gone, *map(instance, visible(cloud))]})
    return "find", lambda: find(path.rpartition("/")[2])


ROUTES: dict[str, Callable[..., Route]] = {"runpod": runpod, "vast": vast, "lambda": lambda_cloud}
