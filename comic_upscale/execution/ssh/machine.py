"""A remote machine over SSH: our folder there, the installation in it, and the run.

::

    BASE/environments/KEY/    Python with exactly this version of the package
    BASE/weights/KEY/         the weights
    BASE/images/              names of images that were loaded from a file
    BASE/jobs/NAME/           one job: input/, output/ with its ledger, settings.json, run.log, run.pid, run.exit,
                              used_by.COMMAND, and python.sh, which is our Python, in an environment or in a container

Every step may be repeated. So a lost connection can be retried, and the same command does no work twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from comic_upscale.errors import InputError, RemoteError
from comic_upscale.execution.remote_host import Device, PollResult, RemotePageResult
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.connection import Connection, printable_tail
from comic_upscale.execution.ssh.container import Container, pull
from comic_upscale.execution.ssh.install import Package, install, load_image, send_weights
from comic_upscale.execution.ssh.link import Link
from comic_upscale.execution.ssh.listing import is_page_name, read_lines, read_pages
from comic_upscale.execution.ssh.probe import MachineReport, probe
from comic_upscale.execution.ssh.upload import Uploader, as_stream
from comic_upscale.ledger.records import PROCESSOR
from comic_upscale.library.page_rules import by_path_marks, with_models
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.retries import RetryPolicy
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import to_json
from comic_upscale.settings.options import sent_names
from comic_upscale.settings.paths import MARKER_FOLDER, path_text

DEFAULT_BASE = "comic-upscale"
"""Our folder on the remote machine, relative to the home folder."""

MOST_POLL_BYTES = 1 << 26
"""More than the answer to a poll needs: 64 MiB are some hundred thousand pages."""

MOST_LOG_BYTES = 1 << 24
"""The most bytes of the log of a run, without ``--follow``."""

FOLLOW_SECONDS = 86400.0
"""How long the log of a run may stay silent, with ``--follow``."""

_JOB_DIGITS = 12
_LONGEST_HEAD_LINE, _MOST_HEAD_LINES = 200, 8


class Machine:
    """A remote machine over SSH, with our folder there; a `RemoteHost` for jobs.

    Args:
        connect: returns a connection to it, which is not open yet.
        retry: how a lost connection is retried.
        base: our folder there, absolute or relative to the home folder.
        python: the Python to use there, in place of searching for one.
        container: the image whose Python to use: its name, or a file written by ``docker save``.
        resources: resource settings for the run there, as JSON by the names of `ResourceSettings`; the machine uses
            its own defaults for the rest.
        may_be_starting: whether the first connection is retried, too, if nothing answers at the address.
        command: the same for all machines of one command, which must not share a folder.
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
        may_be_starting: bool = True,
        command: str = "",
    ) -> None:
        self._link = Link(connect, retry, may_be_starting=may_be_starting)
        self._uploader = Uploader(self._link)
        self._given_base = base
        self._given_python = python
        self._given_container = container
        self._container: Container | None = None
        self._resources = dict(resources or {})
        self._base: str | None = None
        self._report: MachineReport | None = None
        self._job = ""
        self._run_arguments: list[str] = []
        self._since = ""
        self._key = ""
        self._token = secrets.token_hex(8)
        self._command = command or self._token

    def connect(self) -> None:
        """Connect and log in, unless there is a connection; this runs no command."""
        self._link.connect()

    def close(self) -> None:
        """Disconnect; a run continues."""
        self._link.close()

    # As a remote host

    def private_names(self) -> tuple[str, ...]:
        """Return the names and addresses of the machine, which belong in no record; the longest first."""
        return self._link.private_names()

    def abort(self) -> None:
        """Break off the call in progress, from any thread, and refuse others until `recover`."""
        self._link.abort()

    def recover(self) -> None:
        """Accept calls again after `abort`."""
        self._link.recover()

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        """Report the progress of weights and images from now on: name, bytes sent, total bytes."""
        self._uploader.on_sent = listener

    def has_accelerator(self) -> bool:
        """Return whether it has a GPU that its Python can use, now or once PyTorch is installed."""
        report = self.report()
        python = report.python
        return bool(report.gpus) and python is not None and (bool(python.cuda) or not python.torch)

    def prepare(
        self,
        weights: ResolvedWeights,
        fingerprint: str,
        settings: JobSettings,
        of_rules: Sequence[tuple[str, ResolvedWeights]] = (),
    ) -> Device:
        """Send and install the package and the weights, unless they are there.

        Raises:
            RemoteError: a requirement is missing, or the installation failed.
        """
        report = self.report()
        if errors := report.errors():
            raise RemoteError(f"{self.name} does not meet the requirements: {'; '.join(errors)}")
        self._install(report)
        self.open_job(self._find_job(fingerprint, settings))
        self._claim_job()
        self._put_python()
        model, folder = send_weights(self._uploader, self.base(), weights)
        folders, names = {folder}, dict[str, str]()
        for name, each in of_rules:
            names[name], folder = send_weights(self._uploader, self.base(), each)
            folders.add(folder)
        there = remote_settings(by_path_marks(with_models(settings, names)))
        self._put_settings({**there, **self._resources, "model": model})
        named = [part for folder in sorted(filter(None, folders)) for part in ("--weights-dir", folder)]
        # All paths are below our folder: a container sees nothing else.
        self._run_arguments = [
            "-m", "comic_upscale", "run", "--input", f"{self._job}/input", "--output", f"{self._job}/output",
            "--settings", f"{self._job}/settings.json", *named,
        ]  # fmt: skip
        # For the ledger, in which the name of the machine is nobody's business.
        device = ", ".join(gpu.name for gpu in report.gpus) or PROCESSOR
        return Device(f"remote: {device}")

    def open_job(self, name: str) -> None:
        """Use this job from now on; the first write makes its folder."""
        self._job = f"{self.base()}/jobs/{name}"

    def _find_job(self, fingerprint: str, settings: JobSettings) -> str:
        """Return the name of a job, which an earlier version may have begun under the name of its output folder."""
        name = job_name(fingerprint, settings)
        end = name[-_JOB_DIGITS - 1 :]
        return next((job for job in self.jobs() if job.endswith(end)), name)

    def list_pages(self) -> frozenset[str]:
        """Return the names of the pages that are complete on the machine."""
        return self._link.call(self._list)

    def _list(self, connection: Connection) -> frozenset[str]:
        ended = connection.run(f"ls -1 {shlex.quote(self._job)}/input 2>/dev/null", most=MOST_POLL_BYTES)
        lines = io.BytesIO(ended.output)
        names = (line.rstrip(b"\n").decode(errors="replace") for line in lines)
        return frozenset(name for name in names if is_page_name(name))

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        """Send pages as one stream. Each arrives complete, with the hash of its name, or not at all.

        Raises:
            RemoteError: a page was damaged on the way or could not be written; the disk may be full.
        """
        is_retry = False

        def step(connection: Connection) -> None:
            nonlocal is_retry
            present = self._list(connection) if is_retry else frozenset()
            is_retry = True
            left = [page for page in pages if page[0] not in present]
            connection.check(self._transfer(scripts.RECEIVE), feed=as_stream(left))

        self._link.call(step)

    def delete(self, names: Iterable[str]) -> None:
        """Remove pages and their outputs."""
        valid = [name for name in names if is_page_name(name)]
        files = [f"input/{name}" for name in valid]
        files += [f"output/{name}" for name in valid]
        if files:
            self._link.check(
                f"cd {shlex.quote(self._job)} && xargs rm -f --",
                feed=lambda: ["\n".join(files).encode() + b"\n"],
            )

    def start(self, *, retry_failed: bool) -> None:
        """Start a run that outlives the connection; do nothing if one is active."""
        arguments = [*self._run_arguments, *(["--retry-failed"] if retry_failed else [])]
        script = self._fill(scripts.START, arguments=shlex.join(arguments))
        self._link.check(script, feed=lambda: [scripts.LAUNCH.encode()])

    def poll(self) -> PollResult:
        """Ask whether the run is active, and which pages it has settled since the last poll."""
        # An absolute path, since a container starts in another folder.
        ledger = f"{self._job}/output/{MARKER_FOLDER}/ledger.sqlite3"
        script = self._fill(scripts.POLL, ledger=shlex.quote(ledger), since=shlex.quote(self._since or "0"))
        ended = self._link.call(lambda connection: connection.run(script, most=MOST_POLL_BYTES))
        lines = io.BytesIO(ended.output)
        answer = _read_head(lines)
        # During a run the ledger may not be readable yet; after it, waiting would change nothing.
        if answer.get("alive") != "1" and ended.code not in (0, InputError.exit_code):
            raise RemoteError(
                f"{self.name} cannot list its pages: {printable_tail(ended.errors) or 'no message'}. Downloaded pages "
                f"are safe. Run `rm -r {self._job}` there, then run the same command again for the rest"
            )
        pages: list[RemotePageResult] = []
        for page, at in read_lines(lines):
            pages.append(page)
            self._since = max(self._since, at)
        code = answer.get("exit", "")
        return PollResult(
            answer.get("alive") == "1", int(code) if re.fullmatch(r"\d{1,3}", code) else None, tuple(pages)
        )

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch outputs by name, each of at most the given number of bytes; skip outputs that do not exist.

        Raises:
            RemoteError: the answer is not what was asked for.
        """
        if not names:
            return
        most = sum(names.values()) + len(names) * 256
        wanted = "".join(f"{name} {size}\n" for name, size in names.items()).encode()
        script = self._transfer(scripts.SEND)
        ended = self._link.call(lambda connection: connection.run(script, feed=[wanted], most=most))
        if ended.code:
            raise RemoteError(
                f"{self.name} cannot send its pages: {printable_tail(ended.errors) or 'no message'}"
            )
        try:
            yield from read_pages(ended.output, names)
        except ValueError as error:
            raise RemoteError(f"{self.name} sent something other than the pages: {error}") from error

    def last_error(self) -> str:
        """Return the last output of the last run."""
        ended = self._link.run(f"tail -n 5 {shlex.quote(self._job)}/run.log | tail -c 8192")
        return printable_tail(ended.output.decode(errors="replace")) or "no output"

    # For the commands that manage jobs on the machine

    @property
    def name(self) -> str:
        """The name that the user gave it."""
        return self._link.name

    def base(self) -> str:
        """Return our folder there, absolute; make it if it does not exist.

        Raises:
            RemoteError: the folder cannot be made, or belongs to somebody else.
        """
        if self._base is None:
            script = scripts.fill(scripts.BASE, folder=shlex.quote(self._given_base))
            text = self._link.check(script).decode(errors="replace")
            found = text.removesuffix("\n")
            if not found.startswith("/") or not found.isprintable():
                raise RemoteError(
                    f"{self.name} returned an invalid path for the folder {self._given_base}: {found[:200]!r}"
                )
            self._base = found
        return self._base

    def report(self) -> MachineReport:
        """Probe the machine, the first time, and return the report."""
        if self._report is None:
            python = None if self._given_container is not None else self._given_python
            found = self._link.call(lambda connection: probe(connection, self._given_base, python=python))
            if self._given_container is not None:
                found = self._probe_image(found, self._given_container)
            self._report = found
        return self._report

    def rehearse(self) -> None:
        """Try what a job does, in a folder that is removed again: a page in both directions, and a virtual environment.

        Raises:
            RemoteError: the machine cannot do it.
        """
        python = self.report().python
        assert python is not None
        data = secrets.token_bytes(1 << 17)
        name = f"{hashlib.sha256(data).hexdigest()}.png"
        script = scripts.fill(
            scripts.TRIAL,
            folder=shlex.quote(self._given_base),
            python=shlex.quote(python.path),
            receive=shlex.quote(scripts.RECEIVE),
            send=shlex.quote(scripts.SEND),
            size=str(len(data)),
        )
        output = self._link.check(script, feed=lambda: as_stream([(name, data)]))
        try:
            came_back = dict(read_pages(output, {name: len(data)}))
        except ValueError:
            came_back = {}
        if came_back != {name: data}:
            raise RemoteError(f"{self.name} does not return a page as it was sent")

    def jobs(self) -> list[str]:
        """Return the names of the jobs there, the most recent one last."""
        listed = self._link.check(
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
        self.open_job(chosen)
        return chosen

    def status(self) -> dict[str, Any]:
        """Return what ``comic-upscale status --json`` prints there for the chosen job.

        Raises:
            RemoteError: the job has not started, or its status cannot be read.
        """
        job = shlex.quote(self._job)
        script = f"test -f {job}/python.sh && exec sh {job}/python.sh -m comic_upscale status --json --job {job}/output"
        ended = self._link.run(script)
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
            self._link.call(lambda connection: connection.run(command, sink=sink, seconds=FOLLOW_SECONDS))
        else:
            # Collected first, so that a lost connection does not show lines twice.
            sink(self._link.call(lambda connection: connection.run(command, most=MOST_LOG_BYTES)).output)

    def stop(self, seconds: int = 120) -> str:
        """Stop the run of the chosen job as Ctrl-C does, and wait until it ends.

        Returns:
            ``stopped``, ``idle`` (no run was active), or ``busy`` (it has not ended yet).
        """
        if not self._job:
            return "idle"
        script = self._fill(scripts.STOP, seconds=str(int(seconds)))
        ended = self._link.run(script, seconds=seconds + 30.0)
        state = ended.output.decode(errors="replace").strip()
        return state if state in ("stopped", "idle", "busy") else "busy"

    # Installing

    def _fill(self, script: str, **values: str) -> str:
        return scripts.fill(script, job=shlex.quote(self._job), base=shlex.quote(self.base()), **values)

    def _environment(self) -> str:
        return f"{self.base()}/environments/{self._key}"

    def _python(self) -> str:
        return f"{self._environment()}/bin/python"

    def _transfer(self, script: str) -> str:
        """Return the command that runs a Python script for transfers, with ours if it is installed.

        The script needs only the standard library. Without a search for site-packages it starts at once.
        """
        python = ["sh", f"{self._job}/python.sh"] if self._key else [self._given_python or "python3"]
        return shlex.join([*python, "-I", "-S", "-c", script, self._job])

    def _claim_job(self) -> None:
        """Make the folder of the job.

        Raises:
            RemoteError: another machine in this run is already using it.
        """
        used_by = self._link.check(self._fill(scripts.CLAIM, command=self._command, token=self._token))
        if used_by.decode(errors="replace").strip() != self._token:
            raise RemoteError(
                f"{self.name} shares the folder {self.base()} with another machine of this run. If they are the same "
                "machine, name it once; if they share a disk, choose a --remote-dir on a local disk"
            )

    def _put_python(self) -> None:
        """Write the script that starts our Python into the folder of the job, for later commands too."""
        script = (
            self._fill(scripts.PYTHON, python=shlex.quote(self._python()))
            if self._container is None
            else self._container.python_script(self._python())
        )
        self._link.check(
            f"cd {shlex.quote(self._job)} && cat >python.sh.new && mv python.sh.new python.sh",
            feed=lambda: [script.encode()],
        )

    def _put_settings(self, record: Mapping[str, Any]) -> None:
        """Write the settings of the run into the folder of the job; an active run has already read its own."""
        self._link.check(
            f"cd {shlex.quote(self._job)} && cat >settings.json.new && mv settings.json.new settings.json",
            feed=lambda: [json.dumps(record).encode()],
        )

    def _probe_image(self, host: MachineReport, given: str | Path) -> MachineReport:
        """Load or pull the image, and probe its Python."""
        if not host.docker:
            raise RemoteError(f"{self.name} has no Docker engine that answers: omit --container")
        image = (
            load_image(self._link, self._uploader, f"{self.base()}/images", given)
            if isinstance(given, Path)
            else given
        )
        if isinstance(given, str):
            self._link.call(lambda connection: pull(connection, given))
        container = Container(image, self.base(), bool(host.gpus))
        self._container = container
        return self._link.call(lambda connection: container.probe(connection, host, self._given_python))

    def _install(self, report: MachineReport) -> None:
        image = "" if self._container is None else self._container.image
        package = Package.of(report, image)
        self._key = package.key
        install(self._link, self._uploader, package, self._environment(), report, self._container)


def remote_settings(settings: JobSettings) -> dict[str, Any]:
    """Return the settings of a job for the remote run, as JSON, without the resource settings.

    The remote job has pages only: no volumes, no sidecars. Its gray mode is always sent, since a job of an earlier
    version keeps its own default.
    """
    sent = to_json(settings, sent_names(type(settings), "always"))
    return {**sent, "gray": settings.gray_mode, "sidecars": "skip"}


def job_name(fingerprint: str, settings: JobSettings) -> str:
    """Return the name of a job on a remote machine: unique, and without any name of the user's."""
    identity = f"{fingerprint} {platform.node()} {path_text(settings.output)}"
    return f"job-{hashlib.sha256(identity.encode()).hexdigest()[:_JOB_DIGITS]}"


def _read_head(lines: IO[bytes]) -> dict[str, str]:
    """Read the lines ``name=value`` before the first empty line."""
    answer: dict[str, str] = {}
    while line := lines.readline(_LONGEST_HEAD_LINE).strip():
        name, _, value = line.decode(errors="replace").partition("=")
        answer[name] = value
        if len(answer) > _MOST_HEAD_LINES:
            break
    return answer
