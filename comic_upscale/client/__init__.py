"""A client of the server, for programs: upload, wait, fetch. `Client` blocks, `AsyncClient` does not.

It needs httpx2 (extra ``[client]``), and imports nothing heavier.
"""

from comic_upscale.client.answers import ClientError, Job, JobFailed, Share, Watch
from comic_upscale.client.asynchronous import AsyncClient
from comic_upscale.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ClientError", "Job", "JobFailed", "Share", "Watch"]
