"""``comic-upscale watch``: upscale what is new or changed in some folders, for ever."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Le

from comic_upscale.commands.environment import state_folder
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.questions import ask_before_changing_input
from comic_upscale.commands.run import (
    EXIT_SOME_FAILED,
    HOOKS,
    JOB,
    SHOW,
    ShowOptions,
    WorkerSocket,
    check_ceiling,
    hook_settings,
    job_settings,
    open_display,
    open_hooks,
    set_up_logging,
)
from comic_upscale.commands.selection import expand_patterns
from comic_upscale.commands.short_help import HelpAll
from comic_upscale.commands.signals import stop_on_signals
from comic_upscale.errors import InputError, SettingsError
from comic_upscale.settings.options import Opt, check, definitions
from comic_upscale.settings.paths import absolute, path_text
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.selection import Selection

if TYPE_CHECKING:
    from comic_upscale.execution.events import JobFinished, Listener
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.settings.job import JobSettings

_OUTPUT = (
    "Folder for the upscaled pages. Of several watched folders, each gets a folder of its own name inside."
)

WATCHED = tuple(
    replace(option, opt=replace(option.opt, help=_OUTPUT)) if option.name == "output" else option
    for option in JOB
    if option.name != "input"
)
"""The options of a job that a watch takes."""
SHOWN = tuple(option for option in SHOW if option.name != "dry_run")
_LONGEST = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """When a watch looks, and when it takes a file."""

    settle: Annotated[
        float, Ge(0), Le(_LONGEST),
        Opt(
            "Take a file once its size and time have not changed for N seconds. Raise it for slow copies.",
            metavar="N",
        ),
    ] = 30.0  # fmt: skip
    poll: Annotated[
        float, Ge(0), Le(_LONGEST),
        Opt(
            "Seconds between two looks at a folder. A folder that is slow to list is looked at less often.",
            metavar="N",
        ),
    ] = 20.0  # fmt: skip
    close_after: Annotated[
        float, Ge(0), Le(_LONGEST),
        Opt("Free the memory of the device after N seconds without work.", metavar="N"),
    ] = 300.0  # fmt: skip
    once: Annotated[bool, Opt("End when nothing is left to do and no file changes any more.")] = False
    yes: Annotated[
        bool, Opt("With --replace: do not ask whether originals may be replaced.", flags=("--yes", "-y"))
    ] = False

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)


WATCHING = definitions(WatchOptions)


@takes(given=WATCHED, hooks=HOOKS, show=SHOWN, watching=WATCHING)
def watch(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", show_default=False, help="The folders to watch.")
    ],
    *,
    given: Given,
    hooks: Given,
    show: Given,
    watching: Given,
    worker: WorkerSocket = None,
    help_all: HelpAll = False,
) -> None:  # fmt: skip
    """Watch folders, and upscale what is new or changed."""
    from comic_upscale.execution.stop import StopRequest

    options = WatchOptions(**watching.values())
    shown = ShowOptions(**show.values())
    jobs = watched_jobs(folders, given.values())
    _check_there(jobs)
    for job in jobs:
        check_ceiling(job)
    replaced = [job.input for job in jobs if job.replace_sources]
    if replaced and not options.yes:
        ask_before_changing_input(replaced, may_ask=not shown.as_json)
    called = hook_settings(hooks)
    set_up_logging(verbose=shown.verbose)
    stop = StopRequest()
    with (
        stop_on_signals(stop),
        open_display(stop, shown) as (_, show_event),
        open_hooks(called, show_event, stop) as (on_event, finish),
    ):
        failed = _watch(jobs, options, on_event, finish, stop, worker)
    if options.once and failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def watched_jobs(folders: Sequence[Path], given: Mapping[str, Any]) -> list[JobSettings]:
    """Return the settings of the job of each watched folder.

    Args:
        folders: the folders.
        given: options by name.

    Raises:
        SettingsError: there is no output, two folders would share one, or one has two purposes.
        InputError: a folder is a file.
    """
    output = given.get("output")
    roots = list(dict.fromkeys(absolute(each) for folder in folders for each in expand_patterns(folder)))
    for root in roots:
        if is_bucket(root):
            raise InputError(f"{path_text(root)} is a bucket: a watch needs folders of this machine")
        if root.is_file():
            raise InputError(f"{path_text(root)} is a file: name a folder to watch")
    if len(roots) > 1 and given.get("ledger") is not None:
        raise SettingsError("--ledger works with one watched folder: each of several has a ledger of its own")
    if output is None or len(roots) == 1:
        outputs = [output for _ in roots]
    else:
        twice = [
            name for name, count in Counter(root.name for root in roots).items() if count > 1 or not name
        ]
        if twice:
            raise SettingsError(
                f"two watched folders have the name {twice[0]!r}, and their outputs would share a folder: watch them "
                "with a command each"
            )
        outputs = [absolute(output) / root.name for root in roots]
    # Without a selection, a run would continue with that of the last one.
    selection = given.get("selection") or Selection()
    jobs = [
        job_settings({**given, "input": root, "output": folder, "selection": selection})
        for root, folder in zip(roots, outputs, strict=True)
    ]
    if output is None and not all(job.replace_sources for job in jobs):
        raise SettingsError(
            "--output is missing: name the folder for the upscaled pages, or add --replace to put them in the places "
            "of the originals"
        )
    return jobs


def _check_there(jobs: Sequence[JobSettings]) -> None:
    """Refuse a folder that was never there: a watch would wait for it for ever.

    Raises:
        InputError: there is one.
    """
    from comic_upscale.jobs.service import JobService

    service = JobService(state_folder())
    for job in jobs:
        is_known = job.ledger_path.is_file() or service.has_run(job.ledger_path)
        if not is_known and not job.input.exists():
            raise InputError(
                f"{path_text(job.input)} does not exist: check its name, or whether its drive is there. A watch waits "
                "only for folders of which something was upscaled before"
            )


def _watch(
    jobs: Sequence[JobSettings],
    options: WatchOptions,
    on_event: Listener,
    finish_hooks: Callable[[], None],
    stop: StopRequest,
    worker: Path | None,
) -> int:
    """Watch until the end; return the number of failed pages, and of folders that wait for something."""
    from comic_upscale.execution.events import Note
    from comic_upscale.jobs.service import JobService
    from comic_upscale.watching.watcher import Watcher
    from comic_upscale.worker.engines import EngineCache

    service = JobService(state_folder())
    engines = EngineCache(most=2)

    def run(settings: JobSettings, only: Selection, stop: StopRequest) -> JobFinished:
        finished = service.run(
            settings,
            on_event=on_event,
            stop=stop,
            worker=worker,
            only=only,
            open_engines=engines.open_engines,
        )
        finish_hooks()
        return finished

    def on_idle(seconds: float) -> None:
        if seconds >= options.close_after and engines.models:
            engines.close()
            _return_free_memory()

    watcher = Watcher(
        jobs,
        run,
        lambda text: on_event(Note(text=text)),
        settle=options.settle,
        poll=options.poll,
        on_idle=on_idle,
        is_known=service.has_run,
    )
    names = ", ".join(path_text(job.input) for job in jobs)
    seconds = "1 second" if options.settle == 1 else f"{options.settle:g} seconds"
    on_event(Note(text=f"watching {names}: files are taken once they have been still for {seconds}"))
    try:
        result = watcher.watch(stop, once=options.once)
    finally:
        engines.close()
    if stop.requested:
        on_event(Note(text=f"the watch has ended ({stop.reason})"))
    return result.failed + len(result.waiting)


def _return_free_memory() -> None:
    gc.collect()
    # Imported only where a network has run.
    device = sys.modules.get("comic_upscale.engines.torch.device")
    if device is not None:
        device.return_free_memory()
