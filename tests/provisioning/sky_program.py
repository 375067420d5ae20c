"""A program ``sky`` on this machine that answers as SkyPilot 0.14 does, faults included.

It is a real program, which asks the test for each answer. The test keeps the list of machines that would be billed.
"""

from __future__ import annotations

import json
import shutil
import socketserver
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comic_upscale.provisioning.program import ProgramAnswer, plain
from tests.provisioning.clouds import Cloud, CloudMachine, visible

Result = tuple[int, str, str]
"""Exit code, output, and what is printed about failures."""

_SCRIPT = """#!{python} -IS
import socket, sys
words = [word.encode().hex() for word in sys.argv[1:]]
if sys.argv[1:2] == ["launch"]:
    words.append(open(sys.argv[-1], "rb").read().hex())
with socket.create_connection(("127.0.0.1", {port})) as connection:
    connection.sendall(" ".join(words).encode() + b"\\n")
    answer = connection.makefile("rb").read().decode()
code, out, err = (bytes.fromhex(each).decode() for each in answer.split("\\n"))
sys.stdout.write(out)
sys.stderr.write(err)
sys.stdout.flush()
sys.exit(int(code))
"""
_FAILED: dict[str, Result] = {
    "503": (1, "", "sky.exceptions.ApiServerConnectionError: Could not connect to SkyPilot API server.\n"),
    "429": (1, "", "sky.exceptions.RequestInterruptedError: too many requests, retry later\n"),
    "403": (1, "", "PermissionError: \x1b[31mthe account may not do this\x1b[0m\n"),
    "not-json": (0, "<html>a proxy</html>\n", ""),
}
CATALOGUE = [
    ("AWS", "g6.xlarge", "L4", 1.0, 4.0, 0.805, 0.35, "us-east-1"),
    ("AWS", "g6.12xlarge", "L4", 4.0, 48.0, 4.6, 2.1, "us-east-1"),
    ("Lambda", "gpu_1x_a10", "A10", 1.0, 30.0, 0.75, float("nan"), "us-west-1"),
    ("RunPod", "1x_RTX4090_SECURE", "RTX4090", 1.0, 16.0, 0.69, float("nan"), "SE"),
    ("GCP", "g2-standard-4", "L4", 1.0, 4.0, 0.7, 0.28, "us-central1"),
    ("Kubernetes", None, "L4", 1.0, 4.0, 0.0, 0.0, "home"),
]
"""What SkyPilot knows. The account has no access to GCP."""
_FIELDS = ("cloud", "instance_type", "accelerator_name", "accelerator_count", "cpu_count", "price", "spot_price",
           "region")  # fmt: skip


@dataclass
class SkyCloud(Cloud):
    """SkyPilot and the clouds behind it."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="sky-")))
    calls: list[list[str]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    requests_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The launches that SkyPilot's server was asked for, by the name of the machine."""
    is_queued: bool = False
    """Whether launches wait in the server: they are no machine yet, and become one unless they are cancelled."""
    without_end: set[str] = field(default_factory=set)
    """Names of machines whose end SkyPilot has switched off."""
    proxy: str = ""
    """In the OpenSSH configuration of each machine."""

    def start(self) -> None:
        cloud = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = [bytes.fromhex(word).decode() for word in self.rfile.readline().decode().split()]
                code, out, err = respond(cloud, words)
                self.wfile.write("\n".join(each.encode().hex() for each in (str(code), out, err)).encode())

        server = self._socket = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        program = self.folder / "sky"
        program.write_text(_SCRIPT.format(python=sys.executable, port=server.server_address[1]))
        program.chmod(0o755)
        (self.folder / "ssh").mkdir()
        self.url = str(program)

    def stop(self) -> None:
        self._socket.shutdown()
        self._socket.server_close()
        shutil.rmtree(self.folder)

    def boot_queued(self) -> None:
        """Let the launches go on that wait in the server."""
        for name, (request, *_) in self.requests_of.items():
            if request["status"] == "PENDING":
                request["status"] = "SUCCEEDED"
                self.create(name)

    def create(self, name: str) -> None:
        self.launched += 1
        self.machines[name] = CloudMachine(name, name, "L4", {})


def call_directly(cloud: SkyCloud, path: str, arguments: Sequence[str], seconds: float) -> ProgramAnswer:
    """Return the program's answer without a process, for tests with hundreds of calls."""
    task = [Path(arguments[-1]).read_text()] if arguments[0] == "launch" else []
    code, out, err = respond(cloud, [*arguments, *task])
    return ProgramAnswer(code, plain(out), plain(err))


def respond(cloud: SkyCloud, words: Sequence[str]) -> Result:
    operation, act = _route(cloud, list(words))
    cloud.calls.append(list(words))
    cloud.requests.append((operation, time.monotonic()))
    fault = cloud.take_fault(operation)
    if fault in _FAILED:
        return _FAILED[fault]
    if fault == "capacity":
        _add_request(cloud, words[words.index("--cluster") + 1], "FAILED")
        return _submitted()
    if fault == "ignored":
        return 0, "Terminating cluster ...done.\n", ""
    code, out, err = act()
    if fault in ("half", "created-half"):
        # A request that was carried out, and the connection to the server broke off.
        return (0 if out.lstrip()[:1] in "[{" else 1), out[: len(out) // 2], err
    if fault in ("created-503", "created-cut"):
        return 1, "", _FAILED["503"][2] if fault == "created-503" else ""
    assert fault is None, fault
    return code, out, err


def _route(cloud: SkyCloud, words: list[str]) -> tuple[str, Callable[[], Result]]:
    match words:
        case ["check", "-o", "json"]:
            enabled = {
                "AWS": ["compute", "storage"],
                "Lambda": ["compute"],
                "RunPod": ["compute"],
                "R2": ["storage"],
            }
            return "check", lambda: _print({"default": enabled, "other": {}})
        case ["gpus", "list", "-o", "json"]:
            entries = [dict(zip(_FIELDS, row, strict=True)) for row in CATALOGUE]
            gpus = {each["accelerator_name"] for each in entries}
            listed = {gpu: [each for each in entries if each["accelerator_name"] == gpu] for gpu in gpus}
            return "offers", lambda: _print(listed)
        case ["launch", "--yes", "--async", "--detach-run", "--cluster", name, _, task]:
            return "launch", lambda: _launch(cloud, name, task)
        case ["status", "--refresh", "-o", "json"]:
            return "list", lambda: _print([_FOREIGN, *(_status(cloud, each) for each in visible(cloud))])
        case ["status", "-o", "json", name]:
            return "find", lambda: _find(cloud, name)
        case ["api", "status", "-o", "json", *options]:
            return "requests", lambda: _requests(cloud, options)
        case ["api", "cancel", "--yes", *numbers]:
            return "cancel", lambda: _cancel(cloud, numbers)
        case ["autostop", "--yes", "--idle-minutes", "5", "--down", name]:
            return "autostop", lambda: _autostop(cloud, name)
        case ["down", "--yes", name]:
            return "terminate", lambda: _down(cloud, name)
    raise AssertionError(words)


_FOREIGN = {"name": "somebody-elses", "status": "UP", "launched_at": 1, "autostop": -1, "to_down": False}


def _print(answer: object) -> Result:
    # Warnings come first, on the same stream.
    return (
        0,
        f"The flag is ignored because the server does not support it yet.\n{json.dumps(answer, indent=2)}\n",
        "",
    )


def _submitted() -> Result:
    number = uuid.uuid4()
    line = f"\x1b[32mSubmitted sky.launch request: {number}\x1b[0m"
    return 0, f"YAML to run: task.yaml\n{line}\n├── Check logs with: sky api logs\n", ""


def _add_request(cloud: SkyCloud, name: str, status: str) -> None:
    entry = {"request_id": str(uuid.uuid4()), "name": "sky.launch", "status": status, "created_at": time.time(),
             "cluster_name": name}  # fmt: skip
    cloud.requests_of[name] = [entry]


def _launch(cloud: SkyCloud, name: str, task: str) -> Result:
    described = json.loads(task)
    assert described["resources"]["autostop"] == {"idle_minutes": 5, "down": True, "wait_for": "jobs"}
    assert "authorized_keys" in described["run"]
    cloud.tasks.append(described)
    _add_request(cloud, name, "PENDING" if cloud.is_queued else "SUCCEEDED")
    if not cloud.is_queued:
        cloud.create(name)
    return _submitted()


def _status(cloud: SkyCloud, machine: CloudMachine) -> dict[str, Any]:
    up = cloud.is_up(machine)
    if up:
        host, port, user = cloud.ssh
        (cloud.folder / "ssh" / machine.name).write_text(
            f"# Added by sky\nHost {machine.name}\n  HostName {host}\n  User {user}\n  IdentityFile ~/.sky/key\n"
            f"  UserKnownHostsFile=/dev/null\n  Port {port}\n{cloud.proxy}"
        )
    return {"name": machine.name, "status": "UP" if up else "INIT", "launched_at": int(machine.launched),
            "accelerators": "{'L4': 1}", "autostop": -1 if machine.name in cloud.without_end else 5,
            "to_down": machine.name not in cloud.without_end, "cloud": "AWS"}  # fmt: skip


def _find(cloud: SkyCloud, name: str) -> Result:
    machine = cloud.machines.get(name)
    if machine is None:
        return 0, f"Cluster(s) not found: \x1b[1m{name}\x1b[0m.\n[]\n", ""
    machine.looks += 1
    return _print([_status(cloud, machine)])


def _requests(cloud: SkyCloud, options: Sequence[str]) -> Result:
    daemon = {"request_id": "skypilot-status-refresh-daemon", "name": "sky.status-refresh", "status": "RUNNING",
              "cluster_name": None}  # fmt: skip
    name = options[options.index("--cluster") + 1] if "--cluster" in options else None
    entries = [
        entry
        for each, listed in cloud.requests_of.items()
        for entry in listed
        if name in (None, each) and ("--all-status" in options or entry["status"] in ("PENDING", "RUNNING"))
    ]
    return _print([daemon, *entries])


def _cancel(cloud: SkyCloud, numbers: Sequence[str]) -> Result:
    for entry in (each for listed in cloud.requests_of.values() for each in listed):
        if entry["request_id"] in numbers:
            entry["status"] = "CANCELLED"
    return 0, f"Cancelled {len(numbers)} request\n", ""


def _autostop(cloud: SkyCloud, name: str) -> Result:
    assert name in cloud.machines
    cloud.without_end.discard(name)
    return 0, f"Cluster {name} will be terminated after 5 idle minutes.\n", ""


def _down(cloud: SkyCloud, name: str) -> Result:
    if cloud.machines.pop(name, None) is None:
        return 0, f"Cluster(s) not found: {name}.\nCluster(s) not found (tip: see `sky status`).\n", ""
    (cloud.folder / "ssh" / name).unlink(missing_ok=True)
    return 0, f"Terminating cluster {name}...done.\n", ""
