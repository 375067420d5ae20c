"""A link to a remote machine that outlives its connections: it connects when needed, and retries what was cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from comic_upscale.errors import ConnectionLostError, RemoteError, UnreachableError
from comic_upscale.execution.ssh.connection import Connection, Ended
from comic_upscale.retries import RetryPolicy, with_retries

T = TypeVar("T")

_LOOK_SECONDS = 0.2
"""The longest piece of a pause: between two pieces it may end early."""


class Link:
    """A remote machine as commands reach it. One thread uses it; any thread may call `abort`.

    Args:
        connect: returns a connection that is not open yet.
        retry: how a lost connection is retried.
        may_be_starting: whether the first connection is retried, too, if nothing answers at the address.
    """

    def __init__(
        self, connect: Callable[[], Connection], retry: RetryPolicy, *, may_be_starting: bool = True
    ) -> None:
        self._connect = connect
        self._retry = retry
        self._was_reached = may_be_starting
        self._connection: Connection | None = None
        self._aborted = threading.Event()

    @property
    def name(self) -> str:
        """The name that the user gave the machine."""
        return "the remote machine" if self._connection is None else self._connection.address.name

    def private_names(self) -> tuple[str, ...]:
        """Return the names and addresses of the machine, which belong in no record."""
        address = self._connect().address
        names: set[str] = set()
        for each in (address, *address.jumps):
            names |= {each.name, each.host, each.key_name, f"{each.user}@{each.host}"}
        return tuple(sorted(names, key=len, reverse=True))

    def connect(self) -> None:
        """Connect, unless there is a connection.

        Raises:
            RemoteError: the machine cannot be reached, or refuses the login.
        """
        self.call(lambda connection: None)

    def call(self, step: Callable[[Connection], T]) -> T:
        """Run a step with a connection; repeat it if the connection is lost.

        Raises:
            RemoteError: the step failed, or was aborted.
        """
        policy = replace(self._retry, wait=self._wait, on_failure=self._on_lost)
        return with_retries(lambda: self._try_once(step), policy, ConnectionLostError)

    def run(self, script: str, *, seconds: float | None = None) -> Ended:
        """Run a script; arguments as for `Connection.run`."""
        return self.call(lambda connection: connection.run(script, seconds=seconds))

    def check(
        self,
        script: str,
        *,
        feed: Callable[[], Iterable[bytes]] = lambda: (),
        seconds: float | None = None,
    ) -> bytes:
        """Run a script that must succeed, and return its output.

        Args:
            script: for ``sh``.
            feed: returns the bytes for its standard input, each time from the beginning.
            seconds: see `Connection.run`.
        """
        return self.call(lambda connection: connection.check(script, feed=feed(), seconds=seconds))

    def close(self) -> None:
        """Disconnect; a run on the machine continues."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abort(self) -> None:
        """Break off the call in progress, and refuse others until `recover`."""
        self._aborted.set()
        connection = self._connection
        if connection is not None:
            connection.abort()

    def recover(self) -> None:
        """Accept calls again after `abort`."""
        self.close()
        self._aborted.clear()

    def _try_once(self, step: Callable[[Connection], T]) -> T:
        if self._aborted.is_set():
            raise RemoteError("the remote command was broken off")
        if self._connection is None:
            # Known before it is open, so that `abort` also ends a connection that hangs while it is made.
            self._connection = self._connect()
            try:
                self._connection.open()
                self._was_reached = True
            except UnreachableError as error:
                self.close()
                if self._was_reached:
                    raise
                raise RemoteError(
                    f"{error}. Check the address, and that the machine is running. `remote upscale --patience SECONDS` "
                    "waits for one that is still starting"
                ) from error
            except BaseException:
                self.close()
                raise
        try:
            return step(self._connection)
        except RemoteError:
            # Reconnecting takes a moment; a half-read answer must not be read further.
            if self._connection is not None and not self._connection.is_alive():
                self.close()
            raise

    def _wait(self, seconds: float) -> bool:
        left = seconds
        while left > 0:
            if self._aborted.is_set() or self._retry.wait(min(_LOOK_SECONDS, left)):
                return True
            left -= _LOOK_SECONDS
        return self._aborted.is_set()

    def _on_lost(self, reason: str) -> None:
        self.close()
        self._retry.on_failure(reason)
