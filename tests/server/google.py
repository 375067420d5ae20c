"""A server that speaks Google's dialect of S3, in front of one that speaks Amazon's; and the account of a machine.

No packaged emulator of Google Cloud Storage supports all of its XML API: fake-gcs-server 0.1.1 rejects uploads, and
gcp-storage-emulator rejects listings. The XML API differs from S3 only in header names, in authentication, and in what
it answers when an object to be deleted does not exist.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_RENAMED = {"x-goog-meta-": "x-amz-meta-", "x-goog-copy-source": "x-amz-copy-source"}
# moto reads an object without a login only where it is public. It checks no signature.
_LOGIN = (
    "AWS4-HMAC-SHA256 Credential=any/20261101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=any"
)
_OWN = {
    "content-length",
    "connection",
    "transfer-encoding",
    "keep-alive",
    "date",
    "server",
    "authorization",
    "host",
}


@contextmanager
def google_in_front_of(endpoint: str) -> Iterator[str]:
    """Run the server in front of an S3 server without logins, for the length of the block; yield its endpoint.

    Below the same endpoint it answers as the metadata service of a machine, which gives out the token that it expects.
    """
    token = secrets.token_urlsafe(16)
    host = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer_it(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.startswith(TOKEN_PATH):
                known = self.headers.get("Metadata-Flavor") == "Google"
                said = json.dumps(
                    {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
                ).encode()
                self._answer(200 if known else 403, {}, said if known else b"")
            elif self.headers.get("Authorization") != f"Bearer {token}":
                self._answer(401, {}, b"<Error><Code>AuthenticationRequired</Code></Error>")
            elif self.command == "DELETE" and "?" not in self.path and self._ask("HEAD")[0] == 404:
                self._answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self._answer(*self._ask(self.command, body))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer_it  # noqa: N815

        def _ask(self, method: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
            with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
                headers = {**_renamed(dict(self.headers.items()), _RENAMED), "authorization": _LOGIN}
                connection.request(method, self.path, body or None, headers)
                answer = connection.getresponse()
                back = {new: old for old, new in _RENAMED.items()}
                headers = _renamed(dict(answer.getheaders()), back)
                if method == "HEAD":
                    headers["Content-Length"] = answer.getheader("Content-Length") or "0"
                return answer.status, headers, answer.read()

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _renamed(headers: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """Return headers in the other dialect, without those that each connection has for itself."""
    renamed: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _OWN:
            continue
        for old, new in names.items():
            if lower.startswith(old):
                lower = new + lower.removeprefix(old)
        renamed[lower] = value
    return renamed
