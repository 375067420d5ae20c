"""Imagen on Vertex AI and its token service as an HTTP server on localhost, which checks what the real ones check."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from PIL import Image

TOKEN = "ya29.secret-token-of-the-account"
MODEL = "imagen-4.0-upscale-preview"
PATH = f"/v1/projects/my-project/locations/us-central1/publishers/google/models/{MODEL}:predict"
PRICE = 0.06
ASSERTION = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class FakeImagen:
    """The server. `planned` are the next answers, in place of pictures: (status, body, headers)."""

    def __init__(self) -> None:
        self.planned: list[tuple[int, Any, dict[str, str]] | Callable[[FakeHandler], None]] = []
        self.billed = 0
        self.calls: list[tuple[int, int, str]] = []
        """Width, height and factor of each picture that was enlarged."""
        self.tones: list[int] = []
        """Levels that are added to the next pictures, as a model does that never draws the same twice."""
        self.token: tuple[int, Any] | None = None
        """The answer of the token service, in place of a token."""
        self.on_call: Callable[[], None] = lambda: None
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (FakeHandler,), {"fake": self}))
        server.daemon_threads = True
        self.server = server
        self.address = f"http://127.0.0.1:{server.server_address[1]}"

    def key_file(self, path: Path) -> Path:
        """Write the JSON file of a service account of this server."""
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account", "project_id": "my-project", "private_key_id": "1",
            "private_key": key.decode(), "client_email": "me@my-project.iam.gserviceaccount.com",
            "client_id": "1", "token_uri": f"{self.address}/token",
        }  # fmt: skip
        path.write_text(json.dumps(content))
        return path


@contextmanager
def serve() -> Iterator[FakeImagen]:
    fake = FakeImagen()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()
        thread.join()


class FakeHandler(BaseHTTPRequestHandler):
    fake: FakeImagen
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/token":
            assert ASSERTION.replace(":", "%3A").encode() in body and b"assertion=" in body
            if self.fake.token is not None:
                self.answer(*self.fake.token)
                return
            self.answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            return
        self.fake.on_call()
        if self.fake.planned:
            planned = self.fake.planned.pop(0)
            if callable(planned):
                planned(self)
            else:
                self.answer(*planned)
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        elif self.path != PATH:
            self.error(404, "NOT_FOUND", f"Publisher Model `{self.path.split('/')[-1]}` not found.")
        else:
            self.predict(json.loads(body))

    def predict(self, body: dict[str, Any]) -> None:
        try:
            (instance,) = body.pop("instances")
            parameters = body.pop("parameters")
            assert not body and set(instance) == {"prompt", "image"} and parameters.pop("sampleCount") == 1
            assert parameters.pop("mode") == "upscale" and parameters.pop("addWatermark") is False
            assert parameters.pop("outputOptions") == {"mimeType": "image/png"}
            factor = parameters.pop("upscaleConfig")["upscaleFactor"]
            assert factor in ("x2", "x3", "x4") and not parameters
            data = base64.b64decode(instance["image"]["bytesBase64Encoded"], validate=True)
            assert len(data) <= 10_000_000
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            times = int(factor[1])
            assert picture.width * picture.height * times**2 <= 17_000_000
        except (AssertionError, KeyError, ValueError) as error:
            self.error(400, "INVALID_ARGUMENT", f"Invalid request: {error}")
            return
        larger = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BILINEAR)
        if self.fake.tones:
            tone = self.fake.tones.pop(0)
            larger = Image.fromarray(np.clip(np.asarray(larger).astype(int) + tone, 0, 255).astype(np.uint8))
        self.fake.billed += 1
        self.fake.calls.append((picture.width, picture.height, factor))
        file = io.BytesIO()
        larger.save(file, "PNG", compress_level=1)
        encoded = base64.b64encode(file.getvalue()).decode()
        self.answer(200, {"predictions": [{"bytesBase64Encoded": encoded, "mimeType": "image/png"}]})

    def error(self, code: int, status: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.answer(code, {"error": {"code": code, "message": message, "status": status}}, headers or {})

    def answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def half_answer(self) -> None:
        """Promise more than is sent, and hang up."""
        self.fake.billed += 1
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b'{"predictions": [{"bytesBase64')
        self.close_connection = True
