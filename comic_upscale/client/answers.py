"""What the server answers, as the clients return it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast
from urllib.parse import urlencode

import httpx2 as httpx

from comic_upscale.errors import ComicUpscaleError

Status: TypeAlias = Literal["queued", "running", "completed", "failed", "canceled"]
WatchState: TypeAlias = Literal["watching", "working", "waiting", "paused"]
ENDED: frozenset[Status] = frozenset(("completed", "failed", "canceled"))

TRIES = 4
"""The most times that a request is sent. Sent twice, each one has the effect of once."""
AGAIN = frozenset((429, 502, 503, 504))
_LONGEST_WAIT = 60.0


class ClientError(ComicUpscaleError):
    """The server refused a request, or cannot be reached.

    Args:
        message: what happened, and what to do.
        status: of the response; None without one.
        code: the short word of the server, such as ``not_found``.
        field: the field of the request that it is about.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


class JobFailed(ClientError):  # noqa: N818 - what it says
    """A job ended without a result.

    Args:
        job: in its last state.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id}: {job.error or f'it is {job.status}'}", code=job.error_code)
        self.job = job


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The state of a job."""

    id: str
    status: Status
    progress: float
    """0 to 100."""
    title: str
    pages_total: int | None
    """None before a worker has counted them."""
    pages_done: int
    pages_failed: int
    result_url: str | None
    """Once it is completed."""
    error: str | None
    error_code: str | None
    raw: Mapping[str, Any]
    """Everything that the server says."""

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self.status in ENDED


def read_job(answer: Mapping[str, Any]) -> Job:
    """Return a job from the answer of the server.

    Raises:
        ClientError: this is no job.
    """
    try:
        pages, error = answer["pages"], answer["error"] or {}
        return Job(
            id=answer["job_id"], status=cast("Status", answer["status"]), progress=answer["progress"],
            title=answer["title"], pages_total=pages["total"], pages_done=pages["done"],
            pages_failed=pages["failed"], result_url=answer["result_url"], error=error.get("message"),
            error_code=error.get("code"), raw=answer,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ClientError(f"this is no answer of a comic-upscale server: {error!r} is missing") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A link that shows a job to anybody who has it."""

    url: str
    """The address, or its path on the pages of the server, if the server does not know its own address."""
    expires_at: str
    """When it ends, in ISO 8601 and UTC."""


def read_share(answer: Mapping[str, Any]) -> Share:
    """Return a link from the answer of the server.

    Raises:
        ClientError: this is none.
    """
    try:
        return Share(url=answer["url"] or answer["path"], expires_at=answer["expires_at"])
    except (KeyError, TypeError) as error:
        raise ClientError(f"this is no answer of a comic-upscale server: {error!r} is missing") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A watched folder of the server."""

    id: str
    input: str
    """Path of the folder on the machine of the server."""
    output: str
    """Path of the folder of the results."""
    state: WatchState
    problem: str | None
    """What it waits for."""
    pages: int | None
    """Pages and volumes in it; None before the first look."""
    job_id: str | None
    """The last job."""
    raw: Mapping[str, Any]
    """Everything that the server says."""


def read_watch(answer: Mapping[str, Any]) -> Watch:
    """Return a watched folder from the answer of the server.

    Raises:
        ClientError: this is none.
    """
    try:
        return Watch(
            id=answer["watch_id"], input=answer["input"], output=answer["output"],
            state=cast("WatchState", answer["state"]), problem=answer["problem"], pages=answer["pages"],
            job_id=answer["job_id"], raw=answer,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ClientError(f"this is no answer of a comic-upscale server: {error!r} is missing") from None


def new_watch(
    folder: str, output: str | None, settle: float | None, options: Mapping[str, object]
) -> dict[str, Any]:
    """Return the body of a request that watches a folder."""
    body: dict[str, Any] = {"input": folder, "options": form_fields(options)}
    given = {"output": output, "settle": settle}
    return body | {name: value for name, value in given.items() if value is not None}


def read_answer(response: httpx.Response) -> Any:
    """Return the JSON of a response.

    Raises:
        ClientError: it reports an error, or is no JSON.
    """
    if response.is_success:
        try:
            return response.json() if response.content else None
        except ValueError:
            raise ClientError(
                "this is no answer of a comic-upscale server", status=response.status_code
            ) from None
    raise read_error(response)


def read_error(response: httpx.Response) -> ClientError:
    """Return the error that a response reports."""
    try:
        content = response.json()["error"]
        message, code, field = str(content["message"]), str(content["code"]), content.get("field")
    except (ValueError, KeyError, TypeError, httpx.ResponseNotRead):
        message, code, field = f"the server answered {response.status_code}", None, None
    return ClientError(message, status=response.status_code, code=code, field=field)


def broken_download(error: httpx.HTTPError) -> ClientError:
    """Return the error for a download that a fault of the connection ended."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ClientError(f"the server cannot be reached: {reason}")
    return ClientError(f"the download broke: {reason}")


def is_deleted(response: httpx.Response, attempt: int) -> bool:
    """Return whether a job that is deleted for another time was deleted by a try whose answer was lost."""
    return attempt > 1 and response.request.method == "DELETE" and response.status_code == 404


def wait_before_retry(response: httpx.Response | None, attempt: int) -> float | None:
    """Return the seconds before a request is sent again; None if it should not be.

    Args:
        response: of the last try; None if there was none.
        attempt: the number of tries so far.
    """
    if attempt >= TRIES or (response is not None and response.status_code not in AGAIN):
        return None
    given = response.headers.get("retry-after", "") if response is not None else ""
    wait = float(given) if given.isascii() and given.isdigit() else math.ldexp(0.25, attempt)
    # The server may ask for an hour, after a quota. Whoever calls decides about that.
    return wait if wait <= _LONGEST_WAIT else None


def form_fields(options: Mapping[str, object]) -> dict[str, str]:
    """Return options as fields of a form: ``factor=2.5``, ``gate=False``."""
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if value is not None
    }


def open_file(path: Path | str) -> IO[bytes]:
    """Open a file for an upload."""
    return Path(path).open("rb")


@contextmanager
def writing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, and put it there if the ``with`` block ends well."""
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def job_id_of(job: Job | str) -> str:
    """Return the id of a job."""
    return job if isinstance(job, str) else job.id


def watch_url(watch: Watch | str, action: str = "") -> str:
    """Return the address of a watched folder, or of something that is done with it."""
    return f"/api/v1/watches/{watch if isinstance(watch, str) else watch.id}{action and f'/{action}'}"


def jobs_url(status: Status | None, cursor: str | None) -> str:
    """Return the address of a page of the list of jobs."""
    query = {"status": status, "cursor": cursor, "limit": "200"}
    return f"/api/v1/jobs?{urlencode({name: value for name, value in query.items() if value})}"


def name_of(response: httpx.Response) -> str:
    """Return the file name of a result. A server could name any path, so only the last part of it counts."""
    name = Path(response.url.path).name
    return name if name not in ("", ".", "..") else "result"
