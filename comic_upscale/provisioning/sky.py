"""SkyPilot, by its own program ``sky``: it rents at the clouds whose accounts it knows.

The commands follow SkyPilot 0.14. A launch is handed to SkyPilot's server, and goes on there whatever happens to us.
So its requests count as machines, too: SkyPilot's list shows a machine only some time after the request.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from comic_upscale.errors import ProviderError, UncertainError
from comic_upscale.provisioning.base import (
    LaunchRequest,
    MachineState,
    RentalOffer,
    RentedMachine,
    SshAddress,
    end_of,
    is_ours,
)
from comic_upscale.provisioning.http import count_of, entries_of, entry_of, number_of, text_of
from comic_upscale.provisioning.program import ProgramAnswer, call_program, find_program, json_in
from comic_upscale.provisioning.switch import authorize_key
from comic_upscale.retries import RetryPolicy, with_retries

PROGRAM = "sky"
INSTALL = (
    "install SkyPilot with `pip install 'skypilot[aws]'`, or with another cloud in the brackets, and set up an account "
    "until `sky check` shows it as enabled"
)
SSH_FOLDER = "~/.sky/generated/ssh"
"""Where SkyPilot writes an OpenSSH configuration for each of its machines."""
RETRY_POLICY = RetryPolicy(attempts=4, seconds=120.0)
END_FILE = ".comic-upscale-end"
"""A file in the home folder of the machine that ends it."""
MINUTES_AFTER_JOB = 5
"""SkyPilot ends the machine so long after its job."""

_NOT_RENTED = ("kubernetes", "ssh", "slurm")
"""Clouds of SkyPilot that are machines of the user's own, or are reached by a proxy."""
_LOOK_SECONDS, _LAUNCH_SECONDS, _DOWN_SECONDS = 180.0, 300.0, 600.0
_SAFE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_HOST = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:-]*")
_STATES: Mapping[str, MachineState] = MappingProxyType(
    {"UP": "running", "STOPPED": "failed", "AUTOSTOPPING": "ending"}
)
_OVER = ("FAILED", "CANCELLED")
_ACTIVE = ("PENDING", "WAITING", "RUNNING")


class _FailedError(Exception):
    """One call failed. A repetition may succeed."""


class Sky:
    """A `Provider`. SkyPilot finds the accounts and keys of the clouds itself.

    Args:
        program: the name or path of SkyPilot's program.
        ssh_folder: where SkyPilot writes OpenSSH configurations.
        retry: how calls are repeated.
        call: runs the program.

    Raises:
        SettingsError: the program is not installed.
    """

    name = "sky"
    end_command = f'touch "$HOME/{END_FILE}"'
    """SkyPilot's own job waits for this file. Powering off would only stop the machine, and its disk costs money."""
    python: str | None = None

    def __init__(
        self,
        program: str = PROGRAM,
        ssh_folder: str = SSH_FOLDER,
        retry: RetryPolicy = RETRY_POLICY,
        call: Callable[[str, Sequence[str], float], ProgramAnswer] = call_program,
    ) -> None:
        self._run = call
        self._path = find_program(program, INSTALL)
        self._ssh_folder = Path(ssh_folder).expanduser()
        self._retry = retry

    def offers(self, gpu: str | None, disk_gb: int) -> list[RentalOffer]:
        """Return an offer for each type with one GPU at the enabled clouds, at the region with the lowest price.

        SkyPilot's catalogue says what a cloud sells, not what is free now. Its prices do not include the disk.
        """
        enabled = {
            cloud.casefold()
            for clouds in entry_of(self._read("check", "-o", "json")).values()
            for cloud, abilities in entry_of(clouds).items()
            if isinstance(abilities, list) and "compute" in abilities
        }
        catalogue = entry_of(self._read("gpus", "list", "-o", "json"))
        if not enabled:
            raise ProviderError("sky: no cloud is enabled: run `sky check`, which says how to set one up")
        entries = (entry for listed in catalogue.values() for entry in entries_of(listed))
        found = [
            offer
            for entry in entries
            if text_of(entry.get("cloud")).casefold() in enabled
            for offer in _offers(entry)
        ]
        return list({offer.label: offer for offer in found}.values())

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Hand a launch to SkyPilot's server; see `Provider`. The ID is the name."""
        if (request.image or "").startswith("docker:"):
            raise ProviderError(
                "sky: a container of an image is reached by a proxy, which is not supported: give --image a machine "
                "image, or leave it out"
            )
        with tempfile.TemporaryDirectory() as folder:
            task = Path(folder) / "task.yaml"
            # JSON is YAML.
            task.write_text(json.dumps(_task(offer, request)), "utf-8")
            arguments = ("launch", "--yes", "--async", "--detach-run", "--cluster", request.name, str(task))
            try:
                answer = self._run(self._path, arguments, _LAUNCH_SECONDS)
            except ProviderError as error:
                raise UncertainError(f"sky: {error}") from None
        if answer.code or not re.search(r"^Submitted sky\.launch request: \S", answer.out, re.MULTILINE):
            raise UncertainError(f"sky: {answer.words}")
        return request.name

    def find(self, id: str) -> RentedMachine | None:
        """Return a machine; see `Provider`. One that failed to start stays in SkyPilot's list until it is ended."""
        _check_name(id)
        listed = [
            entry
            for entry in self._entries("status", "-o", "json", id)
            if text_of(entry.get("name")) == id  # SkyPilot takes the name as a pattern.
        ]
        machine = self._machine(listed[0]) if listed else None
        if machine is not None and machine.state == "running":
            return machine
        requests = self._launches("--all-status", "--cluster", id)
        request = max(requests, key=lambda each: number_of(each.get("created_at")) or 0.0, default=None)
        if request is None:
            return machine
        status, number = text_of(request.get("status")), text_of(request.get("request_id"))
        if status in _OVER and _SAFE.fullmatch(number):
            problem = f"SkyPilot's launch is {status}, and `sky api logs {number[:8]}` says why"
            return _starting(id, "failed", problem) if machine is not None or status == "FAILED" else None
        return machine or (_starting(id) if status in _ACTIVE else None)

    def list(self) -> tuple[RentedMachine, ...]:
        """Return our machines, as SkyPilot asked their clouds just now, and the launches that go on; see `Provider`."""
        # The launches first: one that ends between the two calls has become a machine, or none.
        launches = self._launches("--limit", "all")
        found = {name: _starting(name) for each in launches if (name := text_of(each.get("cluster_name")))}
        for entry in self._entries("status", "--refresh", "-o", "json"):
            machine = self._machine(entry)
            if machine is not None:
                found[machine.name] = self._with_end(machine, entry)
        return tuple(found.values())

    def _with_end(self, machine: RentedMachine, entry: Mapping[str, Any]) -> RentedMachine:
        """Switch a machine's end on again, which SkyPilot switches off when it finds the machine in disorder."""
        minutes = number_of(entry.get("autostop"))
        if entry.get("status") != "UP" or (
            minutes is not None and minutes >= 0 and entry.get("to_down") is True
        ):
            return machine
        try:
            self._call("autostop", "--yes", "--idle-minutes", str(MINUTES_AFTER_JOB), "--down", machine.name)
        except ProviderError as error:
            problem = f"it does not end itself, since SkyPilot has switched that off ({error})"
            return replace(machine, state="failed", problem=problem)
        return machine

    def terminate(self, id: str) -> None:
        """Cancel a launch that goes on, and let SkyPilot take the machine down; see `Provider`."""
        _check_name(id)
        active = [text_of(each.get("request_id")) for each in self._launches("--cluster", id)]
        if numbers := [number for number in active if _SAFE.fullmatch(number)]:
            self._call("api", "cancel", "--yes", *numbers)
        # It does nothing, and reports success, where it knows no such machine.
        self._call("down", "--yes", id, seconds=_DOWN_SECONDS)

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _launches(self, *options: str) -> Sequence[dict[str, Any]]:
        """Return requests that launch a machine of ours: those that go on, or all with ``--all-status``."""
        wanted = (*_ACTIVE, *_OVER) if "--all-status" in options else _ACTIVE
        return [
            entry
            for entry in self._entries("api", "status", "-o", "json", *options)
            if entry.get("name") == "sky.launch"
            and text_of(entry.get("status")) in wanted
            and _is_name(entry.get("cluster_name"))
        ]

    def _entries(self, *arguments: str) -> Sequence[dict[str, Any]]:
        """Return the objects of the list that a command prints.

        Raises:
            ProviderError: it prints no list, which must not look like an empty one: machines would be forgotten.
        """
        answer = self._read(*arguments)
        if not isinstance(answer, list):
            raise ProviderError(f"sky: the output of `sky {arguments[0]}` has no list; it may have changed")
        return entries_of(answer)

    def _read(self, *arguments: str) -> Any:
        """Return the JSON that a command prints, with retries."""
        return self._repeat(arguments, _LOOK_SECONDS, _json)

    def _call(self, *arguments: str, seconds: float = _LOOK_SECONDS) -> None:
        """Run a command that may be repeated, with retries."""
        self._repeat(arguments, seconds, lambda answer: None)

    def _repeat(self, arguments: Sequence[str], seconds: float, read: Callable[[ProgramAnswer], Any]) -> Any:
        def call_once() -> Any:
            answer = self._run(self._path, arguments, seconds)
            if answer.code:
                raise _FailedError(answer.words)
            return read(answer)

        try:
            return with_retries(call_once, self._retry, _FailedError)
        except _FailedError as error:
            raise ProviderError(f"sky: {error}") from None

    def _machine(self, entry: Mapping[str, Any]) -> RentedMachine | None:
        """Return a machine of ours; None for any other."""
        name, status = text_of(entry.get("name")), text_of(entry.get("status"))
        if not _is_name(name):
            return None
        state, began = _STATES.get(status, "starting"), number_of(entry.get("launched_at"))
        problem = f"the machine is {status}" if state == "failed" else ""
        ssh = None
        if state == "running":
            ssh, problem = _address(self._ssh_folder / name)
            state = "failed" if problem else state
        return RentedMachine(
            provider=self.name,
            id=name,
            name=name,
            state=state,
            gpu=text_of(entry.get("accelerators")),
            ssh=ssh,
            started=None if not began or began > 1e11 else datetime.fromtimestamp(began, UTC),
            problem=problem,
        )


def _is_name(value: object) -> bool:
    return is_ours(value) and _SAFE.fullmatch(str(value)) is not None


def _check_name(id: str) -> None:
    """Refuse a name that SkyPilot would read as a pattern or an option, since it may match machines of others."""
    if not _is_name(id):
        raise ProviderError(f"sky: {id!r} is not the name of a machine of ours")


def _json(answer: ProgramAnswer) -> Any:
    try:
        return json_in(answer.out)
    except ValueError:
        raise _FailedError(f"an incomplete answer ({answer.words})") from None


def _starting(name: str, state: MachineState = "starting", problem: str = "") -> RentedMachine:
    return RentedMachine(provider=Sky.name, id=name, name=name, state=state, problem=problem)


def _offers(entry: Mapping[str, Any]) -> list[RentalOffer]:
    """Return the offers on demand and as a spot instance of an entry of SkyPilot's catalogue."""
    cloud, region = text_of(entry.get("cloud")).casefold(), text_of(entry.get("region"))
    kind, gpu = text_of(entry.get("instance_type")), text_of(entry.get("accelerator_name"))
    if cloud in _NOT_RENTED or number_of(entry.get("accelerator_count")) != 1:
        return []
    if not all(_SAFE.fullmatch(part) for part in (cloud, gpu)) or not kind:
        return []
    return [
        RentalOffer(
            provider=Sky.name,
            id=f"{cloud}/{kind}/{gpu}",
            gpu=re.sub(r"^RTX(?=\d)", "RTX ", gpu),
            hour=hour,
            kind=sort,
            region=region,
            vcpus=count_of(entry.get("cpu_count")),
            is_on_request=sort == "spot",
        )
        for sort, price in (("on-demand", "price"), ("spot", "spot_price"))
        if (hour := number_of(entry.get(price)))
    ]


def _task(offer: RentalOffer, request: LaunchRequest) -> dict[str, Any]:
    """Return SkyPilot's description of a machine that ends itself.

    Its job lets our key log in, and is the switch: it waits for its time, or for the file of `Sky.end_command`.
    SkyPilot takes a machine down whose job is over, also if the job failed or was never started. The time that the
    machine took to start counts.
    """
    cloud, _, rest = offer.id.partition("/")
    kind, _, gpu = rest.rpartition("/")
    resources: dict[str, Any] = {
        "infra": f"{cloud}/{offer.region}" if offer.region else cloud,
        "instance_type": kind,
        "accelerators": f"{gpu}:1",
        "disk_size": request.disk_gb,
        "use_spot": offer.kind == "spot",
        "autostop": {"idle_minutes": MINUTES_AFTER_JOB, "down": True, "wait_for": "jobs"},
    }
    if request.image is not None:
        resources["image_id"] = request.image
    end = f'"$HOME/{END_FILE}"'
    seconds = max(1, int(request.max_hours * 3600) - 60 * MINUTES_AFTER_JOB)
    ends = end_of(request.name)
    latest = "" if ends is None else str(int(ends.timestamp()) - 60 * MINUTES_AFTER_JOB)
    return {
        "name": request.name,
        "resources": resources,
        # Not as ``setup``: after one that fails, SkyPilot leaves the machine up.
        "run": authorize_key(request.public_key)
        + f"until=$(($(date +%s) + {seconds}))\n"
        + (f"[ $until -lt {latest} ] || until={latest}\n" if latest else "")
        + f"while [ ! -e {end} ] && [ $(date +%s) -lt $until ]; do sleep 5; done\n",
    }


def _address(path: Path) -> tuple[SshAddress | None, str]:
    """Return the address in a configuration of SkyPilot, and why it cannot be used; None if it is not written yet."""
    try:
        lines = path.read_text("utf-8", errors="replace")[: 1 << 16].split("\nHost ")[0:2]
    except OSError:
        return None, ""
    values: dict[str, str] = {}
    for line in "\n".join(lines).splitlines():
        word, _, value = line.strip().partition(" ")
        values.setdefault(word.casefold(), value.strip())
    if "proxycommand" in values or "proxyjump" in values:
        return None, "SkyPilot reaches it by a proxy, which is not supported"
    host, port = values.get("hostname", ""), count_of(values.get("port", "22"))
    user = values.get("user", "")
    if not _HOST.fullmatch(host) or not _SAFE.fullmatch(user) or port is None or port > 65535:
        return None, ""
    return SshAddress(host=host, port=port, user=user), ""
