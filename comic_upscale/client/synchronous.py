"""The client that blocks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

from comic_upscale.client.answers import (
    ClientError,
    Job,
    JobFailed,
    Share,
    Status,
    Watch,
    broken_download,
    form_fields,
    is_deleted,
    job_id_of,
    jobs_url,
    name_of,
    new_watch,
    open_file,
    read_answer,
    read_error,
    read_job,
    read_share,
    read_watch,
    wait_before_retry,
    watch_url,
    writing,
)
from comic_upscale.client.resumable import PATIENCE, Ask, Pause, Steps, is_large, upload_steps

TIMEOUT = 60.0
"""Seconds without a byte after which a request counts as failed."""


class Client:
    """Talks to a server. Use it in a ``with`` block, or close it.

    ::

        with Client("http://127.0.0.1:5900", "cu_...") as client:
            job = client.wait(client.upload(["volume.cbz"], factor=2))
            client.fetch(job, Path("out"))

    Args:
        url: of the REST interface.
        key: an API key; None for a server that takes anonymous uploads.
        timeout: seconds without a byte after which a request counts as failed.
        transport: of httpx2, for instance for a proxy.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"X-API-Key": key}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def upload(self, files: Sequence[Path | str], *, patience: float = PATIENCE, **options: object) -> Job:
        """Upload images or volumes as one job, and return it.

        A connection that breaks is tried again; the server makes one job of all tries. Files of more than 32 MiB
        together go in parts. They continue where the connection broke, for ``patience`` seconds without progress.

        Args:
            files: paths of images and volumes.
            patience: seconds without progress after which large files are given up.
            options: fields of an upload: ``factor``, ``preset``, ``format``, ``lane``, ...

        Raises:
            ClientError: the server refuses it, or cannot be reached.
            OSError: a file cannot be read.
        """
        if is_large(files):
            return self.job(self._do(upload_steps(files, options, patience)))
        key = {"Idempotency-Key": str(uuid.uuid4())}

        def send() -> httpx.Response:
            with ExitStack() as stack:
                parts = [("file", (Path(path).name, stack.enter_context(open_file(path)))) for path in files]
                return self._http.post("/api/v1/uploads", files=parts, data=form_fields(options), headers=key)

        return self.job(self._call(send)["job_id"])

    def job(self, job_id: str) -> Job:
        """Return the state of a job; errors as for `upload`."""
        return read_job(self._get(f"/api/v1/jobs/{job_id}"))

    def wait(
        self,
        job: Job | str,
        *,
        timeout: float | None = None,
        every: float = 0.5,
        on_state: Callable[[Job], None] | None = None,
    ) -> Job:
        """Wait for the end of a job, and return it.

        Args:
            job: the job or its id.
            timeout: seconds; None to wait as long as it takes.
            every: seconds between two looks.
            on_state: called with each state.

        Raises:
            JobFailed: it ended without a result.
            TimeoutError: it has not ended in time. It goes on.
            ClientError: the server cannot be reached.
        """
        job_id, end = job_id_of(job), None if timeout is None else time.monotonic() + timeout
        while True:
            found = self.job(job_id)
            if on_state is not None:
                on_state(found)
            if found.status == "completed":
                return found
            if found.has_ended:
                raise JobFailed(found)
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"job {job_id} has not ended after {timeout:g} seconds")
            time.sleep(every)

    def fetch(self, job: Job | str, target: Path, *, format: str | None = None) -> Path:
        """Download the result of a job, and return its path. It is complete or absent.

        Args:
            job: the job or its id.
            target: a file, or a folder, which gets a file with the name of the result.
            format: ``zip`` or ``cbz`` for one archive in any case.

        Raises:
            ClientError: there is no result, or the server cannot be reached.
            OSError: the file cannot be written.
        """
        query = {} if format is None else {"format": format}
        url = f"/api/v1/jobs/{job_id_of(job)}/result"
        try:
            with self._http.stream("GET", url, params=query, follow_redirects=True) as response:
                if not response.is_success:
                    response.read()
                    raise read_error(response)
                path = target / name_of(response) if target.is_dir() else target
                with writing(path) as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
        except httpx.HTTPError as error:
            raise broken_download(error) from error
        return path

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job, and return its state; errors as for `upload`."""
        return read_job(self._call(lambda: self._http.post(f"/api/v1/jobs/{job_id_of(job)}/cancel")))

    def delete(self, job: Job | str) -> None:
        """Delete a job that has ended, with its files; errors as for `upload`."""
        self._call(lambda: self._http.delete(f"/api/v1/jobs/{job_id_of(job)}"))

    def again(self, job: Job | str, **options: object) -> Job:
        """Run a job that has ended again as a new job over the same files, and return that; errors as for `upload`.

        A connection that breaks is tried again; the server makes one job of all tries.

        Args:
            job: the job or its id.
            options: fields of an upload that differ; the others stay.
        """
        url, body = f"/api/v1/jobs/{job_id_of(job)}/again", {"options": form_fields(options)}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        return read_job(self._call(lambda: self._http.post(url, json=body, headers=key)))

    def share(self, job: Job | str) -> Share:
        """Return a link that shows a job to others for seven days, without an account; errors as for `upload`."""
        url = f"/api/v1/jobs/{job_id_of(job)}/share"
        return read_share(self._call(lambda: self._http.post(url)))

    def estimate(self, pages: Sequence[Mapping[str, int]], **options: object) -> Mapping[str, Any]:
        """Return what a job would take: see ``POST /api/v1/estimates``; errors as for `upload`.

        Args:
            pages: ``width``, ``height`` and ``count`` of each size.
            options: fields of an upload.
        """
        body = {"pages": [dict(page) for page in pages], "options": form_fields(options)}
        answer: Mapping[str, Any] = self._call(lambda: self._http.post("/api/v1/estimates", json=body))
        return answer

    def jobs(self, status: Status | None = None) -> Iterator[Job]:
        """Return your jobs, the latest first; errors as for `upload`.

        Args:
            status: only jobs with it.
        """
        cursor: str | None = None
        while True:
            answer = self._get(jobs_url(status, cursor))
            yield from map(read_job, answer["jobs"])
            if (cursor := answer["next_cursor"]) is None:
                return

    def watch(
        self, folder: str, *, output: str | None = None, settle: float | None = None, **options: object
    ) -> Watch:
        """Watch a folder of the server: what is new or changed in it is upscaled. For users of the library.

        Args:
            folder: path below a root of the server.
            output: path below a root for the results; None for ``upscaled`` inside the folder.
            settle: seconds for which a file must not change before it is taken; None for 30.
            options: fields of an upload: ``factor``, ``preset``, ``format``, ...

        Raises:
            ClientError: the server refuses it, for instance because another watched folder has this output; or it
                cannot be reached.
        """
        body = new_watch(folder, output, settle, options)
        return read_watch(self._call(lambda: self._http.post("/api/v1/watches", json=body)))

    def watches(self) -> list[Watch]:
        """Return your watched folders, or those of all users for an administrator; errors as for `upload`."""
        return [read_watch(each) for each in self._get("/api/v1/watches")["watches"]]

    def pause_watch(self, watch: Watch | str) -> Watch:
        """Begin no more jobs in a watched folder, and return it; errors as for `upload`."""
        return read_watch(self._call(lambda: self._http.post(watch_url(watch, "pause"))))

    def resume_watch(self, watch: Watch | str) -> Watch:
        """Begin jobs in a watched folder again, with one over all of it; errors as for `upload`."""
        return read_watch(self._call(lambda: self._http.post(watch_url(watch, "resume"))))

    def unwatch(self, watch: Watch | str) -> None:
        """Stop watching a folder. Its jobs and results stay; errors as for `upload`."""
        self._call(lambda: self._http.delete(watch_url(watch)))

    def presets(self) -> Sequence[Mapping[str, Any]]:
        """Return the presets that an upload may name, with their options; errors as for `upload`."""
        found: Sequence[Mapping[str, Any]] = self._get("/api/v1/presets")["presets"]
        return found

    def models(self) -> Sequence[Mapping[str, Any]]:
        """Return the models that an upload may name; errors as for `upload`."""
        found: Sequence[Mapping[str, Any]] = self._get("/api/v1/models")["models"]
        return found

    def health(self) -> Mapping[str, Any]:
        """Return the state of the server; errors as for `upload`."""
        answer: Mapping[str, Any] = self._get("/api/v1/health")
        return answer

    def _do(self, steps: Steps[str]) -> str:
        """Do the steps of a generator."""
        answer: httpx.Response | None = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    answer = None
                else:
                    answer = self._ask(step)
        except StopIteration as end:
            return str(end.value)
        finally:
            steps.close()

    def _ask(self, ask: Ask) -> httpx.Response | None:
        try:
            return self._http.request(
                ask.method, ask.url, headers=dict(ask.headers), content=ask.content, json=ask.json
            )
        except httpx.HTTPError:
            return None

    def _get(self, url: str) -> Any:
        return self._call(lambda: self._http.get(url))

    def _call(self, send: Callable[[], httpx.Response]) -> Any:
        attempt = 0
        while True:
            attempt += 1
            response: httpx.Response | None = None
            failure = ""
            try:
                response = send()
            except httpx.HTTPError as error:
                failure = str(error) or type(error).__name__
            wait = wait_before_retry(response, attempt)
            if wait is None:
                if response is None:
                    raise ClientError(f"the server cannot be reached: {failure}")
                return None if is_deleted(response, attempt) else read_answer(response)
            time.sleep(wait)
