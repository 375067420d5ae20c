"""A remote machine over SSH: our folder there, what is installed in it, and the run that it keeps going.

::

    BASE/environments/KEY/    Python with this very version of the package
    BASE/weights/KEY/         the network's files
    BASE/images/              what an image is called that came as a file
    BASE/jobs/NAME/           one job: input/, output/ with its ledger, settings.json, run.log, run.pid, run.exit, and
                              python.sh, which is our Python, in an environment or in a container

Every step may be repeated, so a line that breaks is taken up again, and the same command does nothing twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shlex
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from comic_upscale.errors import InputError, RemoteError
from comic_upscale.execution.remote_host import Device, PollResult, RemotePageResult
from comic_upscale.execution.ssh.connection import Connection, Ended, patiently, printable_tail
from comic_upscale.execution.ssh.container import Container, is_image_name, load, pull
from comic_upscale.execution.ssh.listing import is_page_name, read_lines
from comic_upscale.execution.ssh.probe import MachineReport, probe
from comic_upscale.execution.ssh.wheel import build_wheel
from comic_upscale.ledger.records import PROCESSOR
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import sent_names, to_json
from comic_upscale.settings.paths import MARKER_FOLDER, path_text

T = TypeVar("T")

DEFAULT_BASE = "comic-upscale"
"""Our folder on the other machine, below its home folder."""

INSTALL_SECONDS = 1800.0
"""How long installing may say nothing: PyTorch is several GB."""

MOST_NEWS_BYTES = 1 << 28
"""More than any ledger has to tell."""

_ROOM_FOR_TAR = 1 << 20
_HASHED_A_SECOND = 50e6
"""Bytes that the slowest machine hashes in a second: it says nothing meanwhile."""
_PIECE_BYTES = 1 << 18
_TELL_SECONDS = 0.5
"""Between two words on how far a file is."""

# The lock is the kernel's and goes with its processes: the run, or whatever is left of it.
_LAUNCH = r"""
cd "$1" || exit 1
shift
exec 9>run.lock
flock -w 5 9 || exit 0
rm -f run.exit
"$@" </dev/null >>run.log 2>&1 &
child=$!
echo "$child" >run.pid.new && mv run.pid.new run.pid
wait "$child"
echo "$?" >run.exit.new && mv run.exit.new run.exit
"""

_START = r"""
set -e
mkdir -p @JOB@/input @JOB@/output
cd @JOB@
flock -n run.lock true || exit 0
rm -f run.pid run.exit
cat >launch.sh
AS=comic-upscale-${PWD##*/}
export AS
setsid sh launch.sh @JOB@ sh python.sh @ARGUMENTS@ </dev/null >/dev/null 2>&1 &
tries=0
while [ ! -e run.pid ] && [ ! -e run.exit ] && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
"""

# Whether it lives is asked before what it has done: of a run that has ended, the listing is then the last word, and
# tells everything, since a clock that was set back makes new pages look old.
_NEWS = r"""
cd @JOB@ 2>/dev/null || { echo alive=0; echo; exit 0; }
if flock -n run.lock true; then since=0; echo alive=0; else since=@SINCE@; echo alive=1; fi
if [ -f run.exit ]; then echo "exit=$(head -c 8 run.exit)"; fi
echo
if [ -f @LEDGER@ ]; then exec sh python.sh -m comic_upscale remote listing --ledger @LEDGER@ --since "$since"; fi
"""

_PYTHON = """
XDG_STATE_HOME=@BASE@/state XDG_CACHE_HOME=@BASE@/cache
export XDG_STATE_HOME XDG_CACHE_HOME
exec @PYTHON@ "$@"
"""

_STOP = r"""
cd @JOB@ || exit 1
if flock -n run.lock true; then echo idle; exit 0; fi
[ -f run.pid ] && kill -TERM "$(cat run.pid)" 2>/dev/null
if flock -w @SECONDS@ run.lock true; then echo stopped; else echo busy; fi
"""

# What arrives counts only under the hash that it is called by. One process that reads, hashes and writes: unpacking,
# hashing and moving one after the other leave the line waiting for two of the three.
_RECEIVE = r"""
import hashlib, os, sys
try:
    os.makedirs(sys.argv[1] + "/input", exist_ok=True)
    os.chdir(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        name, size = line.decode().split()
        data = sys.stdin.buffer.read(int(size))
        if len(data) != int(size):
            sys.exit("the stream ended within a page")
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            sys.exit("what arrived is not what was sent")
        with open("incoming.part", "wb") as file:
            file.write(data)
        os.replace("incoming.part", "input/" + name)
except OSError as error:
    sys.exit(f"a page could not be written: {error.strerror}")
"""

# A virtual environment of the Python that has PyTorch, which sees that one's packages: only what is missing
# is installed. The second line matters where that Python is itself an environment, as on most rented images.
_INSTALL = r"""
set -e
mkdir -p @ENVIRONMENT@
cd @ENVIRONMENT@
if [ -f .ready ]; then exit 0; fi
@PARENT@ -m venv --system-site-packages --without-pip .
@PARENT@ - >parents.txt <<'PY'
import site, sysconfig
paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
print("\n".join(dict.fromkeys(paths)))
PY
mv parents.txt "$(bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parents.pth"
bin/python -m pip --version >/dev/null 2>&1 || bin/python -m ensurepip >/dev/null
@TORCH@
bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --force-reinstall @WHEEL@ >&2
bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --upgrade-strategy only-if-needed comic-upscale==@VERSION@ >&2
bin/python -m comic_upscale --version
: >.ready
"""


def install_torch(report: MachineReport) -> str:
    """The line that installs PyTorch for a driver that the newest one is too new for; empty where none is wanted."""
    python, index = report.python, report.torch_index
    if python is None or python.torch or index is None:
        return ""
    return (
        "bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore "
        f"--index-url {shlex.quote(index)} torch torchvision >&2"
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """How a line that broke is treated."""

    seconds: float
    """How long it is tried to mend it."""
    wait: Callable[[float], bool]
    """Waits so many seconds; True where nobody wants to wait any longer."""
    on_lost: Callable[[str], None]
    """Is told of each loss, in words."""


class Machine:
    """Another machine, in the terms of our folder there; a `RemoteHost` for jobs.

    Args:
        connect: opens a connection to it.
        patience: with the line.
        base: our folder there, absolute or below the home folder.
        python: the Python to take there, in place of looking for one.
        container: the image whose Python to take, by its name, or a file that ``docker save`` wrote.
        resources: what a run there works with, as JSON by the names of `ResourceSettings`; what is left out is as that
            machine has it.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        patience: Patience,
        *,
        base: str = DEFAULT_BASE,
        python: str | None = None,
        container: str | Path | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._asked_base = base
        self._asked_python = python
        self._asked_container = container
        self._container: Container | None = None
        self._resources = dict(resources or {})
        self._connection: Connection | None = None
        self._base: str | None = None
        self._findings: MachineReport | None = None
        self._job = ""
        self._run_arguments: list[str] = []
        self._since = ""
        self._key = ""
        self._on_sent: Callable[[str, int, int], None] = _nobody

    def close(self) -> None:
        """Hang up; what was started goes on."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # As a remote host

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        """Tell from now on how far weights and images are: name, bytes sent, all bytes."""
        self._on_sent = listener

    def has_accelerator(self) -> bool:
        """Whether it has a card that its Python can use, or will be able to."""
        report = self.report()
        python = report.python
        return bool(report.gpus) and python is not None and (bool(python.cuda) or not python.torch)

    def prepare(self, weights: ResolvedWeights, fingerprint: str, settings: JobSettings) -> Device:
        """Send and install the package and the weights, where they are not there yet.

        Raises:
            RemoteError: the machine lacks something, or the installation failed.
        """
        report = self.report()
        if errors := report.errors():
            raise RemoteError(f"{self.name} cannot do the work: {'; '.join(errors)}")
        self._install(report)
        self.open_job(job_name(fingerprint, settings))
        self._put_python()
        model, folder = self._send_weights(weights)
        self._put_settings({**settings_there(settings), **self._resources, "model": model})
        # Below our folder: a container sees nothing else.
        self._run_arguments = [
            "-m", "comic_upscale", "run", "--input", f"{self._job}/input", "--output", f"{self._job}/output",
            "--settings", f"{self._job}/settings.json", *(["--weights-dir", folder] if folder else []),
        ]  # fmt: skip
        device = ", ".join(gpu.name for gpu in report.gpus) or PROCESSOR
        return Device(f"{self.name}: {device}")

    def open_job(self, name: str) -> None:
        """Mean this job from here on; what comes first makes its folder."""
        self._job = f"{self.base()}/jobs/{name}"

    def list_pages(self) -> frozenset[str]:
        """The names of the pages that are there, whole."""
        return self._patiently(self._held)

    def _held(self, connection: Connection) -> frozenset[str]:
        listed = connection.check(f"ls -1 {shlex.quote(self._job)}/input 2>/dev/null; true")
        return frozenset(name for name in listed.decode(errors="replace").splitlines() if is_page_name(name))

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        """Send pages as one stream; each is there whole, under the hash that it is called by, or not at all.

        Raises:
            RemoteError: what arrived is not what was sent; the disk may be full.
        """
        # Nothing but the standard library, and not even site-packages looked for: it starts at once.
        command = [*self._any_python(), "-I", "-S", "-c", _RECEIVE, self._job]
        broke = False

        def step(connection: Connection) -> None:
            nonlocal broke
            there = self._held(connection) if broke else frozenset()
            broke = True
            left = [page for page in pages if page[0] not in there]
            connection.check(shlex.join(command), feed=_as_stream(left))

        self._patiently(step)

    def delete(self, names: Iterable[str]) -> None:
        """Remove pages and what became of them."""
        doomed = [name for name in names if is_page_name(name)]
        files = [f"input/{name}" for name in doomed]
        files += [f"output/{name}" for name in doomed]
        if files:
            self._check(
                f"cd {shlex.quote(self._job)} && xargs rm -f --",
                feed=lambda: ["\n".join(files).encode() + b"\n"],
            )

    def start(self, *, retry_failed: bool) -> None:
        """Let a run begin that outlives the connection; nothing happens where one goes on."""
        arguments = [*self._run_arguments, *(["--retry-failed"] if retry_failed else [])]
        script = self._filled(_START).replace("@ARGUMENTS@", shlex.join(arguments))
        self._check(script, feed=lambda: [_LAUNCH.encode()])

    def poll(self) -> PollResult:
        """Ask whether the run there lives, and what it has settled since the last time."""
        # From the root on: a container begins in another folder.
        ledger = f"{self._job}/output/{MARKER_FOLDER}/ledger.sqlite3"
        script = (
            self._filled(_NEWS)
            .replace("@LEDGER@", shlex.quote(ledger))
            .replace("@SINCE@", shlex.quote(self._since or "0"))
        )
        ended = self._patiently(lambda connection: _bounded(connection, script, (), MOST_NEWS_BYTES))
        head, _, listing = ended.output.decode(errors="replace").partition("\n\n")
        said = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
        # While it runs, its ledger may not be ready to be read; afterwards nothing would change any more.
        if said.get("alive") != "1" and ended.code not in (0, InputError.exit_code):
            raise RemoteError(
                f"{self.name} cannot tell what became of its pages: {printable_tail(ended.errors) or 'no word'}. What "
                f"is home stays; `rm -r {self._job}` there, and the same command begins anew with the rest"
            )
        pages: list[RemotePageResult] = []
        for page, at in read_lines(listing):
            pages.append(page)
            self._since = max(self._since, at)
        code = said.get("exit", "")
        return PollResult(
            said.get("alive") == "1", int(code) if re.fullmatch(r"\d{1,3}", code) else None, tuple(pages)
        )

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch outputs by their names, each of at most so many bytes; what is not there is left out.

        Raises:
            RemoteError: what comes is no answer to that.
        """
        if not names:
            return
        most = sum(names.values()) + len(names) * 4096 + _ROOM_FOR_TAR
        wanted = "\n".join(names).encode() + b"\n"
        command = f"cd {shlex.quote(self._job)}/output && tar -cf - -T - 2>/dev/null; exit 0"
        ended = self._patiently(lambda connection: _bounded(connection, command, [wanted], most))
        try:
            with tarfile.open(fileobj=io.BytesIO(ended.output), mode="r:") as archive:
                for member in archive:
                    if member.type == tarfile.REGTYPE and member.size <= names.get(member.name, -1):
                        file = archive.extractfile(member)
                        if file is not None:
                            yield member.name, file.read()
        except (tarfile.TarError, ValueError, OSError) as error:
            raise RemoteError(f"{self.name} sent what is no answer: {error}") from error

    def last_error(self) -> str:
        """What the last run there said before it ended."""
        ended = self._patiently(
            lambda connection: connection.run(f"tail -n 5 {shlex.quote(self._job)}/run.log")
        )
        return printable_tail(ended.output.decode(errors="replace")) or "it left no word"

    # For looking after what runs there

    @property
    def name(self) -> str:
        """What the user called it."""
        return "the other machine" if self._connection is None else self._connection.address.name

    def base(self) -> str:
        """Our folder there, absolute; made if it is not there.

        Raises:
            RemoteError: it cannot be made.
        """
        if self._base is None:
            quoted = shlex.quote(self._asked_base)
            text = self._check(f"mkdir -p -- {quoted} && cd -- {quoted} && pwd -P").decode(errors="replace")
            found = text.strip().splitlines()[-1] if text.strip() else ""
            if not found.startswith("/") or not found.isprintable():
                raise RemoteError(f"{self.name} names no folder that could be ours: {found!r}")
            self._base = found
        return self._base

    def report(self) -> MachineReport:
        """What the machine has; looked at once."""
        if self._findings is None:
            outside = None if self._asked_container is not None else self._asked_python
            found = self._patiently(lambda connection: probe(connection, self._asked_base, python=outside))
            if self._asked_container is not None:
                found = self._look_inside(found, self._asked_container)
            self._findings = found
        return self._findings

    def jobs(self) -> list[str]:
        """The names of the jobs there, the one that was worked on last at the end."""
        listed = self._check(
            f"mkdir -p {shlex.quote(self.base())}/jobs && ls -1tr {shlex.quote(self.base())}/jobs"
        )
        names = listed.decode(errors="replace").splitlines()
        return [name for name in names if re.fullmatch(r"[A-Za-z0-9._-]{1,120}", name) and name.strip(".")]

    def choose_job(self, name: str | None) -> str:
        """Take a job by its name, or the one worked on last, for what follows.

        Raises:
            RemoteError: there is none.
        """
        names = self.jobs()
        if not names or (name is not None and name not in names):
            there = f"there: {', '.join(names)}" if names else "there is none"
            raise RemoteError(f"{self.name} has no job{f' {name}' if name else ''}; {there}")
        chosen = name or names[-1]
        self._job = f"{self.base()}/jobs/{chosen}"
        return chosen

    def status(self) -> dict[str, Any]:
        """What ``comic-upscale status --json`` says there of the chosen job.

        Raises:
            RemoteError: the job has not begun.
        """
        job = shlex.quote(self._job)
        script = f"test -f {job}/python.sh && exec sh {job}/python.sh -m comic_upscale status --json --job {job}/output"
        ended = self._patiently(lambda connection: connection.run(script))
        try:
            said = json.loads(ended.output)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or ended.code:
            why = printable_tail(str(said.get("message", ""))) if isinstance(said, dict) else ""
            raise RemoteError(
                f"{self.name} cannot tell: {why or printable_tail(ended.errors) or 'it has not begun'}"
            )
        return said

    def log(self, sink: Callable[[bytes], None], *, lines: int, follow: bool) -> None:
        """Hand on what the runs of the chosen job said; with ``follow``, until the run ends."""
        job = shlex.quote(self._job)
        command = f"cd {job} || exit 1; touch run.log; tail -n {int(lines)} run.log"
        if follow:
            # Until the lock is free: the run is over. `tail` stands alone in the background, to be what is ended.
            command = (
                f"cd {job} || exit 1; touch run.log; tail -n {int(lines)} -f run.log & tail=$!; "
                "flock run.lock true; sleep 1; kill $tail"
            )
        self._patiently(lambda connection: connection.run(command, sink=sink, silence=86400.0))

    def stop(self, seconds: int = 120) -> str:
        """Stop the run of the chosen job as Ctrl-C does, and wait for its end.

        Returns:
            ``stopped``, ``idle`` (none was there), or ``busy`` (it has not ended yet).
        """
        script = self._filled(_STOP).replace("@SECONDS@", str(int(seconds)))
        ended = self._patiently(lambda connection: connection.run(script, silence=seconds + 30.0))
        said = ended.output.decode(errors="replace").strip()
        return said if said in ("stopped", "idle", "busy") else "busy"

    # The line

    def _check(
        self,
        command: str,
        *,
        feed: Callable[[], Iterable[bytes]] = lambda: (),
        silence: float = 60.0,
    ) -> bytes:
        """Run a command that must succeed; again, where the line breaks."""
        return self._patiently(lambda connection: connection.check(command, feed=feed(), silence=silence))

    def _patiently(self, step: Callable[[Connection], T]) -> T:
        def try_once() -> T:
            if self._connection is None:
                self._connection = self._connect()
            try:
                return step(self._connection)
            except RemoteError:
                # It costs a moment to call again, and what is half read must not be read on.
                if self._connection is not None and not self._connection.is_alive():
                    self.close()
                raise

        return patiently(
            try_once,
            seconds=self._patience.seconds,
            wait=self._patience.wait,
            on_lost=self._lost,
        )

    def _lost(self, reason: str) -> None:
        self.close()
        self._patience.on_lost(reason)

    def _filled(self, script: str) -> str:
        return script.replace("@JOB@", shlex.quote(self._job)).replace("@BASE@", shlex.quote(self.base()))

    # Installing

    def _environment(self) -> str:
        return f"{self.base()}/environments/{self._key}"

    def _python(self) -> str:
        return f"{self._environment()}/bin/python"

    def _any_python(self) -> list[str]:
        """A Python there: ours where it is installed, else the one that the user named."""
        return ["sh", f"{self._job}/python.sh"] if self._key else [self._asked_python or "python3"]

    def _put_python(self) -> None:
        """Say in the job's folder how our Python is called, for every later command too."""
        script = (
            self._filled(_PYTHON).replace("@PYTHON@", shlex.quote(self._python()))
            if self._container is None
            else self._container.python_script(self._python())
        )
        self._check(
            f"mkdir -p {shlex.quote(self._job)} && cd {shlex.quote(self._job)} && cat >python.sh.new && "
            "mv python.sh.new python.sh",
            feed=lambda: [script.encode()],
        )

    def _put_settings(self, record: Mapping[str, Any]) -> None:
        """Put the settings of the run there into the job's folder; a run that goes on has read its own."""
        self._check(
            f"cd {shlex.quote(self._job)} && cat >settings.json.new && mv settings.json.new settings.json",
            feed=lambda: [json.dumps(record).encode()],
        )

    def _look_inside(self, host: MachineReport, asked: str | Path) -> MachineReport:
        """Have the image on the machine, and look at what it brings."""
        if not host.docker:
            raise RemoteError(f"{self.name} has no Docker engine that answers: leave --container out")
        image = self._load_image(asked) if isinstance(asked, Path) else asked
        if isinstance(asked, str):
            self._patiently(lambda connection: pull(connection, asked))
        container = Container(image, self.base(), bool(host.gpus))
        self._container = container
        return self._patiently(lambda connection: container.look(connection, host, self._asked_python))

    def _load_image(self, path: Path) -> str:
        """Send an image that is a file here, once; return what it is called there."""
        sha256 = _hash_of(path)
        place = f"{self.base()}/images/{sha256[:16]}"
        said = (
            self._check(f"cat {shlex.quote(place)}.name 2>/dev/null; true").decode(errors="replace").strip()
        )
        if is_image_name(said):
            there = self._patiently(
                lambda connection: connection.run(f"docker image inspect {shlex.quote(said)} >/dev/null 2>&1")
            )
            if there.code == 0:
                return said
        self._put_file(f"{place}.tar", path, sha256)
        image = self._patiently(lambda connection: load(connection, f"{place}.tar"))
        self._check(
            f"cat >{shlex.quote(place)}.name && rm -f {shlex.quote(place)}.tar",
            feed=lambda: [image.encode()],
        )
        return image

    def _install(self, report: MachineReport) -> None:
        from comic_upscale.version import __version__

        wheel = build_wheel()
        python = report.python
        assert python is not None
        image = "" if self._container is None else self._container.image
        self._key = hashlib.sha256(f"{wheel.sha256} {python.path} {image}".encode()).hexdigest()[:16]
        ready = self._patiently(
            lambda connection: connection.run(f"test -f {shlex.quote(self._environment())}/.ready")
        )
        if ready.code == 0:
            return
        place = f"{self._environment()}/{wheel.name}"
        self._put(place, wheel.sha256, len(wheel.data), lambda start: _pieces(wheel.data, start))
        script = (
            _INSTALL.replace("@ENVIRONMENT@", shlex.quote(self._environment()))
            .replace("@PARENT@", shlex.quote(python.path))
            .replace("@WHEEL@", shlex.quote(place))
            .replace("@VERSION@", __version__)
            .replace("@TORCH@", install_torch(report))
        )
        if self._container is not None:
            script = self._container.shell(script)
        try:
            self._check(script, silence=INSTALL_SECONDS)
        except RemoteError as error:
            if type(error) is not RemoteError:
                raise
            raise RemoteError(f"comic-upscale could not be installed: {error}") from error

    def _send_weights(self, weights: ResolvedWeights) -> tuple[str, str | None]:
        """Send the network's files; return the model that a run there names, and the folder that it is in."""
        if weights.model is not None and weights.model.weights.bundled:
            return weights.model_name, None
        folder = f"{self.base()}/weights/{weights.identity[:16]}"
        if weights.model is None:
            place = f"{folder}/model{weights.path.suffix.lower()}"
            self._put_file(place, weights.path, weights.sha256)
            return place, None
        self._put_file(f"{folder}/{weights.model.weights.name}", weights.path, weights.sha256)
        if weights.denoise_path is not None and weights.model.denoise_weights is not None:
            name = weights.model.denoise_weights.name
            self._put_file(f"{folder}/{name}", weights.denoise_path, str(weights.denoise_sha256))
        return weights.model_name, folder

    def _put_file(self, place: str, path: Path, sha256: str) -> None:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        self._put(place, sha256, size, lambda start: _pieces_of_file(path, start))

    def _put(self, place: str, sha256: str, size: int, pieces: Callable[[int], Iterable[bytes]]) -> None:
        """Send one file to its place, unless it is there; what a broken line left of it is not sent again.

        Args:
            place: there.
            sha256: of the whole.
            size: of the whole, bytes.
            pieces: of the rest from a byte on.
        """
        quoted, part = shlex.quote(place), shlex.quote(f"{place}.part")

        def step(connection: Connection) -> None:
            said = connection.check(
                f"mkdir -p {shlex.quote(place.rpartition('/')[0])} && "
                f"if [ -f {quoted} ]; then echo there; else cat {part} 2>/dev/null | wc -c; fi"
            ).decode(errors="replace")
            if said.strip() == "there":
                return
            begun = int(said) if re.fullmatch(r"\s*\d{1,15}\s*", said) else 0
            if begun > size:
                connection.check(f"rm -f {part}")
                begun = 0
            # A line that broke leaves a piece to go on from; a whole file with another hash is of no use.
            connection.check(
                f"cat >>{part}; [ $(wc -c <{part}) -ge {size} ] || {{ echo 'the disk is full' >&2; exit 1; }}; "
                f'if [ "$(sha256sum <{part} | cut -c 1-64)" = {sha256} ]; then mv {part} {quoted}; else rm -f {part}; '
                "echo 'a file did not arrive as it was sent' >&2; exit 1; fi",
                feed=self._told(place.rpartition("/")[2], pieces(begun), begun, size),
                silence=max(60.0, size / _HASHED_A_SECOND),
            )

        self._patiently(step)

    def _told(self, name: str, pieces: Iterable[bytes], begun: int, size: int) -> Iterator[bytes]:
        """Hand pieces on, and tell now and then how far they are."""
        sent, told = begun, time.monotonic()
        for piece in pieces:
            yield piece
            sent += len(piece)
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                self._on_sent(name, sent, size)


def _nobody(name: str, done: int, total: int) -> None:
    """Listen to nothing."""


def settings_there(settings: JobSettings) -> dict[str, Any]:
    """What a run on the other machine is told of a job, as JSON, besides what it works with.

    It has pages and nothing else: no volumes, no sidecars. How it treats gray pages is told even if nobody asked for
    it, since a job of an earlier version goes on as it began.
    """
    told = to_json(settings, sent_names(type(settings), "always"))
    return {**told, "gray": settings.gray_mode, "sidecars": "skip"}


def job_name(fingerprint: str, settings: JobSettings) -> str:
    """What a job is called on other machines: after its output folder, and never like another job."""
    whose = f"{fingerprint} {platform.node()} {path_text(settings.output)}"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.output.name).strip("-")[:40]
    return f"{plain or 'job'}-{hashlib.sha256(whose.encode()).hexdigest()[:12]}"


def _as_stream(pages: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    """Pages as pieces of a stream: a line with name and size before the bytes of each."""
    return _pieces(
        b"".join(part for name, data in pages for part in (f"{name} {len(data)}\n".encode(), data))
    )


def _pieces(data: bytes, begin: int = 0) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(begin, len(view), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def _pieces_of_file(path: Path, begin: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RemoteError:
    return RemoteError(f"{path_text(path)} cannot be read: {error.strerror or error}")


def _hash_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _bounded(connection: Connection, command: str, feed: Iterable[bytes], most: int) -> Ended:
    """Run a command whose output must not be longer than promised."""
    collected = bytearray()

    def take(piece: bytes) -> None:
        collected.extend(piece)
        if len(collected) > most:
            raise RemoteError(f"{connection.address.name} sends more than it said")

    ended = connection.run(command, feed=feed, sink=take)
    return replace(ended, output=bytes(collected))
