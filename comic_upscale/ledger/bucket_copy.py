"""The copy of a ledger beside outputs in a bucket, so that any machine can continue the job.

The ledger itself is a file of one machine, and only one machine at a time works on a job. It saves a copy at
intervals and at the end. A record may be missing in that copy, but the copy never names an output that is not there.

A small object, the sign, says that a run is alive, from before the input is read until the ledger is saved. A machine
that begins waits until the last sign of another one is old enough. A run that finds the sign or the copy of another
machine in the place of its own has lost the job: it ends, and saves nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from comic_upscale.errors import LedgerBusyError, LedgerError, OutputError, StorageError
from comic_upscale.ledger.queries import copy_ledger_file
from comic_upscale.settings.paths import LEDGER_NAME, MARKER_FOLDER, path_text
from comic_upscale.settings.places import place_of
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.buckets import MARK, Bucket
from comic_upscale.storage.parts import open_part

log = logging.getLogger(__name__)

SAVE_SECONDS = 30.0
"""Between two copies, at least."""
SAVE_SHARE = 0.1
"""The most of a run's time that saving takes: a large ledger is saved less often."""
SIGN_SECONDS = 20.0
ALIVE_WITHIN_SECONDS = 75.0
"""A run on another machine counts as alive for this long after its last sign."""
_POLL_SECONDS = 5.0
_LEDGER = f"{MARKER_FOLDER}/{LEDGER_NAME}"
_SIGN = f"{MARKER_FOLDER}/run.json"
_CLOCK = f"{MARKER_FOLDER}/clock"
_NOTE = "copies.json"
"""A file beside the ledger: the tokens of the copies that this machine made or fetched."""
_MACHINE = "machine"
"""A file beside it: what its signs have in common, so that it does not wait for its own killed run."""


class LedgerCopy:
    """The copy of one ledger. Call `close` at the end.

    Args:
        output: the output of the job, a place in a bucket.
        ledger: the file of this machine.
        folder: of this machine, with the marker folder.
        bucket: the place; None to open it.
    """

    def __init__(self, output: Path, ledger: Path, folder: Path, bucket: Bucket | None = None) -> None:
        self._output, self._ledger = output, ledger
        self._note = folder / MARKER_FOLDER / _NOTE
        self._bucket = bucket or Bucket(place_of(output))
        self._ended, self._closed = threading.Event(), threading.Event()
        self._lock, self._lost_lock = threading.Lock(), threading.Lock()
        self._signs: threading.Thread | None = None
        self._lost: str | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._failures: dict[str, type[Exception]] = {}
        """What fails at present, by its message: the kind of the last failure."""
        self.was_fetched = False
        """Whether `restore` has put the copy in the place of the ledger."""

    def restore(self, on_wait: Callable[[str], None]) -> None:
        """Put the copy in the place of the ledger, if another machine has made it. The job is locked meanwhile.

        From then on until `close`, signs say that this machine works on the job, whether there is a copy or not. An
        older ledger of this machine is kept under another name.

        Args:
            on_wait: called with what is waited for.

        Raises:
            LedgerBusyError: another machine works on the job.
            LedgerError: the copy cannot be fetched.
        """
        try:
            self._wait_for_end(on_wait)
            self._begin_signs()
            token = self._token()
            if token is not None and not (token in self._tokens() and self._ledger.is_file()):
                on_wait("fetching the ledger")
                self._fetch()
                self._remember(self._token() or token)
                self.was_fetched = True
            # Another machine may have begun in the same moment. The last sign counts.
            self._check_sign()
        except LedgerBusyError:
            self.close()
            raise
        except StorageError as error:
            self.close()
            raise LedgerError(
                f"the ledger in {path_text(self._output)} cannot be fetched: {error}"
            ) from error
        except OSError as error:
            self.close()
            raise LedgerError(f"{self._ledger} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """End the signs: another machine may begin at once."""
        self._closed.set()
        if self._signs is None:
            return
        self._signs.join()
        self._signs = None
        with contextlib.suppress(StorageError):
            if self._is_mine(self._signer()):
                self._bucket.delete([_SIGN])

    def save(self) -> None:
        """Copy the ledger into the bucket.

        Raises:
            LedgerBusyError: another machine has taken the job over.
            StorageError: the bucket cannot be used.
        """
        with self._lock:
            there = self._check_mine()
            token = secrets.token_hex(16)
            with tempfile.TemporaryDirectory(prefix="comic-upscale-") as folder:
                copy = Path(folder, LEDGER_NAME)
                copy_ledger_file(self._ledger, copy)
                # Known before it is sent: a kill in between must not make the copy look like that of another machine.
                self._remember(token, there)
                with copy.open("rb") as file:
                    sent = self._bucket.put(_LEDGER, file, {MARK: token})
                # What identifies the copy where a service keeps no metadata.
                self._remember(f"tag {sent.e_tag}", token)

    @contextlib.contextmanager
    def saving(self, on_lost: Callable[[str], None]) -> Iterator[None]:
        """Save at intervals inside the block, and at its end, however it ends.

        Args:
            on_lost: called with the reason when another machine has taken the job over; from any thread.

        Raises:
            LedgerBusyError: another machine has taken the job over, and ``on_lost`` was not called.
            OutputError: the last copy cannot be saved.
        """
        with self._lost_lock:
            self._on_lost = on_lost
            lost = self._lost
        if lost is not None:
            on_lost(lost)
        saver = threading.Thread(target=self._save_often, name="ledger-copy", daemon=True)
        saver.start()
        try:
            yield
        finally:
            self._ended.set()
            saver.join()
            self._save_last()

    def _save_last(self) -> None:
        if self._lost is not None:
            # The run was stopped for this reason. A copy of it would be in the way of the other machine.
            return
        try:
            self.save()
        except (StorageError, OSError, sqlite3.Error) as error:
            raise OutputError(
                f"the ledger cannot be copied to {path_text(self._output)}: {error}. The ledger of this machine is "
                "complete: run the same command again here"
            ) from error

    def _save_often(self) -> None:
        wait = SAVE_SECONDS
        while not self._ended.wait(wait):
            began = time.monotonic()
            if not self._try("the ledger cannot be copied", self.save):
                return
            # After a failure, the next copy has everything, and the last one reports its own.
            wait = max(SAVE_SECONDS, (time.monotonic() - began) / SAVE_SHARE)

    def _lose(self, reason: str) -> None:
        """Note that another machine has taken the job over; the first reason is told."""
        with self._lost_lock:
            if self._lost is not None:
                return
            self._lost, on_lost = reason, self._on_lost
        if on_lost is not None:
            on_lost(reason)

    def _begin_signs(self) -> None:
        self._give_sign()
        self._signs = threading.Thread(target=self._give_signs, name="ledger-signs", daemon=True)
        self._signs.start()

    def _give_signs(self) -> None:
        while not self._closed.wait(SIGN_SECONDS):
            if not self._try("the sign that this run is alive cannot be sent", self._renew_sign):
                return

    def _renew_sign(self) -> None:
        self._check_sign()
        self._give_sign()

    def _try(self, failure: str, step: Callable[[], None]) -> bool:
        """Do one step of a thread, and return whether the job is still ours. A failure ends nothing.

        Only the first failure of a row is logged, and one of another kind: a bucket may be away for hours.
        """
        try:
            step()
        except LedgerBusyError as error:
            self._lose(str(error))
            return False
        except (StorageError, OutputError, OSError, sqlite3.Error) as error:
            if self._is_new(failure, error):
                log.warning("%s to %s: %s", failure, path_text(self._output), error)
        except Exception as error:
            if self._is_new(failure, error):
                log.exception("%s to %s", failure, path_text(self._output))
        else:
            self._failures.pop(failure, None)
        return True

    def _is_new(self, failure: str, error: Exception) -> bool:
        is_new = self._failures.get(failure) is not type(error)
        self._failures[failure] = type(error)
        return is_new

    def _give_sign(self) -> None:
        sign = {"host": socket.gethostname(), "pid": os.getpid(), "machine": self._machine()}
        self._bucket.put(_SIGN, json.dumps(sign).encode())

    def _check_sign(self) -> None:
        sign = self._signer()
        if sign is not None and not self._is_mine(sign):
            raise LedgerBusyError(
                f"{_named(sign)} has taken over the job in {path_text(self._output)}, so this run ends here"
            )

    def _signer(self) -> dict[str, object] | None:
        """Return the last sign: empty if it cannot be read, None if there is none."""
        try:
            sign = json.loads(self._bucket.get(_SIGN))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return sign if isinstance(sign, dict) else {}

    def _is_mine(self, sign: dict[str, object] | None) -> bool:
        return sign is not None and sign.get("machine") == self._machine()

    def _machine(self) -> str:
        """Return what names this machine in signs of this job; it is made at the first call."""
        path = self._note.with_name(_MACHINE)
        with contextlib.suppress(OSError, ValueError):
            if name := path.read_text(encoding="ascii").strip():
                return name
        name = secrets.token_hex(16)
        write_whole(name.encode(), path)
        return name

    def _wait_for_end(self, on_wait: Callable[[str], None]) -> None:
        """Wait until the last sign of another machine is old; its time and ours are those of the bucket's clock."""
        first = self._last_sign()
        if first is None or self._is_mine(self._signer()):
            return
        self._bucket.put(_CLOCK, b"")
        age = (self._bucket.head(_CLOCK).mtime_ns - first) / 1e9
        self._bucket.delete([_CLOCK])
        until = time.monotonic() + ALIVE_WITHIN_SECONDS - age
        while (left := until - time.monotonic()) > 0:
            on_wait(f"waiting {left:.0f} s: another machine was working on this job a moment ago")
            time.sleep(min(left, _POLL_SECONDS))
            latest = self._last_sign()
            if latest is None:
                return
            if latest != first:
                raise LedgerBusyError(
                    f"{_named(self._signer() or {})} is working on {path_text(self._output)}: wait for it, or stop it"
                )

    def _last_sign(self) -> int | None:
        try:
            return self._bucket.head(_SIGN).mtime_ns
        except FileNotFoundError:
            return None

    def _check_mine(self) -> str | None:
        """Return the token of the copy in the bucket, which this machine made; None if there is no copy."""
        token = self._token()
        if token is not None and token not in self._tokens():
            raise LedgerBusyError(
                f"another machine has taken over the job in {path_text(self._output)}, so this run ends here"
            )
        return token

    def _token(self) -> str | None:
        """Return the token of the copy in the bucket; None if there is no copy."""
        try:
            # A service without metadata still has a tag of the content.
            return self._bucket.marks(_LEDGER).get(MARK) or f"tag {self._bucket.head(_LEDGER).e_tag}"
        except FileNotFoundError:
            return None

    def _tokens(self) -> list[str]:
        try:
            return [str(token) for token in json.loads(self._note.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def _remember(self, token: str, there: str | None = None) -> None:
        """Note the token of a copy.

        Args:
            token: of the copy that is sent, or was fetched.
            there: of the one in the bucket, which stays if the next one does not arrive.
        """
        # A copy that seems to have failed may still arrive, so the ones before it are remembered, too.
        others = [each for each in self._tokens() if each != there][-3:]
        first = [] if there is None else [there]
        write_whole(json.dumps([*first, *others, token]).encode(), self._note)

    def _fetch(self) -> None:
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        with open_part(self._ledger, os.getpid()) as part:
            self._bucket.fetch(self._bucket.head(_LEDGER), part.file)
            part.flush()
            if self._ledger.exists():
                for end in ("", "-wal", "-shm"):
                    path = self._ledger.with_name(self._ledger.name + end)
                    if path.exists():
                        path.replace(
                            self._ledger.with_name(f"{self._ledger.stem}-before{self._ledger.suffix}{end}")
                        )
            part.move_to(self._ledger)


def _named(sign: dict[str, object]) -> str:
    """Return who gave a sign, in words."""
    host, pid = sign.get("host"), sign.get("pid")
    if isinstance(host, str) and host.isprintable() and isinstance(pid, int):
        return f"process {pid} on {host[:100]}"
    return "another machine"
