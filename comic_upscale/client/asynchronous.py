"""The client for asyncio: `Client` with ``await``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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


class AsyncClient:
    """Talks to a server like `Client`. Use it in an ``async with`` block, or close it.

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"X-API-Key": key}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def upload(
        self, files: Sequence[Path | str], *, patience: float = PATIENCE, **options: object
    ) -> Job:
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
        if await asyncio.to_thread(is_large, files):
            return await self.job(await self._do(upload_steps(files, options, patience)))
        key = {"Idempotency-Key": str(uuid.uuid4())}

        async def send() -> httpx.Response:
            with ExitStack() as stack:
                opened = [await asyncio.to_thread(stack.enter_context, open_file(path)) for path in files]
                parts = [("file", (Path(path).name, file)) for path, file in zip(files, opened, strict=True)]
                return await self._http.post(
                    "/api/v1/uploads", files=parts, data=form_fields(options), headers=key
                )

        return await self.job((await self._call(send))["job_id"])

    async def job(self, job_id: str) -> Job:
        """Return the state of a job; errors as for `upload`."""
        return read_job(await self._get(f"/api/v1/jobs/{job_id}"))

    async def wait(
        self,
        job: Job | str,
        *,
        every: float = 0.5,
        on_state: Callable[[Job], None] | None = None,
    ) -> Job:
        """Wait for the end of a job, and return it. For a limit, use ``asyncio.timeout``: the job itself goes on.

        Args:
            job: the job or its id.
            every: seconds between two looks.
            on_state: called with each state.

        Raises:
            JobFailed: it ended without a result.
            ClientError: the server cannot be reached.
        """
        job_id = job_id_of(job)
        while True:
            found = await self.job(job_id)
            if on_state is not None:
                on_state(found)
            if found.status == "completed":
                return found
            if found.has_ended:
                raise JobFailed(found)
            await asyncio.sleep(every)

    async def fetch(self, job: Job | str, target: Path, *, format: str | None = None) -> Path:
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
            async with self._http.stream("GET", url, params=query, follow_redirects=True) as response:
                if not response.is_success:
                    await response.aread()
                    raise read_error(response)
                is_folder = await asyncio.to_thread(target.is_dir)
                path = target / name_of(response) if is_folder else target
                with ExitStack() as stack:
                    file = await asyncio.to_thread(stack.enter_context, writing(path))
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(file.write, piece)
        except httpx.HTTPError as error:
            raise broken_download(error) from error
        return path

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job, and return its state; errors as for `upload`."""
        return read_job(await self._call(lambda: self._http.post(f"/api/v1/jobs/{job_id_of(job)}/cancel")))

    async def delete(self, job: Job | str) -> None:
        """Delete a job that has ended, with its files; errors as for `upload`."""
        await self._call(lambda: self._http.delete(f"/api/v1/jobs/{job_id_of(job)}"))

    async def again(self, job: Job | str, **options: object) -> Job:
        """Run a job that has ended again as a new job over the same files, and return that; errors as for `upload`.

        A connection that breaks is tried again; the server makes one job of all tries.

        Args:
            job: the job or its id.
            options: fields of an upload that differ; the others stay.
        """
        url, body = f"/api/v1/jobs/{job_id_of(job)}/again", {"options": form_fields(options)}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        return read_job(await self._call(lambda: self._http.post(url, json=body, headers=key)))

    async def share(self, job: Job | str) -> Share:
        """Return a link that shows a job to others for seven days, without an account; errors as for `upload`."""
        url = f"/api/v1/jobs/{job_id_of(job)}/share"
        return read_share(await self._call(lambda: self._http.post(url)))

    async def estimate(self, pages: Sequence[Mapping[str, int]], **options: object) -> Mapping[str, Any]:
        """Return what a job would take: see ``POST /api/v1/estimates``; errors as for `upload`.

        Args:
            pages: ``width``, ``height`` and ``count`` of each size.
            options: fields of an upload.
        """
        body = {"pages": [dict(page) for page in pages], "options": form_fields(options)}
        answer: Mapping[str, Any] = await self._call(lambda: self._http.post("/api/v1/estimates", json=body))
        return answer

    async def jobs(self, status: Status | None = None) -> AsyncIterator[Job]:
        """Return your jobs, the latest first; errors as for `upload`.

        Args:
            status: only jobs with it.
        """
        cursor: str | None = None
        while True:
            answer = await self._get(jobs_url(status, cursor))
            for each in answer["jobs"]:
                yield read_job(each)
            if (cursor := answer["next_cursor"]) is None:
                return

    async def watch(
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
        return read_watch(await self._call(lambda: self._http.post("/api/v1/watches", json=body)))

    async def watches(self) -> list[Watch]:
        """Return your watched folders, or those of all users for an administrator; errors as for `upload`."""
        return [read_watch(each) for each in (await self._get("/api/v1/watches"))["watches"]]

    async def pause_watch(self, watch: Watch | str) -> Watch:
        """Begin no more jobs in a watched folder, and return it; errors as for `upload`."""
        return read_watch(await self._call(lambda: self._http.post(watch_url(watch, "pause"))))

    async def resume_watch(self, watch: Watch | str) -> Watch:
        """Begin jobs in a watched folder again, with one over all of it; errors as for `upload`."""
        return read_watch(await self._call(lambda: self._http.post(watch_url(watch, "resume"))))

    async def unwatch(self, watch: Watch | str) -> None:
        """Stop watching a folder. Its jobs and results stay; errors as for `upload`."""
        await self._call(lambda: self._http.delete(watch_url(watch)))

    async def presets(self) -> Sequence[Mapping[str, Any]]:
        """Return the presets that an upload may name, with their options; errors as for `upload`."""
        found: Sequence[Mapping[str, Any]] = (await self._get("/api/v1/presets"))["presets"]
        return found

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """Return the models that an upload may name; errors as for `upload`."""
        found: Sequence[Mapping[str, Any]] = (await self._get("/api/v1/models"))["models"]
        return found

    async def health(self) -> Mapping[str, Any]:
        """Return the state of the server; errors as for `upload`."""
        answer: Mapping[str, Any] = await self._get("/api/v1/health")
        return answer

    async def _do(self, steps: Steps[str]) -> str:
        """Do the steps of a generator. It reads files, so it runs on a thread."""
        answer: httpx.Response | None = None
        try:
            while not isinstance(step := await asyncio.to_thread(_next, steps, answer), _Ended):
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    answer = None
                else:
                    answer = await self._ask(step)
            return step.value
        finally:
            steps.close()

    async def _ask(self, ask: Ask) -> httpx.Response | None:
        try:
            return await self._http.request(
                ask.method, ask.url, headers=dict(ask.headers), content=ask.content, json=ask.json
            )
        except httpx.HTTPError:
            return None

    async def _get(self, url: str) -> Any:
        return await self._call(lambda: self._http.get(url))

    async def _call(self, send: Callable[[], Awaitable[httpx.Response]]) -> Any:
        attempt = 0
        while True:
            attempt += 1
            response: httpx.Response | None = None
            failure = ""
            try:
                response = await send()
            except httpx.HTTPError as error:
                failure = str(error) or type(error).__name__
            wait = wait_before_retry(response, attempt)
            if wait is None:
                if response is None:
                    raise ClientError(f"the server cannot be reached: {failure}")
                return None if is_deleted(response, attempt) else read_answer(response)
            await asyncio.sleep(wait)


@dataclass(frozen=True, slots=True)
class _Ended:
    """The steps are done."""

    value: str


def _next(steps: Steps[str], answer: httpx.Response | None) -> Ask | Pause | _Ended:
    """Return the next step. A StopIteration cannot cross from a thread into a coroutine."""
    try:
        return steps.send(answer)
    except StopIteration as end:
        return _Ended(str(end.value))
