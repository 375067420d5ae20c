"""The HTTP interface of Imagen on Vertex AI: one call, its answer, and what its errors mean.

Source: the reference of ``:predict`` for imagen-4.0-upscale-preview, November 2026.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from comic_upscale.errors import CeilingError, DeviceError, PageError, SettingsError

if TYPE_CHECKING:
    from comic_upscale.costs.spending import Spending
    from comic_upscale.engines.imagen.factory import ImagenOptions

log = logging.getLogger(__name__)

FAILED = "imagen"
"""The kind of failure if the service gave no picture."""
REFUSED = "imagen-refused"
"""The kind of failure if the service's filter refused the picture."""
LARGEST_ANSWER = 192 << 20
"""The most bytes of an answer: 17 million pixels of RGB, not compressed, in base64, and room."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_CONNECT_SECONDS = 20.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
_LONGEST_ASKED = 900.0
"""The most seconds that the service may ask to wait."""


class _BrokenAnswerError(Exception):
    """The call was made, and its answer was lost or is incomplete."""


def load_credentials(path: Path | None) -> Any:
    """Return the credentials of a service account, or the default ones of this machine. Nothing is sent.

    Raises:
        SettingsError: there are none, or the file is none.
    """
    import google.auth
    import google.auth.exceptions
    from google.oauth2 import service_account

    try:
        if path is not None:
            kind: Any = service_account.Credentials
            return kind.from_service_account_file(str(path), scopes=[_SCOPE])
        library: Any = google.auth
        return library.default(scopes=[_SCOPE])[0]
    except google.auth.exceptions.DefaultCredentialsError:
        raise SettingsError(
            "there are no credentials for Google Cloud: run `gcloud auth application-default login`, or add "
            "--engine-option credentials=FILE.json of a service account"
        ) from None
    except (OSError, ValueError, KeyError):
        # Without the cause: its message may quote the file, which has a private key.
        raise SettingsError(
            f"{path} is not the JSON file of a service account: create a key of type JSON in Google Cloud"
        ) from None


class ImagenClient:
    """Makes calls of the service, one at a time.

    Args:
        options: of the engine.
        credentials: from `load_credentials`.
    """

    def __init__(self, options: ImagenOptions, credentials: Any) -> None:
        from google.auth.transport import requests as transport

        library: Any = transport
        self._options = options
        self._session: Any = library.AuthorizedSession(credentials)
        self._url = (
            f"{options.address}/v1/projects/{options.project}/locations/{options.region}/publishers/google/"
            f"models/{options.model}:predict"
        )
        self.spending: Spending | None = None
        """Counts the calls; None for a job without a meter."""

    def upscale(self, png: bytes, factor: int, wait: Callable[[float], bool]) -> bytes:
        """Return the file of a picture that is this many times as large.

        Each attempt is recorded in the meter before it is made, and taken back if it was surely not billed.

        Args:
            png: the file of a picture.
            factor: 2, 3 or 4.
            wait: waits this many seconds; returns True if the engine was stopped meanwhile.

        Raises:
            CeilingError: the call would exceed the cost ceiling.
            PageError: the service refused the picture, answered without one, or did not answer in all attempts.
            DeviceError: the service refuses the account, or lacks the model.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self._options.attempts + 1):
            self._bill()
            reason, asked = "", None
            try:
                response = self._post(png, factor)
                if response.status_code == 200:
                    return _read_picture(_read_body(response))
                # An error is not billed.
                self._refund()
                reason = _describe_error(response)
                self._check_status(response.status_code, reason)
                asked = _retry_after(response)
            except _NoTokenError as error:
                self._refund()
                raise DeviceError(str(error)) from None
            except _NotSentError as error:
                self._refund()
                reason = str(error)
            except _BrokenAnswerError as error:
                # It may well be billed, so it stays counted.
                reason = str(error)
            log.info("call %d of %d: %s", attempt, self._options.attempts, reason)
            if attempt == self._options.attempts:
                break
            if wait(min(asked if asked is not None else pause, _LONGEST_ASKED)):
                raise DeviceError(f"{self._options.model} was stopped")
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise PageError(
            FAILED, f"{self._options.model} gave no picture in {self._options.attempts} attempts: {reason}"
        )

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _post(self, png: bytes, factor: int) -> requests.Response:
        import google.auth.exceptions

        options = self._options
        body = {
            "instances": [
                {"prompt": options.prompt, "image": {"bytesBase64Encoded": base64.b64encode(png).decode()}}
            ],
            "parameters": {
                "mode": "upscale",
                "sampleCount": 1,
                "addWatermark": False,
                "upscaleConfig": {"upscaleFactor": f"x{factor}"},
                "outputOptions": {"mimeType": "image/png"},
            },
        }
        try:
            # No redirects: the token would go along.
            response: requests.Response = self._session.request(
                "POST", self._url, json=body, timeout=(_CONNECT_SECONDS, options.timeout), stream=True,
                allow_redirects=False, max_allowed_time=options.timeout + _CONNECT_SECONDS,
            )  # fmt: skip
            return response
        except google.auth.exceptions.TransportError:
            raise _NotSentError("the service that issues tokens cannot be reached") from None
        except google.auth.exceptions.GoogleAuthError:
            # Without the cause: its message may quote the answer of the token service.
            raise _NoTokenError(
                "Google Cloud does not accept the credentials: run `gcloud auth application-default login` again, "
                "or use another key"
            ) from None
        except requests.ConnectTimeout:
            raise _NotSentError("the service cannot be reached") from None
        except requests.Timeout:
            raise _BrokenAnswerError(f"no answer within {options.timeout:g} s") from None
        except requests.ConnectionError as error:
            if "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error):
                raise _NotSentError("the service cannot be reached") from None
            raise _BrokenAnswerError("the connection broke before the answer") from None
        except requests.RequestException as error:
            raise _BrokenAnswerError(f"the call failed ({type(error).__name__})") from None

    def _check_status(self, status: int, reason: str) -> None:
        """Raise the error of an answer after which a further attempt is no use."""
        options = self._options
        if status in (401, 403):
            raise DeviceError(
                f"Google Cloud refuses the account for the project {options.project}: {reason}. It needs the role "
                "Vertex AI User, and the project the Vertex AI API and billing"
            )
        if status == 404:
            raise DeviceError(
                f"the service has no model {options.model} in {options.region}: {reason}. It may have been retired: "
                "look for its successor, and add --engine-option model=NAME, or another region"
            )
        if status not in (408, 429) and status < 500:
            raise PageError(FAILED, f"{options.model} refused the call: {reason}")

    def _bill(self) -> None:
        spending = self.spending
        if spending is not None and not spending.try_bill(self._options.price_per_image):
            raise CeilingError(
                f"{spending.why()}, and the next call costs ${self._options.price_per_image:g}"
            )

    def _refund(self) -> None:
        if self.spending is not None:
            self.spending.refund(self._options.price_per_image)


class _NotSentError(Exception):
    """The call was not made."""


class _NoTokenError(Exception):
    """The call was not made, and no further one can be: the account gets no token."""


def _read_body(response: requests.Response) -> Any:
    """Return the JSON of an answer."""
    parts, size = [], 0
    try:
        for part in response.iter_content(1 << 20):
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise PageError(FAILED, f"the answer has more than {LARGEST_ANSWER >> 20} MB")
        return json.loads(b"".join(parts))
    except requests.RequestException:
        raise _BrokenAnswerError("the connection broke during the answer") from None
    except (ValueError, RecursionError):
        raise _BrokenAnswerError("the answer is incomplete or not JSON") from None
    finally:
        response.close()


def _read_picture(body: Any) -> bytes:
    """Return the picture of an answer. One that arrived whole is paid for, so it is not asked for again.

    Raises:
        PageError: the service's filter refused the picture, or the answer has none.
    """
    predictions = body.get("predictions") if isinstance(body, dict) else None
    first = predictions[0] if isinstance(predictions, list) and predictions else {}
    for part in (first, body):
        if isinstance(part, dict) and (reason := part.get("raiFilteredReason")):
            raise PageError(REFUSED, f"the service refused this page by its filter: {_plain(reason)}")
    encoded = first.get("bytesBase64Encoded") if isinstance(first, dict) else None
    try:
        picture = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except (binascii.Error, ValueError):
        picture = b""
    if not picture:
        raise PageError(
            FAILED, "the service answered without a picture, as it does if its filter refuses one"
        )
    return picture


def _describe_error(response: requests.Response) -> str:
    """Return the service's own words."""
    try:
        error = json.loads(response.raw.read(65536, decode_content=True))["error"]
        return f"{response.status_code} {_plain(error.get('status', ''))}: {_plain(error['message'])}"
    except Exception:
        # Whatever is between, a proxy for example, may answer anything.
        return f"HTTP status {response.status_code}"
    finally:
        response.close()


def _plain(text: object) -> str:
    """Return foreign text in one line, at most 300 characters, without a full stop: a sentence goes on after it."""
    words = " ".join(str(text).split())
    return "".join(char for char in words if char.isprintable())[:300].rstrip(". ")


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that the service asks to wait; None if it does not."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
