"""``comic-upscale run``: upscale the pages of a folder, an image or a volume.

Other commands share parts of it: building the settings of a job from the options, and running a job with a display.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comic_upscale.commands.cluster_options import CLUSTER, ClusterOptions
from comic_upscale.commands.environment import (
    bucket_ledger,
    default_workers,
    state_folder,
    weights_cache,
    weights_folders,
)
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.profile_files import find_profile
from comic_upscale.commands.questions import ask_before_changing_input, ask_before_redoing, has_terminal
from comic_upscale.commands.selection import FromFile, Pages, with_pages
from comic_upscale.commands.short_help import HelpAll
from comic_upscale.commands.signals import stop_on_signals
from comic_upscale.commands.spot_notice import heeding
from comic_upscale.errors import EXIT_CEILING, InputError, SettingsError
from comic_upscale.provisioning.spot import SpotCloud
from comic_upscale.settings.environment import values_from_environment
from comic_upscale.settings.hooks import HookSettings
from comic_upscale.settings.job import JobSettings, upgrade_record
from comic_upscale.settings.option_json import in_program_words, values_from_json
from comic_upscale.settings.options import Opt, definitions
from comic_upscale.settings.paths import absolute, default_output, path_text, replace_folder
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.processing import DEFAULT_SIZE
from comic_upscale.settings.profiles import NONE, Profile, with_profile
from comic_upscale.settings.resources import check_device_name
from comic_upscale.settings.run import NO_PRICE

if TYPE_CHECKING:
    from comic_upscale.console.display import Display
    from comic_upscale.execution.events import Event, JobFinished, Listener
    from comic_upscale.execution.ray.options import RayOptions
    from comic_upscale.execution.remote import RemoteOptions
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.planning.preview import PagePreview

EXIT_SOME_FAILED = 1

JOB = tuple(
    # --output is optional on the command line: by default the output folder is named after the input. The input may be
    # given as an argument.
    replace(option, default=None, nullable=True) if option.name in ("input", "output") else option
    for option in definitions(JobSettings)
)
"""The options of a job, for a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """Options for what a command that runs a job prints."""

    dry_run: Annotated[bool, Opt("Show what the run would do, and write nothing.")] = False
    as_json: Annotated[bool, Opt("Print only JSON events, one per line.", flags=("--json",))] = False
    verbose: Annotated[bool, Opt("Print every page, and log details.", flags=("--verbose", "-v"))] = False
    log: Annotated[
        Path | None,
        Opt("Also add every page and message to this file. It is rotated at 10 MB.", metavar="FILE"),
    ] = None
    quiet: Annotated[bool, Opt("Print errors only.", flags=("--quiet", "-q"))] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """Options for whether and how `run` starts."""

    redo: Annotated[
        bool,
        Opt("Do not ask before finished outputs of other settings are replaced. Only a terminal is asked."),
    ] = False
    yes: Annotated[
        bool, Opt("With --replace: do not ask whether originals may be replaced.", flags=("--yes", "-y"))
    ] = False
    check_storage: Annotated[
        bool, Opt("Try what the buckets of --input and --output allow, say it, and process nothing.")
    ] = False
    spot_notice: Annotated[
        SpotCloud | None,
        Opt(
            "On a spot machine of AWS or Google Cloud: when the cloud says that it takes the machine back, finish the "
            "pages in flight and stop, with exit code 143.",
        ),
    ] = None


STARTING = definitions(StartOptions)
SHOW = definitions(ShowOptions)
HOOKS = definitions(HookSettings)

WorkerSocket = Annotated[
    Path | None,
    typer.Option(
        "--worker", metavar="SOCKET",
        help="Let a worker of this machine process the pages: comic-upscale worker --socket SOCKET.",
    ),
]  # fmt: skip


@takes(starting=STARTING, given=JOB, hooks=HOOKS, show=SHOW, cluster=CLUSTER)
def run(
    pages: Pages = None,
    *,
    from_file: FromFile = None,
    starting: Given,
    given: Given,
    hooks: Given,
    show: Given,
    cluster: Given,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings", metavar="FILE", hidden=True,
            help="A JSON object with options by name. Options on the command line override them.",
        ),
    ] = None,
    worker: WorkerSocket = None,
    help_all: HelpAll = False,
) -> None:  # fmt: skip
    """Upscale every page of a job that is not done yet."""
    from comic_upscale.execution.stop import StopRequest

    shown, start = ShowOptions(**show.values()), StartOptions(**starting.values())
    recorded = {} if settings is None else _read_settings(settings)
    own = given.values()
    if settings is not None:
        # It has every option that matters.
        own.setdefault("profile", NONE)
    job = _checked(with_pages({**recorded, **own}, pages, from_file), recorded.keys() - own.keys())
    called = hook_settings(hooks)
    set_up_logging(verbose=shown.verbose)
    options = ClusterOptions(**cluster.values()).ray_options()
    if options is not None and worker is not None:
        raise SettingsError("--cluster and --worker exclude each other: give one of them")
    if start.check_storage:
        _check_storage(job)
        return
    if shown.dry_run:
        show_plan(job, as_json=shown.as_json, here=options is None and worker is None)
        return
    check_ceiling(job)
    if job.replace_sources and not start.yes:
        ask_before_changing_input([job.input], may_ask=not shown.as_json)
    if not start.redo and not shown.as_json and has_terminal():
        ask_before_redoing(job, here=options is None and worker is None)
    stop = StopRequest()
    with heeding(start.spot_notice, stop):
        code, _ = run_shown(job, stop, shown, worker=worker, cluster=options, hooks=called)
    raise typer.Exit(code)


def _check_storage(job: JobSettings) -> None:
    from comic_upscale.storage.bucket_check import check_input, check_output

    if not is_bucket(job.input) and not is_bucket(job.output):
        raise SettingsError(
            "--check-storage needs a bucket: --input s3://bucket/pages or --output s3://bucket/big"
        )
    if is_bucket(job.input):
        check_input(job.input, lambda step: typer.echo(f"input:  {step}"))
    if is_bucket(job.output):
        check_output(job.output, lambda step: typer.echo(f"output: {step}"))


def _checked(values: Mapping[str, Any], from_file: Set[str]) -> JobSettings:
    """Return the settings of a job. A message names an option as where it was given: in a file, or as a flag."""
    try:
        return job_settings(values)
    except SettingsError as error:
        raise SettingsError(in_program_words(str(error), JobSettings, from_file)) from None


def job_settings(given: Mapping[str, Any]) -> JobSettings:
    """Return the settings of a job: the given options, those of a profile, and the defaults of this machine and user.

    Args:
        given: options by name; includes ``input``.

    Raises:
        SettingsError: a value is out of its range, two contradict each other, or the profile has a mistake.
    """
    profile = find_profile(given.get("profile"), given["input"])
    values = {"workers": default_workers(), **given, "profile": None}
    if profile is not None:
        values = {**values, **with_profile(profile, given)}
    values["weights_folders"] = weights_folders(*given.get("weights_folders", ()))
    values["weights_cache"] = weights_cache()
    if values.get("replace_sources") and values["input"].is_file():
        raise SettingsError(
            "--replace takes a folder: give the folder of the file, and --include with the name of the file"
        )
    if values.get("output") is None and values.get("replace_sources"):
        values["output"] = replace_folder(absolute(values["input"]))
    elif values.get("output") is None:
        values["output"] = default_output(values["input"], values.get("size", DEFAULT_SIZE))
    if values.get("ledger") is None and is_bucket(values["output"]):
        values["ledger"] = bucket_ledger(values["output"])
    try:
        settings = JobSettings(**values)
        if settings.backend == "torch":
            # The engine checks them, too, after seconds of imports. Other engines may have devices of their own.
            for name in settings.device.split(","):
                check_device_name(name.strip() or "auto")
    except SettingsError as error:
        raise SettingsError(f"{error}{_whose(profile, given, str(error))}") from None
    return settings


def check_ceiling(job: JobSettings) -> None:
    """Refuse a cost ceiling without a price at once. The run checks it, too, once it has read the input.

    Raises:
        SettingsError: no run of the ledger had a price.
    """
    # The ledger of a bucket may be there, with a price.
    if job.max_cost is None or job.price is not None or is_bucket(job.output):
        return
    from comic_upscale.engines.registry import find_factory
    from comic_upscale.ledger.queries import knows_price

    if not knows_price(job.ledger_path) and find_factory(job.backend).billing != "call":
        raise SettingsError(NO_PRICE)


def _whose(profile: Profile | None, given: Mapping[str, Any], message: str) -> str:
    """Return which options in a message are those of a profile, so that nobody looks for them on the command line."""
    if profile is None:
        return ""
    flags = [
        option.flag
        for option in definitions(JobSettings)
        if option.name in profile.values and option.name not in given
    ]
    named = [flag for flag in flags if re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", message)]
    return f". The profile {profile.name} sets {' and '.join(named)}" if named else ""


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path_text(path)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{path_text(path)} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise SettingsError(f"{path_text(path)} is not a JSON object")
    return values_from_json(JobSettings, upgrade_record(record))


def run_shown(
    settings: JobSettings,
    stop: StopRequest,
    shown: ShowOptions,
    *,
    remote: Sequence[RemoteOptions] = (),
    worker: Path | None = None,
    cluster: RayOptions | None = None,
    before_exit: Callable[[], None] = lambda: None,
    hooks: HookSettings | None = None,
) -> tuple[int, JobFinished]:
    """Run a job, print its events, and return the exit code and the final event.

    Args:
        settings: of the job.
        stop: stops the run gracefully; signals set it.
        shown: what to print.
        remote: the remote machines that process the pages.
        worker: the socket of a worker of this machine that processes them.
        cluster: the Ray cluster that processes them.
        before_exit: called before a second signal ends the process at once.
        hooks: are called when a volume or the run is done.
    """
    from comic_upscale.jobs.service import JobService

    def leave() -> None:
        # The terminal may be gone; a rented machine must be ended nevertheless.
        with contextlib.suppress(Exception):
            display.close()
        before_exit()

    with (
        open_display(stop, shown) as (display, show_event),
        open_hooks(hooks, show_event, stop) as (on_event, finish_hooks),
        # Until the run has begun, a reader that hangs over a file of the input cannot be interrupted, and there is
        # nothing to finish or record.
        stop_on_signals(stop, before_exit=leave, at_once=lambda: not stop.has_begun) as received,
    ):
        finished = JobService(state_folder()).run(
            settings,
            on_event=on_event,
            stop=stop,
            remote=remote,
            worker=worker,
            cluster=cluster,
            # Whoever starts a run wants it to run.
            resumes=True,
        )
        finish_hooks()
    return _exit_code(finished, received), finished


@contextmanager
def open_hooks(
    settings: HookSettings | None, on_event: Listener, stop: StopRequest
) -> Iterator[tuple[Listener, Callable[[], None]]]:
    """Open the hooks of runs.

    Args:
        settings: the hooks; None for none.
        on_event: takes the events of the runs, and of the hooks.
        stop: ends the wait for hooks, too.

    Yields:
        A listener for the events of runs, and a function that waits for the hooks of a run and reports them.
    """
    if settings is None or settings.is_empty:
        yield on_event, lambda: None
        return
    from comic_upscale.hooks.runner import HookRunner

    runner = HookRunner(settings, os.environ, stop)

    def listen(event: Event) -> None:
        on_event(event)
        runner(event)

    try:
        yield listen, lambda: on_event(runner.finish())
    finally:
        runner.close()


def hook_settings(given: Given) -> HookSettings:
    """Return the hooks: the given options, then variables of the environment.

    Raises:
        SettingsError: a value is not allowed.
    """
    return HookSettings(**{**values_from_environment(HookSettings, os.environ), **given.values()})


@contextmanager
def open_display(stop: StopRequest, shown: ShowOptions) -> Iterator[tuple[Display, Listener]]:
    """Open the display of runs. Inside the block, it and a listener that never raises an error are usable.

    Args:
        stop: requested when nobody can see the display any more.
        shown: what to print.
    """
    from comic_upscale.console import display as terminal

    display = _choose_display(stop, shown)
    if shown.log is not None:
        display = terminal.LogFileDisplay(shown.log, display)
    muted = False

    def on_event(event: Event) -> None:
        nonlocal muted
        if muted:
            return
        try:
            display(event)
        except OSError as error:
            # A terminal that went away must not make pages fail: the run stops as after a signal.
            muted = True
            stop.request(f"cannot write to the terminal: {error.strerror or error}")

    try:
        yield display, on_event
    finally:
        display.close()


_STOPPED_BY: Mapping[str | None, int] = {"max-cost": EXIT_CEILING, "spot-notice": 128 + signal.SIGTERM}
"""The exit codes of stopped runs. Who restarts a run after SIGTERM does so after a notice, too."""


def _exit_code(finished: JobFinished, received: list[int]) -> int:
    if finished.state == "interrupted":
        if received:
            return 128 + received[0]
        return _STOPPED_BY.get(finished.stopped_by, EXIT_SOME_FAILED)
    return EXIT_SOME_FAILED if finished.failed or finished.volumes_cut else 0


def _choose_display(stop: StopRequest, shown: ShowOptions) -> Display:
    from comic_upscale.console import display as terminal

    def on_broken_pipe() -> None:
        stop.request("the reader of the output has closed the pipe")

    if shown.as_json:
        return terminal.JsonDisplay(on_broken_pipe)
    if shown.quiet or sys.stdout is None:
        return terminal.QuietDisplay()
    if sys.stdout.isatty():
        return terminal.LiveDisplay(verbose=shown.verbose, stop=stop)

    def write(line: str) -> None:
        terminal.write_line(line, on_broken_pipe)

    return terminal.LogDisplay(write, verbose=shown.verbose)


def show_plan(settings: JobSettings, *, as_json: bool, here: bool = True) -> None:
    """Print what a run would do.

    Args:
        settings: of the job.
        as_json: whether JSON is printed.
        here: whether this process would run the network. Another machine may have other devices.
    """
    from comic_upscale.commands.cost import quote_of_plan
    from comic_upscale.console.quote_text import planned_time
    from comic_upscale.console.text import plan_header, plan_line, plan_summary, preview_as_json
    from comic_upscale.engines.registry import find_factory
    from comic_upscale.jobs.service import JobService

    service = JobService(state_folder())
    factory = find_factory(settings.backend)
    # Their pages may take minutes. `cost` quotes the networks of the catalogue on many machines.
    is_quoted = factory.billing == "time" and not factory.uses_catalogue
    if as_json:
        plan = service.preview(settings, here=here)
        quote = quote_of_plan(plan, settings) if is_quoted else None
        typer.echo(preview_as_json(plan, None if quote is None else quote.seconds))
        return
    has_header = False

    def on_page(page: PagePreview) -> None:
        nonlocal has_header
        if not has_header:
            typer.echo(plan_header())
            has_header = True
        typer.echo(plan_line(page))

    plan = service.preview(settings, on_page, here=here)
    if is_quoted and plan.counts.get("do"):
        typer.echo(planned_time(quote_of_plan(plan, settings)))
    for line in plan_summary(plan):
        typer.echo(line)


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error, and silence the messages of other packages about files."""
    # Our own decoder reports problems of a file, page by page.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # At every start it lists features that an old libarchive lacks; we use none of them.
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.CRITICAL,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
