"""Looking at another machine before anything is sent there: what fits, and what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh.connection import Connection, printable_tail

OLDEST_PYTHON = (3, 11)
TORCH_BYTES = 6 << 30
"""About what PyTorch with CUDA takes on a disk."""

NEEDED_PROGRAMS = ("tar", "sha256sum", "awk", "flock", "setsid")
"""What every Debian, Ubuntu or rented image has; without one of them nothing can be sent or started."""

USUAL_PYTHONS = (
    "python3.13", "python3.12", "python3.11", "python3", "python",
    "/venv/main/bin/python", "/opt/conda/bin/python", "/opt/venv/bin/python", "/usr/bin/python3",
)  # fmt: skip
"""Where rented images keep the Python that has PyTorch."""

_MARK = "comic-upscale-probe"

# Each line begins with a mark, since a login may print a greeting of its own.
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
        # Its own file of versions: importing all of PyTorch takes a while.
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
"""NVIDIA's oldest driver for each CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""
TORCH_FOR_CUDA_12 = "https://download.pytorch.org/whl/cu128"
"""The PyTorch of PyPI is for CUDA 13."""


@dataclass(frozen=True, slots=True)
class FoundPython:
    """A Python of the other machine."""

    path: str
    version: tuple[int, int, int]
    torch: str
    """Version of PyTorch; empty where it has none."""
    cuda: str
    """Version of CUDA that this PyTorch is for; empty for none."""
    can_make_environments: bool

    @property
    def is_new_enough(self) -> bool:
        """Whether comic-upscale runs on it."""
        return self.version >= (*OLDEST_PYTHON, 0)


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A graphics card of the other machine."""

    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What another machine has."""

    system: str
    free_bytes: int
    """Where the work would be put."""
    gpus: tuple[FoundGpu, ...]
    pythons: tuple[FoundPython, ...]
    docker: str | None
    """Version of the engine that answers; empty where none answers, None without Docker."""
    missing: tuple[str, ...]
    """Programs that are needed."""

    @property
    def python(self) -> FoundPython | None:
        """The Python to take: new enough, and one with PyTorch for the card before one without."""
        fitting = [python for python in self.pythons if python.is_new_enough and python.can_make_environments]
        wanted = max(
            fitting, key=lambda python: (bool(self.gpus and python.cuda), bool(python.torch)), default=None
        )
        return wanted

    @property
    def driver(self) -> int | None:
        """The major version of the oldest driver of its cards; None where there is none, or it tells none."""
        majors = (_number(gpu.driver.split(".")[0]) for gpu in self.gpus)
        return min(filter(None, majors), default=None)

    @property
    def torch_index(self) -> str | None:
        """Where PyTorch for the cards' driver is to be had, where the newest one of PyPI would not see them."""
        return None if self.driver is None or self.driver >= LEAST_DRIVER[13] else TORCH_FOR_CUDA_12

    def errors(self) -> list[str]:
        """What keeps the machine from doing the work, a sentence each; empty where nothing does."""
        found = []
        if not self.system.startswith("Linux"):
            found.append(f"it runs {self.system or 'an unknown system'}: only Linux is known to work")
        if self.missing:
            found.append(f"it lacks {', '.join(self.missing)}: apt-get install tar coreutils util-linux mawk")
        if self.python is None:
            oldest = ".".join(map(str, OLDEST_PYTHON))
            found.append(
                f"it has no Python {oldest} or newer that can make environments: apt-get install python3-venv, or "
                f"name one with --remote-python{', or an image for its Docker with --container' if self.docker else ''}"
            )
        elif not self.python.torch and self.free_bytes < TORCH_BYTES:
            found.append(
                f"its disk has {self.free_bytes / 1e9:.1f} GB free, and PyTorch needs {TORCH_BYTES / 1e9:.1f}"
            )
        return found

    def warnings(self) -> list[str]:
        """What the user should know all the same, a sentence each."""
        found = []
        if not self.gpus:
            found.append("no NVIDIA card answers: the work would be done on its processor, slowly")
        python = self.python
        if python is not None and not python.torch:
            found.append("PyTorch will be installed there, several GB: an image that has it saves the time")
            if self.driver is not None and self.driver < LEAST_DRIVER[12]:
                found.append(
                    f"its driver is {self.driver}, and today's PyTorch wants {LEAST_DRIVER[12]} or newer: the card "
                    "would lie idle. Choose a machine with a newer driver"
                )
        elif python is not None and self.gpus and not python.cuda:
            found.append("its PyTorch is built without CUDA: the card would lie idle")
        elif python is not None and self.driver is not None:
            least = LEAST_DRIVER.get(_number(python.cuda.split(".")[0]), 0)
            if self.driver < least:
                found.append(
                    f"its PyTorch is for CUDA {python.cuda}, which wants a driver of {least} or newer, and it has "
                    f"{self.driver}: the card would lie idle. Choose another image, or a machine with a newer driver"
                )
        return found


def probe(connection: Connection, base: str, *, python: str | None = None) -> MachineReport:
    """Look at a machine; nothing is changed there.

    Args:
        connection: to it.
        base: the folder that the work would be in, absolute or below the home folder.
        python: the one to take, in place of looking for one.

    Raises:
        RemoteError: it has no shell that answers.
    """
    ended = connection.run("sh -s", feed=[probe_script(base, python).encode()])
    report = read_report(ended.output.decode(errors="replace"))
    if report is None:
        said = printable_tail(ended.errors or ended.output.decode(errors="replace"))
        raise RemoteError(f"{connection.address.name} has no shell that answers: {said or 'it said nothing'}")
    return report


def probe_script(base: str, python: str | None = None) -> str:
    """A script for ``sh`` that says what there is, in lines for `read_report`; arguments as for `probe`."""
    pythons = [python] if python is not None else USUAL_PYTHONS
    return (
        _PROBE.replace("@MARK@", _MARK)
        .replace("@BASE@", shlex.quote(base))
        .replace("@PROGRAMS@", " ".join(NEEDED_PROGRAMS))
        .replace("@PYTHONS@", " ".join(map(shlex.quote, pythons)))
    )


def read_report(text: str) -> MachineReport | None:
    """Read what the probe printed; None where it printed nothing. What is malformed is left out."""
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(rf"{_MARK} (\w+)=(.*)", line)
        if match is not None and match[2].isprintable():
            said.setdefault(match[1], []).append(match[2].strip())
    if "system" not in said:
        return None
    free = _number(said.get("free_kib", ["0"])[0])
    return MachineReport(
        system=said["system"][0],
        free_bytes=free << 10,
        gpus=tuple(gpu for line in said.get("gpu", ()) if (gpu := _gpu(line)) is not None),
        pythons=_different(
            python for line in said.get("python", ()) if (python := _python(line)) is not None
        ),
        docker=said["docker"][0] if "docker" in said else None,
        missing=tuple(said.get("missing", ())),
    )


def describe(report: MachineReport) -> list[tuple[str, str]]:
    """The report for a person, as (label, text)."""
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
    lines.append(("Docker", {None: "none", "": "no engine answers"}.get(report.docker, str(report.docker))))
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


def _different(pythons: Iterable[FoundPython]) -> tuple[FoundPython, ...]:
    seen: dict[str, FoundPython] = {}
    for python in pythons:
        seen.setdefault(python.path, python)
    return tuple(seen.values())


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,15}", text) else 0
