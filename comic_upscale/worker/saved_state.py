"""The state of a running job in the storage, so that another machine continues where this one ended.

The state is the ledger and the outputs that it names. A thread saves it every few seconds: first the ledger, as one
consistent copy, then the outputs that are new. The database says which saved files count, and takes them only from the
holder of the claim. So a worker that lost its job cannot change the state, whatever it writes into the storage.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError, DatabaseError, OutputError, PageError
from comic_upscale.ledger.queries import copy_ledger_file
from comic_upscale.ledger.writer import Ledger
from comic_upscale.server import jobs, queue
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import files as files_table
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.files import FileStore, StoredFile, store_file
from comic_upscale.server.ids import new_id
from comic_upscale.settings.paths import LEDGER_NAME, MARKER_FOLDER
from comic_upscale.storage.base import check_name
from comic_upscale.worker.background import Background

log = logging.getLogger(__name__)

SAVE_SHARE = 0.1
"""The most of a worker's time that saving takes: after a slow save, the next one waits longer."""
LEDGER = f"{MARKER_FOLDER}/{LEDGER_NAME}"
_UNFINISHED = (".comic-upscale-", ".part")
"""The beginning and the end of the names of unfinished outputs."""
_HOLDER = "holder"
"""A file with the fence of the last holder of a job's folder."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """An output that is in the storage."""

    size: int
    mtime_ns: int
    file: StoredFile


class SavedState(Background):
    """The saved state of one claimed job. Used as a context manager, it saves until the end of its block.

    The caller saves the last state with `save` if it is needed.

    Args:
        database: of the server.
        store: of the server.
        claimed: the job.
        folder: of the job on this machine, with the folders ``in`` and ``out``.
        interval: seconds between two saves, at least.
    """

    def __init__(
        self, database: Database, store: FileStore, claimed: queue.Claim, folder: Path, interval: float = 5.0
    ) -> None:
        super().__init__("save-state")
        self._interval = interval
        self._database, self._store, self._claimed = database, store, claimed
        self._folder, self._output = folder, folder / "out"
        self._outputs: dict[str, _Saved] = {}
        self._count = 0
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Put the saved state into the folder, unless the folder is as new.

        Raises:
            OutputError: the folder cannot be written, or the storage cannot be read.
            DatabaseError: the database cannot be used.
        """
        rows = self._database.read(lambda connection: state_of(connection, self._claimed.job_id))
        saved_by = max((_fence_of(row["storage_key"]) for row in rows), default=0)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._held_by() < saved_by:
                shutil.rmtree(self._output, ignore_errors=True)
                self._fetch(rows)
            (self._folder / _HOLDER).write_text(str(self._claimed.fence), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"the saved state of the job cannot be restored: {error.strerror or error}"
            ) from error

    def save(self) -> bool:
        """Save the state now, and return whether that succeeded. The reason of a failure is logged."""
        with self._lock:
            try:
                self._save()
            except queue.LostLeaseError:
                # The heartbeat stops the job.
                return False
            except (ComicUpscaleError, OSError, sqlite3.Error) as error:
                log.warning("job %s: its state cannot be saved: %s", self._claimed.job_id, error)
                return False
        return True

    def stored(self, name: str) -> StoredFile | None:
        """Return the stored file of an output that has not changed since it was saved; None if there is none."""
        saved = self._outputs.get(name)
        if saved is None:
            return None
        try:
            found = (self._output / name).stat()
        except OSError:
            return None
        return saved.file if (found.st_size, found.st_mtime_ns) == (saved.size, saved.mtime_ns) else None

    def _run(self) -> None:
        wait = self._interval
        while not self._ended.wait(wait):
            began = time.monotonic()
            try:
                self.save()
            except Exception:
                log.exception("job %s: its state cannot be saved", self._claimed.job_id)
            wait = max(self._interval, (time.monotonic() - began) / SAVE_SHARE)

    def _save(self) -> None:
        if not (self._output / LEDGER).is_file():
            return
        stored: list[tuple[str, StoredFile]] = []
        copy = self._folder / "ledger-copy.sqlite3"
        try:
            # The ledger first: each output that this copy names is among the files that are listed after it.
            copy_ledger_file(self._output / LEDGER, copy)
            stored.append((LEDGER, self._put(copy)))
            found = dict(_outputs(self._output))
            for name, (size, mtime_ns) in found.items():
                saved = self._outputs.get(name)
                if saved is None or (saved.size, saved.mtime_ns) != (size, mtime_ns):
                    # A volume may be complete meanwhile, and its pages gone.
                    with contextlib.suppress(FileNotFoundError):
                        stored.append((name, self._put(self._output / name)))
            unused = self._database.write(lambda connection: self._record(connection, stored, found.keys()))
        except BaseException:
            self._discard(file for _, file in stored)
            raise
        finally:
            copy.unlink(missing_ok=True)
        for name, file in stored:
            if name in found:
                self._outputs[name] = _Saved(*found[name], file)
        for name in self._outputs.keys() - found.keys():
            del self._outputs[name]
        for key in unused:
            self._store.delete(key)

    def _put(self, path: Path) -> StoredFile:
        self._count += 1
        key = f"state/{self._claimed.job_id}/{self._claimed.fence}-{self._count}"
        with path.open("rb") as file:
            return store_file(self._store, key, file)

    def _discard(self, stored: Iterator[StoredFile]) -> None:
        jobs.discard_files(self._database, self._store, list(stored))

    def _record(self, connection: Connection, stored: list[tuple[str, StoredFile]], found: Any) -> list[str]:
        """Let the new files count in place of earlier ones, and return the keys that count no longer."""
        queue.check_claim(connection, self._claimed)
        replaced = {name for name, _ in stored}
        gone = [
            row["id"]
            for row in state_of(connection, self._claimed.job_id)
            if row["name"] in replaced or (row["name"] not in found and row["name"] != LEDGER)
        ]
        keys = _delete(connection, files_table.c.id.in_(gone))
        now = connection.scalar(sa.select(now_ms()))
        connection.execute(
            sa.insert(files_table),
            [
                {
                    "id": new_id(), "job_id": self._claimed.job_id, "kind": "state", "position": 0, "name": name,
                    "storage_key": file.key, "size": file.size, "sha256": file.sha256, "created_at": now,
                }
                for name, file in stored
            ],
        )  # fmt: skip
        return keys

    def _held_by(self) -> int:
        """Return the fence of the last holder of the folder; 0 for a new folder, or one that is half restored."""
        try:
            return int((self._folder / _HOLDER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    def _fetch(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            try:
                target = self._output / check_name(row["name"], "output")
            except PageError as error:
                raise OutputError(f"the saved state of the job is damaged: {error.reason}") from error
            target.parent.mkdir(parents=True, exist_ok=True)
            # A file that is lost is an output that is made again, or a job that begins again.
            with contextlib.suppress(FileNotFoundError):
                self._store.fetch(row["storage_key"], target)
                found = target.stat()
                stored = StoredFile(row["storage_key"], row["size"], row["sha256"])
                if row["name"] != LEDGER:
                    self._outputs[row["name"]] = _Saved(found.st_size, found.st_mtime_ns, stored)
        if (self._output / LEDGER).is_file():
            ledger = Ledger(self._output / LEDGER)
            try:
                ledger.move_inputs(self._folder / "in")
            finally:
                ledger.close()
        log.info("job %s continues from its saved state", self._claimed.job_id)


def state_of(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return the files of the saved state of a job."""
    rows = connection.execute(
        sa.select(files_table).where(files_table.c.job_id == job_id, files_table.c.kind == "state")
    )
    return [dict(row) for row in rows.mappings()]


def take_results(connection: Connection, job_id: str, results: list[str]) -> None:
    """Remove those saved files from the state of a job that become its results.

    Args:
        connection: in a transaction that writes.
        job_id: the job.
        results: keys.
    """
    _delete(connection, sa.and_(files_table.c.job_id == job_id, files_table.c.storage_key.in_(results)))


def delete_state(database: Database, store: FileStore, job_id: str) -> None:
    """Delete the saved state of a job that has ended. Blocks."""
    try:
        keys = database.write(
            lambda connection: _delete(
                connection, sa.and_(files_table.c.job_id == job_id, files_table.c.kind == "state")
            )
        )
    except DatabaseError as error:
        # It goes with the job.
        log.error("%s", error)
        return
    for key in keys:
        store.delete(key)


def _delete(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    deleted = sa.delete(files_table).where(which, files_table.c.kind == "state")
    return list(connection.scalars(deleted.returning(files_table.c.storage_key)))


def _fence_of(key: str) -> int:
    return int(key.rpartition("/")[2].partition("-")[0])


def _outputs(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, (bytes, modification time)) of the complete outputs: no locks, no ledger, no unfinished file."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if parts[0] == MARKER_FOLDER and len(parts) == 2:
            continue
        if path.name.startswith(_UNFINISHED[0]) and path.name.endswith(_UNFINISHED[1]):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found = path.stat()
                yield "/".join(parts), (found.st_size, found.st_mtime_ns)
