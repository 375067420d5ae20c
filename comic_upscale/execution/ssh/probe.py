"""Probing a remote machine before anything is sent to it: what it has, and what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.connection import Connection, printable_tail

OLDEST_PYTHON = (3, 11)
TORCH_BYTES = 6 << 30
"""Approximate disk space of PyTorch with CUDA."""

NEEDED_PROGRAMS = ("sha256sum", "awk", "flock", "setsid", "dd", "xargs", "mktemp", "stat")
"""Required programs, which every Debian, Ubuntu or rented image has."""

USUAL_PYTHONS = (
    "python3.13", "python3.12", "python3.11", "python3", "python",
    "/venv/main/bin/python", "/opt/conda/bin/python", "/opt/venv/bin/python", "/usr/bin/python3",
)  # fmt: skip
"""Where rented images usually have the Python with PyTorch."""

_MARK = "comic-upscale-probe"

_PROBE = r"""
say() { printf '%s %s=%s\n' @MARK@ "$1" "$2"; }
base=@BASE@
near=$base
while [ ! -d "$near" ] && [ "$near" != "${near%/*}" ]; do near=${near%/*}; [ -n "$near" ] || near=/; done
[ -d "$near" ] || near=.
say system "$(uname -sm)"
say free_kib "$(df -Pk "$near" | awk 'NR == 2 { print $4 }')"
for program in @PROGRAMS@; do command -v "$program" >/dev/null 2>&1 || say missing "$program"; done
command -v docker >/dev/null 2>&1 &&
    say docker "$(docker version --format '{{.Server.Version}}' 2>/dev/null | head -n 1)"
command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi --query-gpu=name,memory.total,driver_version \
    --format=csv,noheader,nounits 2>/dev/null | while IFS= read -r line; do say gpu "$line"; done
for python in @PYTHONS@; do
    path=$(command -v "$python" 2>/dev/null) || continue
    facts=$("$path" - 2>/dev/null <<'PY'
import importlib.util, runpy, sys
torch = cuda = ""
found = importlib.util.find_spec("torch")
for folder in found.submodule_search_locations or () if found else ():
    try:
        # Its version file alone: importing PyTorch takes a while.
        facts = runpy.run_path(folder + "/version.py")
        torch, cuda = str(facts["__version__"]), facts.get("cuda") or ""
    except Exception:
        pass
ready = bool(importlib.util.find_spec("venv"))
print("%d.%d.%d|%s|%s|%s" % (*sys.version_info[:3], torch, cuda, int(ready)))
PY
    ) || continue
    say python "$path|$facts"
done
exit 0
"""


LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Oldest NVIDIA driver for each version of CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""
TORCH_FOR_CUDA_12 = "https://download.pytorch.org/whl/cu128"
"""PyTorch on PyPI is built for CUDA 13."""


@dataclass(frozen=True, slots=True)
class FoundPython:
    """A Python on the remote machine."""

    path: str
    version: tuple[int, int, int]
    torch: str
    """Version of PyTorch; empty without PyTorch."""
    cuda: str
    """Version of CUDA that this PyTorch is built for; empty without CUDA."""
    can_make_environments: bool

    @property
    def is_new_enough(self) -> bool:
        """Whether comic-upscale supports this version."""
        return self.version >= (*OLDEST_PYTHON, 0)


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A GPU of the remote machine."""

    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What a remote machine has."""

    system: str
    free_bytes: int
    """Free disk space where our folder is or would be."""
    gpus: tuple[FoundGpu, ...]
    pythons: tuple[FoundPython, ...]
    docker: str | None
    """Version of the Docker engine; empty if no engine answers, None without Docker."""
    missing: tuple[str, ...]
    """Required programs that are missing."""

    @property
    def python(self) -> FoundPython | None:
        """The Python to use: new enough, preferably with PyTorch for its GPUs."""
        usable = [python for python in self.pythons if python.is_new_enough and python.can_make_environments]
        return max(
            usable, key=lambda python: (bool(self.gpus and python.cuda), bool(python.torch)), default=None
        )

    @property
    def driver(self) -> int | None:
        """The major version of the oldest driver of its GPUs; None if unknown."""
        majors = (_number(gpu.driver.split(".")[0]) for gpu in self.gpus)
        return min(filter(None, majors), default=None)

    @property
    def torch_index(self) -> str | None:
        """The package index of PyTorch for its driver; None where PyTorch from PyPI works."""
        return None if self.driver is None or self.driver >= LEAST_DRIVER[13] else TORCH_FOR_CUDA_12

    def errors(self) -> list[str]:
        """Return the requirements that the machine does not meet, a sentence each."""
        found = []
        if not self.system.startswith("Linux"):
            found.append(f"it runs {self.system or 'an unknown system'}, but only Linux is supported")
        if self.missing:
            found.append(
                f"it lacks {', '.join(self.missing)}: run apt-get install coreutils findutils util-linux mawk"
            )
        if self.python is None:
            oldest = ".".join(map(str, OLDEST_PYTHON))
            found.append(
                f"it has no Python {oldest} or newer with venv: run apt-get install python3-venv, or "
                f"name a Python with --remote-python{', or a Docker image with --container' if self.docker else ''}"
            )
        elif not self.python.torch and self.free_bytes < TORCH_BYTES:
            found.append(
                f"its disk has {self.free_bytes / 1e9:.1f} GB free, but PyTorch needs {TORCH_BYTES / 1e9:.1f}"
            )
        return found

    def warnings(self) -> list[str]:
        """Return warnings for a machine that meets the requirements, a sentence each."""
        found = []
        if not self.gpus:
            found.append("it has no working NVIDIA GPU: pages would be upscaled on its CPU, slowly")
        python = self.python
        if python is not None and not python.torch:
            found.append(
                "PyTorch will be installed, which takes several GB: an image with PyTorch saves the time"
            )
            if self.driver is not None and self.driver < LEAST_DRIVER[12]:
                found.append(
                    f"its driver is {self.driver}, but PyTorch needs {LEAST_DRIVER[12]} or newer: the GPU would not be "
                    "used. Choose a machine with a newer driver"
                )
        elif python is not None and self.gpus and not python.cuda:
            found.append("its PyTorch is built without CUDA: the GPU would not be used")
        elif python is not None and self.driver is not None:
            least = LEAST_DRIVER.get(_number(python.cuda.split(".")[0]), 0)
            if self.driver < least:
                found.append(
                    f"its PyTorch is for CUDA {python.cuda}, which needs driver {least} or newer, but its driver is "
                    f"{self.driver}: the GPU would not be used. Choose another image, or a machine with a newer driver"
                )
        return found


def probe(connection: Connection, base: str, *, python: str | None = None) -> MachineReport:
    """Probe a machine, without changing anything on it.

    Args:
        connection: to it.
        base: our folder there, absolute or relative to the home folder; it need not exist.
        python: the Python to use, in place of searching for one.

    Raises:
        RemoteError: no shell answers.
    """
    ended = connection.run(probe_script(base, python))
    report = read_report(ended.output.decode(errors="replace"))
    if report is None:
        message = printable_tail(ended.errors or ended.output.decode(errors="replace"))
        raise RemoteError(f"{connection.address.name} could not be probed: {message or 'no message'}")
    return report


def probe_script(base: str, python: str | None = None) -> str:
    """Return a script for ``sh`` that prints the lines for `read_report`; arguments as for `probe`."""
    pythons = [python] if python is not None else USUAL_PYTHONS
    return scripts.fill(
        _PROBE,
        mark=_MARK,
        base=shlex.quote(base),
        programs=" ".join(NEEDED_PROGRAMS),
        pythons=" ".join(map(shlex.quote, pythons)),
    )


def read_report(text: str) -> MachineReport | None:
    """Read the output of the probe script, and skip malformed lines; None if it printed nothing."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(rf"{_MARK} (\w+)=(.*)", line)
        if match is not None and match[2].isprintable():
            values.setdefault(match[1], []).append(match[2].strip())
    if "system" not in values:
        return None
    free = _number(values.get("free_kib", ["0"])[0])
    return MachineReport(
        system=values["system"][0],
        free_bytes=free << 10,
        gpus=tuple(gpu for line in values.get("gpu", ()) if (gpu := _gpu(line)) is not None),
        pythons=_deduplicate(
            python for line in values.get("python", ()) if (python := _python(line)) is not None
        ),
        docker=values["docker"][0] if "docker" in values else None,
        missing=tuple(values.get("missing", ())),
    )


def describe(report: MachineReport) -> list[tuple[str, str]]:
    """Return the report as (label, text) pairs."""
    python = report.python
    lines = [
        ("system", report.system),
        ("disk", f"{report.free_bytes / 1e9:.1f} GB free"),
        *(
            ("GPU", f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB, driver {gpu.driver}")
            for gpu in report.gpus
        ),
    ]
    if not report.gpus:
        lines.append(("GPU", "none"))
    if python is not None:
        torch = (
            f"PyTorch {python.torch}, {f'CUDA {python.cuda}' if python.cuda else 'no CUDA'}"
            if python.torch
            else ""
        )
        version = ".".join(map(str, python.version))
        lines.append(("Python", f"{version} at {python.path}{f', {torch}' if torch else ', no PyTorch'}"))
    lines.append(("Docker", {None: "none", "": "not running"}.get(report.docker, str(report.docker))))
    return lines


def _gpu(line: str) -> FoundGpu | None:
    parts = [part.strip() for part in line.split(",")]
    return FoundGpu(parts[0], _number(parts[1]), parts[2]) if len(parts) == 3 else None


def _python(line: str) -> FoundPython | None:
    parts = line.split("|")
    version = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})", parts[1]) if len(parts) == 5 else None
    if version is None or not parts[0].startswith("/"):
        return None
    numbers = (int(version[1]), int(version[2]), int(version[3]))
    return FoundPython(parts[0], numbers, parts[2], parts[3], parts[4] == "1")


def _deduplicate(pythons: Iterable[FoundPython]) -> tuple[FoundPython, ...]:
    seen: dict[str, FoundPython] = {}
    for python in pythons:
        seen.setdefault(python.path, python)
    return tuple(seen.values())


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,15}", text) else 0
