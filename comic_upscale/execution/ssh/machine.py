"""A remote machine over SSH: our folder there, the installation in it, and the run.

::

    BASE/environments/KEY/    Python with exactly this version of the package
    BASE/weights/KEY/         the weights
    BASE/images/              names of images that were loaded from a file
    BASE/jobs/NAME/           one job: input/, output/ with its ledger, settings.json, run.log, run.pid, run.exit, and
                              python.sh, which is our Python, in an environment or in a container

Every step may be repeated. So a lost connection can be retried, and the same command does no work twice.
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
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from comic_upscale.errors import ConnectionLostError, InputError, RemoteError
from comic_upscale.execution.remote_host import Device, PollResult, RemotePageResult
from comic_upscale.execution.ssh.connection import Connection, Ended, printable_tail
from comic_upscale.execution.ssh.container import Container, is_image_name, load, pull
from comic_upscale.execution.ssh.listing import is_page_name, read_lines
from comic_upscale.execution.ssh.probe import MachineReport, probe
from comic_upscale.execution.ssh.wheel import build_wheel
from comic_upscale.ledger.records import PROCESSOR
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.retries import RetryPolicy, with_retries
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import sent_names, to_json
from comic_upscale.settings.paths import MARKER_FOLDER, path_text

T = TypeVar("T")

DEFAULT_BASE = "comic-upscale"
"""Our folder on the remote machine, relative to the home folder."""

INSTALL_SECONDS = 1800.0
"""How long an installation may stay silent: PyTorch is several GB."""

MOST_POLL_BYTES = 1 << 28
"""More than the answer to a poll ever needs."""

_ROOM_FOR_TAR = 1 << 20
_HASHED_A_SECOND = 50e6
"""Bytes per second that the slowest machine hashes, during which it sends nothing."""
_PIECE_BYTES = 1 << 18
_PROGRESS_SECONDS = 0.5
"""Seconds between two progress reports of an upload."""

# The kernel holds the lock as long as any process of the run lives.
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

# First check whether the run is alive, then list its pages: for a run that has ended the listing is final. It then
# lists all pages, since a clock that was set back makes new pages look old.
_POLL = r"""
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

# A page is accepted only if its content matches the hash in its name. One process reads, hashes and writes: with three
# separate steps the connection would be idle during two of them.
_RECEIVE = r"""
import hashlib, os, sys
try:
    os.makedirs(sys.argv[1] + "/input", exist_ok=True)
    os.chdir(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        name, size = line.decode().split()
        data = sys.stdin.buffer.read(int(size))
        if len(data) != int(size):
            sys.exit("the stream ended in the middle of a page")
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            sys.exit("a page was damaged on the way")
        with open("incoming.part", "wb") as file:
            file.write(data)
        os.replace("incoming.part", "input/" + name)
except OSError as error:
    sys.exit(f"a page could not be written: {error.strerror}")
"""

# A virtual environment of the Python that has PyTorch, with access to its packages, so only missing packages are
# installed. parents.pth is needed where that Python is itself in an environment, as on most rented images.
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
    """Return the command that installs PyTorch for an older driver; empty where none is needed."""
    python, index = report.python, report.torch_index
    if python is None or python.torch or index is None:
        return ""
    return (
        "bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore "
        f"--index-url {shlex.quote(index)} torch torchvision >&2"
    )


class Machine:
    """A remote machine over SSH, with our folder there; a `RemoteHost` for jobs.

    Args:
        connect: opens a connection to it.
        retry: how a lost connection is retried.
        base: our folder there, absolute or relative to the home folder.
        python: the Python to use there, in place of searching for one.
        container: the image whose Python to use: its name, or a file written by ``docker save``.
        resources: resource settings for the run there, as JSON by the names of `ResourceSettings`; the machine uses
            its own defaults for the rest.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        retry: RetryPolicy,
        *,
        base: str = DEFAULT_BASE,
        python: str | None = None,
        container: str | Path | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        self._connect = connect
        self._retry = retry
        self._given_base = base
        self._given_python = python
        self._given_container = container
        self._container: Container | None = None
        self._resources = dict(resources or {})
        self._connection: Connection | None = None
        self._base: str | None = None
        self._report: MachineReport | None = None
        self._job = ""
        self._run_arguments: list[str] = []
        self._since = ""
        self._key = ""
        self._on_sent: Callable[[str, int, int], None] = _ignore_progress

    def close(self) -> None:
        """Disconnect; a run continues."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # As a remote host

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        """Report the progress of weights and images from now on: name, bytes sent, total bytes."""
        self._on_sent = listener

    def has_accelerator(self) -> bool:
        """Return whether it has a GPU that its Python can use, now or once PyTorch is installed."""
        report = self.report()
        python = report.python
        return bool(report.gpus) and python is not None and (bool(python.cuda) or not python.torch)

    def prepare(self, weights: ResolvedWeights, fingerprint: str, settings: JobSettings) -> Device:
        """Send and install the package and the weights, unless they are there.

        Raises:
            RemoteError: a requirement is missing, or the installation failed.
        """
        report = self.report()
        if errors := report.errors():
            raise RemoteError(f"{self.name} does not meet the requirements: {'; '.join(errors)}")
        self._install(report)
        self.open_job(job_name(fingerprint, settings))
        self._put_python()
        model, folder = self._send_weights(weights)
        self._put_settings({**remote_settings(settings), **self._resources, "model": model})
        # All paths are below our folder: a container sees nothing else.
        self._run_arguments = [
            "-m", "comic_upscale", "run", "--input", f"{self._job}/input", "--output", f"{self._job}/output",
            "--settings", f"{self._job}/settings.json", *(["--weights-dir", folder] if folder else []),
        ]  # fmt: skip
        device = ", ".join(gpu.name for gpu in report.gpus) or PROCESSOR
        return Device(f"{self.name}: {device}")

    def open_job(self, name: str) -> None:
        """Use this job from now on; the first write makes its folder."""
        self._job = f"{self.base()}/jobs/{name}"

    def list_pages(self) -> frozenset[str]:
        """Return the names of the pages that are complete on the machine."""
        return self._with_retries(self._list)

    def _list(self, connection: Connection) -> frozenset[str]:
        listed = connection.check(f"ls -1 {shlex.quote(self._job)}/input 2>/dev/null; true")
        return frozenset(name for name in listed.decode(errors="replace").splitlines() if is_page_name(name))

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        """Send pages as one stream. Each arrives complete, with the hash of its name, or not at all.

        Raises:
            RemoteError: a page was damaged on the way or could not be written; the disk may be full.
        """
        # Only the standard library, without a search for site-packages, so that it starts at once.
        command = [*self._any_python(), "-I", "-S", "-c", _RECEIVE, self._job]
        is_retry = False

        def step(connection: Connection) -> None:
            nonlocal is_retry
            present = self._list(connection) if is_retry else frozenset()
            is_retry = True
            left = [page for page in pages if page[0] not in present]
            connection.check(shlex.join(command), feed=_as_stream(left))

        self._with_retries(step)

    def delete(self, names: Iterable[str]) -> None:
        """Remove pages and their outputs."""
        valid = [name for name in names if is_page_name(name)]
        files = [f"input/{name}" for name in valid]
        files += [f"output/{name}" for name in valid]
        if files:
            self._check(
                f"cd {shlex.quote(self._job)} && xargs rm -f --",
                feed=lambda: ["\n".join(files).encode() + b"\n"],
            )

    def start(self, *, retry_failed: bool) -> None:
        """Start a run that outlives the connection; do nothing if one is active."""
        arguments = [*self._run_arguments, *(["--retry-failed"] if retry_failed else [])]
        script = self._fill(_START).replace("@ARGUMENTS@", shlex.join(arguments))
        self._check(script, feed=lambda: [_LAUNCH.encode()])

    def poll(self) -> PollResult:
        """Ask whether the run is active, and which pages it has settled since the last poll."""
        # An absolute path, since a container starts in another folder.
        ledger = f"{self._job}/output/{MARKER_FOLDER}/ledger.sqlite3"
        script = (
            self._fill(_POLL)
            .replace("@LEDGER@", shlex.quote(ledger))
            .replace("@SINCE@", shlex.quote(self._since or "0"))
        )
        ended = self._with_retries(lambda connection: _bounded(connection, script, (), MOST_POLL_BYTES))
        head, _, listing = ended.output.decode(errors="replace").partition("\n\n")
        answer = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
        # During a run the ledger may not be readable yet; after it, waiting would change nothing.
        if answer.get("alive") != "1" and ended.code not in (0, InputError.exit_code):
            raise RemoteError(
                f"{self.name} cannot list its pages: {printable_tail(ended.errors) or 'no message'}. Downloaded pages "
                f"are safe. Run `rm -r {self._job}` there, then run the same command again for the rest"
            )
        pages: list[RemotePageResult] = []
        for page, at in read_lines(listing):
            pages.append(page)
            self._since = max(self._since, at)
        code = answer.get("exit", "")
        return PollResult(
            answer.get("alive") == "1", int(code) if re.fullmatch(r"\d{1,3}", code) else None, tuple(pages)
        )

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch outputs by name, each of at most the given number of bytes; skip outputs that do not exist.

        Raises:
            RemoteError: the answer is not a valid archive.
        """
        if not names:
            return
        most = sum(names.values()) + len(names) * 4096 + _ROOM_FOR_TAR
        wanted = "\n".join(names).encode() + b"\n"
        command = f"cd {shlex.quote(self._job)}/output && tar -cf - -T - 2>/dev/null; exit 0"
        ended = self._with_retries(lambda connection: _bounded(connection, command, [wanted], most))
        try:
            with tarfile.open(fileobj=io.BytesIO(ended.output), mode="r:") as archive:
                for member in archive:
                    if member.type == tarfile.REGTYPE and member.size <= names.get(member.name, -1):
                        file = archive.extractfile(member)
                        if file is not None:
                            yield member.name, file.read()
        except (tarfile.TarError, ValueError, OSError) as error:
            raise RemoteError(f"{self.name} returned an invalid archive: {error}") from error

    def last_error(self) -> str:
        """Return the last output of the last run."""
        ended = self._with_retries(
            lambda connection: connection.run(f"tail -n 5 {shlex.quote(self._job)}/run.log")
        )
        return printable_tail(ended.output.decode(errors="replace")) or "no output"

    # For the commands that manage jobs on the machine

    @property
    def name(self) -> str:
        """The name that the user gave it."""
        return "the remote machine" if self._connection is None else self._connection.address.name

    def base(self) -> str:
        """Return our folder there, absolute; make it if it does not exist.

        Raises:
            RemoteError: the folder cannot be made.
        """
        if self._base is None:
            quoted = shlex.quote(self._given_base)
            text = self._check(f"mkdir -p -- {quoted} && cd -- {quoted} && pwd -P").decode(errors="replace")
            found = text.strip().splitlines()[-1] if text.strip() else ""
            if not found.startswith("/") or not found.isprintable():
                raise RemoteError(
                    f"{self.name} returned an invalid path for the folder {self._given_base}: {found!r}"
                )
            self._base = found
        return self._base

    def report(self) -> MachineReport:
        """Probe the machine, the first time, and return the report."""
        if self._report is None:
            python = None if self._given_container is not None else self._given_python
            found = self._with_retries(lambda connection: probe(connection, self._given_base, python=python))
            if self._given_container is not None:
                found = self._probe_image(found, self._given_container)
            self._report = found
        return self._report

    def jobs(self) -> list[str]:
        """Return the names of the jobs there, the most recent one last."""
        listed = self._check(
            f"mkdir -p {shlex.quote(self.base())}/jobs && ls -1tr {shlex.quote(self.base())}/jobs"
        )
        names = listed.decode(errors="replace").splitlines()
        return [name for name in names if re.fullmatch(r"[A-Za-z0-9._-]{1,120}", name) and name.strip(".")]

    def choose_job(self, name: str | None) -> str:
        """Use a job from now on, by name or the most recent one, and return its name.

        Raises:
            RemoteError: there is no such job.
        """
        names = self.jobs()
        if not names:
            raise RemoteError(f"{self.name} has no jobs yet")
        if name is not None and name not in names:
            raise RemoteError(f"{self.name} has no job {name}; its jobs are: {', '.join(names)}")
        chosen = name or names[-1]
        self._job = f"{self.base()}/jobs/{chosen}"
        return chosen

    def status(self) -> dict[str, Any]:
        """Return what ``comic-upscale status --json`` prints there for the chosen job.

        Raises:
            RemoteError: the job has not started, or its status cannot be read.
        """
        job = shlex.quote(self._job)
        script = f"test -f {job}/python.sh && exec sh {job}/python.sh -m comic_upscale status --json --job {job}/output"
        ended = self._with_retries(lambda connection: connection.run(script))
        try:
            answer = json.loads(ended.output)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or ended.code:
            why = printable_tail(str(answer.get("message", ""))) if isinstance(answer, dict) else ""
            raise RemoteError(
                f"{self.name} cannot show the status: "
                f"{why or printable_tail(ended.errors) or 'the job has not started'}"
            )
        return answer

    def log(self, sink: Callable[[bytes], None], *, lines: int, follow: bool) -> None:
        """Pass the output of the chosen job's runs to a sink; with ``follow``, until the run ends."""
        job = shlex.quote(self._job)
        command = f"cd {job} || exit 1; touch run.log; tail -n {int(lines)} run.log"
        if follow:
            # A free lock means that the run has ended. `tail` is a background process of its own, so it can be killed.
            command = (
                f"cd {job} || exit 1; touch run.log; tail -n {int(lines)} -f run.log & tail=$!; "
                "flock run.lock true; sleep 1; kill $tail"
            )
        self._with_retries(lambda connection: connection.run(command, sink=sink, silence=86400.0))

    def stop(self, seconds: int = 120) -> str:
        """Stop the run of the chosen job as Ctrl-C does, and wait until it ends.

        Returns:
            ``stopped``, ``idle`` (no run was active), or ``busy`` (it has not ended yet).
        """
        script = self._fill(_STOP).replace("@SECONDS@", str(int(seconds)))
        ended = self._with_retries(lambda connection: connection.run(script, silence=seconds + 30.0))
        state = ended.output.decode(errors="replace").strip()
        return state if state in ("stopped", "idle", "busy") else "busy"

    # The connection

    def _check(
        self,
        command: str,
        *,
        feed: Callable[[], Iterable[bytes]] = lambda: (),
        silence: float = 60.0,
    ) -> bytes:
        """Run a command that must succeed; retry it after a lost connection."""
        return self._with_retries(lambda connection: connection.check(command, feed=feed(), silence=silence))

    def _with_retries(self, step: Callable[[Connection], T]) -> T:
        def try_once() -> T:
            if self._connection is None:
                self._connection = self._connect()
            try:
                return step(self._connection)
            except RemoteError:
                # Reconnecting takes a moment; a half-read answer must not be read further.
                if self._connection is not None and not self._connection.is_alive():
                    self.close()
                raise

        return with_retries(try_once, replace(self._retry, on_failure=self._on_lost), ConnectionLostError)

    def _on_lost(self, reason: str) -> None:
        self.close()
        self._retry.on_failure(reason)

    def _fill(self, script: str) -> str:
        return script.replace("@JOB@", shlex.quote(self._job)).replace("@BASE@", shlex.quote(self.base()))

    # Installing

    def _environment(self) -> str:
        return f"{self.base()}/environments/{self._key}"

    def _python(self) -> str:
        return f"{self._environment()}/bin/python"

    def _any_python(self) -> list[str]:
        """Return the command of a Python there: ours if it is installed, else the one that the user named."""
        return ["sh", f"{self._job}/python.sh"] if self._key else [self._given_python or "python3"]

    def _put_python(self) -> None:
        """Write the script that starts our Python into the folder of the job, for later commands too."""
        script = (
            self._fill(_PYTHON).replace("@PYTHON@", shlex.quote(self._python()))
            if self._container is None
            else self._container.python_script(self._python())
        )
        self._check(
            f"mkdir -p {shlex.quote(self._job)} && cd {shlex.quote(self._job)} && cat >python.sh.new && "
            "mv python.sh.new python.sh",
            feed=lambda: [script.encode()],
        )

    def _put_settings(self, record: Mapping[str, Any]) -> None:
        """Write the settings of the run into the folder of the job; an active run has already read its own."""
        self._check(
            f"cd {shlex.quote(self._job)} && cat >settings.json.new && mv settings.json.new settings.json",
            feed=lambda: [json.dumps(record).encode()],
        )

    def _probe_image(self, host: MachineReport, given: str | Path) -> MachineReport:
        """Load or pull the image, and probe its Python."""
        if not host.docker:
            raise RemoteError(f"{self.name} has no Docker engine that answers: omit --container")
        image = self._load_image(given) if isinstance(given, Path) else given
        if isinstance(given, str):
            self._with_retries(lambda connection: pull(connection, given))
        container = Container(image, self.base(), bool(host.gpus))
        self._container = container
        return self._with_retries(lambda connection: container.probe(connection, host, self._given_python))

    def _load_image(self, path: Path) -> str:
        """Send an image from a local file, once, and return its name there."""
        sha256 = _hash_of(path)
        place = f"{self.base()}/images/{sha256[:16]}"
        name = (
            self._check(f"cat {shlex.quote(place)}.name 2>/dev/null; true").decode(errors="replace").strip()
        )
        if is_image_name(name):
            found = self._with_retries(
                lambda connection: connection.run(f"docker image inspect {shlex.quote(name)} >/dev/null 2>&1")
            )
            if found.code == 0:
                return name
        self._put_file(f"{place}.tar", path, sha256)
        image = self._with_retries(lambda connection: load(connection, f"{place}.tar"))
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
        ready = self._with_retries(
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
        """Send the weights; return the model name for the remote run, and the folder of the weights."""
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
        """Send one file, unless it is there. An upload that was cut off is resumed.

        Args:
            place: path on the machine.
            sha256: of the file.
            size: of the file, bytes.
            pieces: returns the content from a given byte on.
        """
        quoted, part = shlex.quote(place), shlex.quote(f"{place}.part")

        def step(connection: Connection) -> None:
            answer = connection.check(
                f"mkdir -p {shlex.quote(place.rpartition('/')[0])} && "
                f"if [ -f {quoted} ]; then echo there; else cat {part} 2>/dev/null | wc -c; fi"
            ).decode(errors="replace")
            if answer.strip() == "there":
                return
            begun = int(answer) if re.fullmatch(r"\s*\d{1,15}\s*", answer) else 0
            if begun > size:
                connection.check(f"rm -f {part}")
                begun = 0
            # A lost connection leaves a part to resume from; a complete file with a wrong hash is deleted.
            connection.check(
                f"cat >>{part}; [ $(wc -c <{part}) -ge {size} ] || {{ echo 'the disk is full' >&2; exit 1; }}; "
                f'if [ "$(sha256sum <{part} | cut -c 1-64)" = {sha256} ]; then mv {part} {quoted}; else rm -f {part}; '
                "echo 'a file was damaged on the way' >&2; exit 1; fi",
                feed=self._report_progress(place.rpartition("/")[2], pieces(begun), begun, size),
                silence=max(60.0, size / _HASHED_A_SECOND),
            )

        self._with_retries(step)

    def _report_progress(self, name: str, pieces: Iterable[bytes], begun: int, size: int) -> Iterator[bytes]:
        """Yield the pieces, and report the progress now and then."""
        sent, reported_at = begun, time.monotonic()
        for piece in pieces:
            yield piece
            sent += len(piece)
            if time.monotonic() - reported_at >= _PROGRESS_SECONDS:
                reported_at = time.monotonic()
                self._on_sent(name, sent, size)


def _ignore_progress(name: str, done: int, total: int) -> None:
    """Do nothing with the progress of an upload."""


def remote_settings(settings: JobSettings) -> dict[str, Any]:
    """Return the settings of a job for the remote run, as JSON, without the resource settings.

    The remote job has pages only: no volumes, no sidecars. Its gray mode is always sent, since a job of an earlier
    version keeps its own default.
    """
    sent = to_json(settings, sent_names(type(settings), "always"))
    return {**sent, "gray": settings.gray_mode, "sidecars": "skip"}


def job_name(fingerprint: str, settings: JobSettings) -> str:
    """Return the name of a job on a remote machine: unique, and based on its output folder."""
    identity = f"{fingerprint} {platform.node()} {path_text(settings.output)}"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.output.name).strip("-")[:40]
    return f"{plain or 'job'}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _as_stream(pages: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    """Return pages as pieces of a stream: for each a line with name and size, then its bytes."""
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
    """Run a command whose output is limited to a number of bytes."""
    collected = bytearray()

    def take(piece: bytes) -> None:
        collected.extend(piece)
        if len(collected) > most:
            raise RemoteError(f"{connection.address.name} sent more data than expected")

    ended = connection.run(command, feed=feed, sink=take)
    return replace(ended, output=bytes(collected))
