"""Running one claimed job: its files into a folder, the run of `JobService`, its results into the storage."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comic_upscale.errors import (
    ComicUpscaleError,
    DatabaseError,
    DeviceError,
    InputError,
    OutputError,
    SettingsError,
    StorageError,
)
from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.service import JobService
from comic_upscale.server import jobs, log_context, queue, trials
from comic_upscale.server.buckets import (
    BucketFolder,
    FetchStoppedError,
    find_in_bucket,
    output_in_place,
)
from comic_upscale.server.database.engine import Database
from comic_upscale.server.files import FileStore, StoredFile, store_file
from comic_upscale.server.log_context import logged_as
from comic_upscale.server.overrides import effective
from comic_upscale.server.params import processing_settings
from comic_upscale.server.roots import check_links, find_below
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import definitions
from comic_upscale.settings.places import is_address, parse_place
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.selection import Selection, read_selection
from comic_upscale.worker.beat import CANCELED, LOST, STOPPING, Heartbeat
from comic_upscale.worker.crashes import DEATHS, PAGES_IN_A_ROW, CrashWatch
from comic_upscale.worker.disk import disk_in_words
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.extras import extra_values
from comic_upscale.worker.hanging import no_hanging
from comic_upscale.worker.live_pictures import LivePictures, delete_live
from comic_upscale.worker.members import Member, find_members
from comic_upscale.worker.pictures import store_pictures
from comic_upscale.worker.reports import store_report
from comic_upscale.worker.results import complete, find_outputs, sum_up
from comic_upscale.worker.saved_state import SavedState, delete_state
from comic_upscale.worker.trial_job import Tried, Untried, make_pages, run_model, store_trial, with_score
from comic_upscale.worker.weights import find_model

log = logging.getLogger(__name__)

_ONE_AFTER_ANOTHER = (
    f"{PAGES_IN_A_ROW} pages in a row each ended {DEATHS} workers, so the job was set aside. The fault is probably not "
    "with the pages; the log of the server has more. Requeue the job to try again."
)


class _ExpiredError(Exception):
    """The uploaded files of a job no longer exist."""


class JobRunner:
    """Runs claimed jobs on this machine.

    Args:
        settings: of the server.
        defaults: options of every job on this machine.
        database: of the server.
        files: the storage of the server.
        stop: the stop request of the worker.
        engines: opens the engines; several runners may share them.
    """

    def __init__(
        self,
        settings: ServerSettings,
        defaults: Mapping[str, Any],
        database: Database,
        files: FileStore,
        stop: StopRequest,
        engines: EngineCache | None = None,
    ) -> None:
        self._settings, self._defaults = settings, defaults
        self._database, self._files, self._stop = database, files, stop
        # Commands without --job mean a job that their user started, never one of a server.
        self._service = JobService()
        self._engines = engines or EngineCache()
        self._job_id: str | None = None
        self._page_done = threading.Event()

    @property
    def job_id(self) -> str | None:
        """The job that runs; None if there is none."""
        return self._job_id

    def has_new_page(self) -> bool:
        """Return whether a page was finished since the last call, also by a job that has ended meanwhile."""
        is_new = self._page_done.is_set()
        if is_new:
            self._page_done.clear()
        return is_new

    def run(self, claimed: queue.Claim) -> None:
        """Run a job to its end, or until a stop, and settle it. Never raises for what went wrong with the job."""
        with logged_as(log_context.job_id, claimed.job_id):
            self._run_and_settle(claimed)

    def _run_and_settle(self, claimed: queue.Claim) -> None:
        folder = self._settings.data / "work" / claimed.job_id
        self._job_id = claimed.job_id
        try:
            started = self._settings
            timeout = self._database.read(lambda connection: effective(connection, started).job_timeout)
            with (
                no_hanging(timeout),
                Heartbeat(self._database, claimed, self._stop, timeout, self._page_done) as beat,
            ):
                beat.say(f"attempt {claimed.attempt} on {socket.gethostname()}")
                is_settled = self._run(claimed, folder, beat)
        except queue.LostLeaseError:
            log.warning("job %s: another worker holds it", claimed.job_id)
            return
        except DatabaseError as error:
            # The lease ends by itself, and the job continues from its ledger.
            log.error("job %s: %s", claimed.job_id, error)
            return
        finally:
            self._job_id = None
        if is_settled:
            delete_live(self._database, self._files, claimed.job_id)
            if self._settings.has_shared_storage:
                delete_state(self._database, self._files, claimed.job_id)
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, claimed: queue.Claim, folder: Path, beat: Heartbeat) -> bool:
        """Run a job, and return whether it is settled for good, so that its folder can go."""
        try:
            settings = self._prepare(claimed, folder, beat)
            watch = CrashWatch(folder, claimed.last_words)
            if watch.has_given_up:
                self._write(
                    lambda connection: queue.fail(connection, claimed, "set_aside", _ONE_AFTER_ANOTHER)
                )
                return True
            if watch.has_suspects:
                self._write(lambda connection: queue.excuse_attempt(connection, claimed))
            if models := trials.models_of(claimed.job):
                return self._run_trial(claimed, folder, beat, settings, models)
            cluster = self._cluster(claimed)
            first = claimed.job["lane"] == "interactive"
            # The engines of this process cannot be sent to a cluster, whose actors open their own.
            opener = partial(self._engines.open_engines, first=first) if cluster is None else None
            live = LivePictures(self._database, self._files, claimed, settings.output)
            with self._saving(claimed, folder) as saved, contextlib.closing(watch), live:
                finished = self._service.run(
                    settings,
                    on_event=beat.take,
                    stop=beat.stop,
                    open_engines=opener,
                    watch=watch,
                    cluster=cluster,
                    only=_part_of(claimed.job),
                )
            return self._settle(claimed, folder, beat, finished, saved)
        except (queue.LostLeaseError, DatabaseError):
            raise
        except FetchStoppedError:
            return self._settle_stop(claimed, beat.stop.kind, beat.stop.reason)
        except (InputError, SettingsError) as error:
            code, message = _code(error), _public(str(error), folder)
            beat.say(f"failed: {message}")
            self._write(lambda connection: queue.fail(connection, claimed, code, message))
            return True
        except StorageError as error:
            # Its pages stay, and no attempt is counted: a storage may be away for hours.
            log.error("job %s: %s", claimed.job_id, error)
            message = "The storage cannot be used; the job waits for it."
            beat.say(f"{message} {error}")
            return not self._database.write(
                lambda connection: queue.postpone(connection, claimed, "storage", message)
            )
        except ComicUpscaleError as error:
            log.error("job %s: %s", claimed.job_id, error)
            if isinstance(error, DeviceError):
                # A device that failed may be unusable for the rest of this process; the next worker is a new one.
                self._stop.request("the device failed")
            code, message = _code(error), _public(str(error), folder)
            beat.say(f"may pass: {code}: {message}")
            return not self._database.write(
                lambda connection: queue.retry(connection, claimed, code, message)
            )
        except _ExpiredError:
            message = "The uploaded files no longer exist."
            self._write(lambda connection: queue.fail(connection, claimed, "expired", message))
            return True
        except OSError as error:
            log.error("job %s: %s", claimed.job_id, error)
            message = f"The disk of the worker cannot be used: {error.strerror or type(error).__name__}."
            beat.say(f"may pass: output: {error}")
            return not self._database.write(
                lambda connection: queue.retry(connection, claimed, "output", message)
            )
        except Exception:
            log.exception("job %s failed unexpectedly", claimed.job_id)
            beat.say(traceback.format_exc(limit=-8))
            message = "Unexpected error in the worker; its log has the details."
            return not self._database.write(
                lambda connection: queue.retry(connection, claimed, "internal", message)
            )

    def _run_trial(
        self, claimed: queue.Claim, folder: Path, beat: Heartbeat, settings: JobSettings, models: list[str]
    ) -> bool:
        """Run a trial, and return whether it is settled for good. Each result is shown as it comes."""
        live = LivePictures(self._database, self._files, claimed, folder / "out")
        live.remember()
        tried: list[Tried] = []
        untried: list[Untried] = []
        began = time.monotonic()
        for number, model in enumerate(models):
            done = self._run_model(beat, settings, model, folder / f"out-{number}")
            if done is None:
                return self._settle_stop(claimed, beat.stop.kind, beat.stop.reason)
            if isinstance(done, Untried):
                untried.append(replace(done, reason=_public(done.reason, folder)))
            else:
                tried.append(done)
                # An earlier run of this trial may have shown it.
                if not live.has(model):
                    live.store(lambda blob: make_pages(tried[-1:], blob))
            beat.note(
                pages_total=len(models), pages_done=len(tried), pages_failed=len(untried),
                failures=[each.as_failure() for each in untried], device=done.device or None,
            )  # fmt: skip
        result = queue.Result(
            pages_total=len(models), pages_done=len(tried), pages_failed=len(untried),
            failures=[each.as_failure() for each in untried], model=", ".join(models)[:200],
            device=next((each.device for each in tried if each.device), None),
            seconds=round(time.monotonic() - began, 3), pixels=sum(each.pixels for each in tried),
        )  # fmt: skip
        if not tried:
            self._write(
                lambda connection: queue.fail(connection, claimed, "no_page", untried[0].reason, result)
            )
            return True
        stored, pictures = store_trial(self._files, claimed.job_id, claimed.fence, tried)
        try:
            members: list[list[Member] | None] = [None] * len(stored)
            self._write(lambda connection: complete(connection, claimed, stored, members, pictures, result))
        except BaseException:
            self._discard([*stored, *pictures])
            raise
        return True

    def _run_model(
        self, beat: Heartbeat, settings: JobSettings, model: str, output: Path
    ) -> Tried | Untried | None:
        try:
            rules = tuple(filter(None, (rule.without(("model", "denoise")) for rule in settings.rules)))
            own = replace(settings, model=self._find_model(model), rules=rules, output=output)
        except SettingsError as error:
            return Untried(model=model, kind="settings", reason=str(error))
        opener = partial(self._engines.open_engines, first=True)
        done = run_model(
            model, own,
            lambda each, listen, stop: self._service.run(each, on_event=listen, stop=stop, open_engines=opener),
            beat.stop,
        )  # fmt: skip
        return done if done is None or isinstance(done, Untried) else with_score(done, own, opener)

    def _prepare(self, claimed: queue.Claim, folder: Path, beat: Heartbeat) -> JobSettings:
        """Put the originals into the folder of the job, and return the settings of the run.

        A job over a folder of this machine reads it there, and writes where it says.
        """
        values = self._values(claimed)
        if claimed.job["input"] is not None:
            source, output = self._places(claimed, folder, beat)
            # A run of the command line into the same folder may have recorded a part of the input.
            return JobSettings(**values, input=source, output=output, selection=Selection())
        source = folder / "in"
        with disk_in_words():
            source.mkdir(parents=True, exist_ok=True)
        upload_id = claimed.job["upload_id"]
        rows = self._database.read(
            lambda connection: jobs.files_of(connection, "original", upload_id=upload_id)
        )
        if not rows:
            raise _ExpiredError
        for row in rows:
            target = source / row["name"]
            try:
                self._files.fetch(row["storage_key"], target)
            except FileNotFoundError as error:
                raise _ExpiredError from error
            # The ledger recognises a source by its time, on every machine.
            with disk_in_words():
                os.utime(target, ns=(row["created_at"] * 1_000_000,) * 2)
        return JobSettings(
            **values,
            input=source,
            output=folder / "out",
            # One broken page must not withhold a whole volume. The job lists it as failed.
            keep_original_on_failure=True,
        )

    def _places(self, claimed: queue.Claim, folder: Path, beat: Heartbeat) -> tuple[Path, Path]:
        """Return the input and the output of a job over a folder, or over a bucket, whose objects are fetched."""
        roots, asked, wanted = self._settings.root_folders, claimed.job["input"], claimed.job["output"]
        output = None if is_address(wanted) else find_below(roots, wanted, must_exist=False)
        if not is_address(asked):
            source = find_below(roots, asked)
            check_links(roots, source)
            assert output is not None, "a job over a folder writes to a folder"
            return source, output
        place, source = find_in_bucket(self._settings.root_buckets, asked), folder / "in"
        if output is None and not source.exists():
            # Found only after all pages were computed, it would cost them.
            there = find_in_bucket(self._settings.root_buckets, wanted)
            if not BucketFolder(self._settings, there).is_empty():
                raise SettingsError(f"{there.address} has objects already: choose another output")
        with disk_in_words():
            source.mkdir(parents=True, exist_ok=True)
        results = [output_in_place(place)] + ([parse_place(wanted)] if output is None else [])
        beat.say(f"fetching {place.address}")
        BucketFolder(self._settings, place).fetch(
            source, without=results, should_stop=lambda: beat.stop.requested
        )
        return source, output or folder / "out"

    def _values(self, claimed: queue.Claim) -> dict[str, Any]:
        """Return the options of a job that do not depend on its files."""
        processing = processing_settings(claimed.job["params"])
        values = {each.name: getattr(processing, each.name) for each in definitions(ProcessingSettings)}
        values["model"] = self._find_model(processing.model)
        values |= {**self._defaults, "device": self._settings.device}
        extra = extra_values(claimed.job["params"], self._settings)
        if extra.get("backend") == "imagen":
            # A service has no device.
            values["device"] = "auto"
        return {**values, **extra}

    def _cluster(self, claimed: queue.Claim) -> RayOptions | None:
        """Return the cluster for a job. A page that somebody waits for stays here, where the engines are open."""
        address = self._settings.cluster
        return RayOptions(address=address) if address and claimed.job["lane"] == "batch" else None

    def _find_model(self, name: str) -> str:
        return find_model(name, self._settings.data, self._database, self._files)

    @contextlib.contextmanager
    def _saving(self, claimed: queue.Claim, folder: Path) -> Iterator[SavedState | None]:
        """Continue from the saved state and save it meanwhile, if another machine may take the job over."""
        if not self._settings.has_shared_storage or claimed.job["input"] is not None:
            yield None
            return
        state = SavedState(self._database, self._files, claimed, folder, self._settings.save_interval)
        state.restore()
        try:
            with state:
                yield state
        except Exception:
            # The next attempt may be on another machine.
            state.save()
            raise

    def _settle(
        self,
        claimed: queue.Claim,
        folder: Path,
        beat: Heartbeat,
        finished: JobFinished,
        saved: SavedState | None,
    ) -> bool:
        kind = beat.stop.kind if finished.state == "interrupted" else None
        if kind in (LOST, STOPPING, CANCELED):
            if kind == STOPPING and saved is not None:
                saved.save()
            return self._settle_stop(claimed, kind, finished.reason)
        result = sum_up(finished, beat)
        if finished.state != "finished":
            reason = finished.reason or "The run was interrupted."
            code = kind or "interrupted"
            self._write(lambda connection: queue.fail(connection, claimed, code, reason, result))
            return True
        if not finished.done:
            reason = finished.failures[0][2] if finished.failures else "No page could be upscaled."
            self._write(lambda connection: queue.fail(connection, claimed, "no_page", reason, result))
            return True
        if claimed.job["input"] is not None:
            # Its results are where the job says, not in the storage. Its report is shown.
            if is_address(claimed.job["output"]):
                place = find_in_bucket(self._settings.root_buckets, claimed.job["output"])
                output = folder / "out"
                names = [path.relative_to(output).as_posix() for path in find_outputs(output)]
                BucketFolder(self._settings, place).put(output, names)
            self._complete_folder(claimed, Path(finished.output), result)
            return True
        self._store(claimed, folder / "out", result, saved)
        return True

    def _settle_stop(self, claimed: queue.Claim, kind: str | None, reason: str | None) -> bool:
        """Settle a job that was stopped, and return whether that is for good."""
        if kind == LOST:
            raise queue.LostLeaseError(claimed.job_id)
        if kind == STOPPING:
            return not self._database.write(lambda connection: queue.release(connection, claimed))
        if kind == CANCELED:
            self._write(lambda connection: queue.cancel_running(connection, claimed))
            return True
        words = reason or "The job was interrupted."
        self._write(lambda connection: queue.fail(connection, claimed, kind or "interrupted", words))
        return True

    def _store(
        self, claimed: queue.Claim, output: Path, result: queue.Result, saved: SavedState | None
    ) -> None:
        """Copy the results into the storage and complete the job, or leave nothing there that no row names."""
        stored: list[tuple[str, StoredFile]] = []
        members: list[list[Member] | None] = []
        pictures: list[tuple[str, StoredFile]] = []
        try:
            for number, path in enumerate(find_outputs(output)):
                # With the fence, a worker that lost the job cannot overwrite the results of the next one.
                key = f"results/{claimed.job_id}/{claimed.fence}-{number}"
                name = path.relative_to(output).as_posix()
                file = saved.stored(name) if saved is not None else None
                if file is None:
                    with path.open("rb") as content:
                        file = store_file(self._files, key, content)
                stored.append((name, file))
                members.append(find_members(path) if path.suffix == ".cbz" else None)
            pictures = self._pictures(claimed, output, [name for name, _ in stored])
            self._database.write(
                lambda connection: complete(connection, claimed, stored, members, pictures, result)
            )
        except OSError as error:
            self._discard([*stored, *pictures])
            raise OutputError(f"the results cannot be read: {error.strerror or error}") from error
        except BaseException:
            self._discard([*stored, *pictures])
            raise

    def _complete_folder(self, claimed: queue.Claim, output: Path, result: queue.Result) -> None:
        try:
            report = store_report(self._files, f"reports/{claimed.job_id}/{claimed.fence}", output)
        except Exception:
            # The job is complete without it, too.
            log.exception("job %s: no report", claimed.job_id)
            report = None
        try:
            self._write(lambda connection: complete(connection, claimed, [], [], [], result, report))
        except BaseException:
            self._discard([] if report is None else [report])
            raise

    def _pictures(
        self, claimed: queue.Claim, output: Path, results: list[str]
    ) -> list[tuple[str, StoredFile]]:
        """Store the pictures of the pages. A job without them is complete, too."""
        try:
            return store_pictures(self._files, f"pictures/{claimed.job_id}/{claimed.fence}", output, results)
        except Exception:
            log.exception("job %s: no pictures of its pages", claimed.job_id)
            return []

    def _discard(self, stored: list[tuple[str, StoredFile]]) -> None:
        jobs.discard_files(self._database, self._files, [file for _, file in stored])

    def _write(self, work: Any) -> None:
        self._database.write(work)


def _part_of(job: Mapping[str, Any]) -> Selection | None:
    """Return the part of its input that a job looks at; None for all of it."""
    return None if job["selection"] is None else read_selection(job["selection"])


def _code(error: ComicUpscaleError) -> str:
    """Return the code of an error: ``input`` for an `InputError`."""
    return type(error).__name__.removesuffix("Error").lower()


def _public(message: str, folder: Path) -> str:
    """Return the message of an error without the folders of this machine."""
    for part in ("in", "out"):
        message = message.replace(f"{folder / part}/", "").replace(str(folder / part), "the upload")
    return message.replace(str(folder), "the job")
