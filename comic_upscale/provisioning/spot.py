"""Notices of a cloud that it will take a spot machine back soon, read from the machine's own metadata service."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias

from comic_upscale.errors import SettingsError

log = logging.getLogger(__name__)

SpotCloud: TypeAlias = Literal["aws", "gcp"]
"""A cloud whose notices can be read."""

ADDRESSES: Mapping[SpotCloud, str] = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
}
"""The metadata services. They answer on machines of their cloud only."""
LOOK_SECONDS = 5.0
"""Between two looks. AWS gives a notice two minutes ahead, Google Cloud half a minute."""
_ANSWER_SECONDS = 2.0
_TOKEN_SECONDS = 21_600
_MOST_BYTES = 4096


class _RefusedError(OSError):
    """The service answers with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP status {code}")
        self.code = code


class SpotNotice:
    """Asks a metadata service. Used from one thread at a time.

    Args:
        cloud: of this machine.
        address: of the service; None for the usual one.
    """

    def __init__(self, cloud: SpotCloud, address: str | None = None) -> None:
        self._cloud, self._address = cloud, (address or ADDRESSES[cloud]).rstrip("/")
        self._token = ""

    def check(self) -> None:
        """Ask once.

        Raises:
            SettingsError: there is no such service.
        """
        try:
            self.look()
        except OSError:
            raise SettingsError(
                f"--spot-notice {self._cloud}: no metadata service answers at {self._address}, so this is no machine "
                "of that cloud, or its service is turned off. Leave the option out"
            ) from None

    def look(self) -> str | None:
        """Return the notice as text; None if the machine may stay.

        Raises:
            OSError: the service does not answer.
        """
        return self._look_at_aws() if self._cloud == "aws" else self._look_at_gcp()

    def _look_at_aws(self) -> str | None:
        try:
            text = self._read_aws()
        except _RefusedError as error:
            if error.code != 401:
                raise
            # The token has expired.
            self._token = ""
            text = self._read_aws()
        if text is None:
            return None
        try:
            action, time = (str(json.loads(text)[name]) for name in ("action", "time"))
        except (ValueError, KeyError, TypeError):
            return "AWS takes this spot machine back"
        return f"AWS will {action} this spot machine at {time}"

    def _read_aws(self) -> str | None:
        if not self._token:
            asked = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            self._token = self._ask("/latest/api/token", asked, "PUT") or ""
        return self._ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})

    def _look_at_gcp(self) -> str | None:
        text = self._ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        return "Google Cloud takes this spot machine back" if (text or "").strip() == "TRUE" else None

    def _ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
        """Return an answer; None for one that does not exist."""
        # Here, so that `--help` does not import it.
        import http.client
        import urllib.error
        import urllib.request

        # Never through a proxy: the addresses mean this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            request = urllib.request.Request(self._address + path, headers=dict(headers), method=method)
            with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
                return str(answer.read(_MOST_BYTES).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404 and method == "GET":
                return None
            raise _RefusedError(error.code) from None
        except (http.client.HTTPException, ValueError) as error:
            # An answer that is no HTTP, an address that is none, a token that is no header.
            raise OSError(f"{type(error).__name__}: {error}") from None


@contextmanager
def watch(notice: SpotNotice, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Look for a notice inside the block, on a thread, and pass the first one on.

    Args:
        notice: asks the service.
        on_notice: takes the notice as text, on that thread.
    """
    ended = threading.Event()

    def look_again_and_again() -> None:
        while not ended.wait(LOOK_SECONDS):
            try:
                text = notice.look()
            except OSError as error:
                # It may answer again. Without a notice, a lost machine loses only its pages in flight.
                log.warning("the metadata service does not answer: %s", error)
                continue
            if text is not None:
                on_notice(text)
                return

    thread = threading.Thread(target=look_again_and_again, name="spot notice", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
