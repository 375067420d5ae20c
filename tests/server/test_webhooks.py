"""Webhooks: signed, sent until they are taken, with one id, and never to an address inside."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook

from comic_upscale.server import queue
from comic_upscale.server.callbacks import CallbackError, Sender, check_url, is_public
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import outbox as outbox_table
from comic_upscale.server.outbox import AT_ONCE, AT_ONCE_FOR_OWNER, Outbox, Webhooks, _receiver, _take
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE
from tests.server.test_queue import RESULT, add, taken
from tests.server.test_uploads import send

SECRET = "whsec_" + base64.b64encode(b"x" * 32).decode()
NAME = "hooks.example"


class Receiver:
    """An HTTPS server on this machine that answers as it is told, and remembers what it got."""

    def __init__(self, certificate: Path) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: handler.send_response(204)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers.items()), body))
                receiver.answer(self)
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                pass

        class Server(HTTPServer):
            def handle_error(self, *_words: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://{NAME}:{self.server.server_port}/hook?a=1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def receiver(certificate: Path) -> Iterator[Receiver]:
    receiver = Receiver(certificate)
    yield receiver
    receiver.close()


@pytest.fixture
def sender(certificate: Path) -> Sender:
    """A sender for which this machine is a public address."""
    context = ssl.create_default_context(cafile=str(certificate))
    return Sender(resolve=lambda _host, _port: ["127.0.0.1"], allow=lambda _address: True, context=context)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "https://", "https:///x", "//example.com", "javascript:alert(1)",
        "https://user:pass@example.com/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/", "https://0.0.0.0/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nHost: evil", "https://224.0.0.1/", "https://100.64.0.1/",
        "https://example.com/" + "x" * 2000, "https://LOCALHOST/x", "https://a.localhost.:8443/",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(CallbackError):
        check_url(url)


def test_addresses_that_are_allowed() -> None:
    for url in (
        "https://example.com",
        "https://example.com:8443/x?y=z",
        "https://1.1.1.1/",
        "https://[2606:4700::1]/",
    ):
        check_url(url)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("8.8.8.8", True), ("192.168.1.1", False), ("::ffff:10.0.0.1", False), ("fe80::1", False), ("fc00::1", False),
     ("64:ff9b::808:808", True), ("64:ff9b:1::1", False), ("2001:4860:4860::8888", True), ("255.255.255.255", False)],
)  # fmt: skip
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is expected


@pytest.mark.parametrize("found", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["fe80::1%eth0"], []])
def test_a_name_with_an_address_inside_is_not_connected_to(found: list[str], receiver: Receiver) -> None:
    with pytest.raises(CallbackError, match="not public"):
        Sender(resolve=lambda _host, _port: found).send(receiver.url, b"{}", {})
    assert receiver.requests == []


def test_a_name_is_resolved_once(
    receiver: Receiver, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere a moment later gains nothing."""
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    real = socket.getaddrinfo

    def no_names(host: Any, *words: Any, **named: Any) -> Any:
        ipaddress.ip_address(host)
        return real(host, *words, **named)

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    context = ssl.create_default_context(cafile=str(certificate))
    Sender(resolve=resolve, allow=lambda _address: True, context=context).send(receiver.url, b"{}", {})
    assert asked == [NAME] and receiver.requests[0][0]["Host"].startswith(NAME)


def test_a_wrong_certificate_is_refused(receiver: Receiver) -> None:
    stranger = Sender(resolve=lambda _host, _port: ["127.0.0.1"], allow=lambda _address: True)
    with pytest.raises(CallbackError, match="cannot be reached"):
        stranger.send(receiver.url, b"{}", {})
    assert receiver.requests == []


def test_redirects_are_not_followed(receiver: Receiver, sender: Sender) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", "https://127.0.0.1/")

    receiver.answer = redirect
    with pytest.raises(CallbackError, match="status 307"):
        sender.send(receiver.url, b"{}", {})
    assert len(receiver.requests) == 1


def test_an_endless_answer_is_not_read(receiver: Receiver, sender: Sender) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    receiver.answer = endless
    sender.send(receiver.url, b"{}", {})


def sender_with(certificate: Path, timeout: float) -> Sender:
    context = ssl.create_default_context(cafile=str(certificate))
    return Sender(lambda _host, _port: ["127.0.0.1"], lambda _address: True, context, timeout)


def test_a_receiver_that_says_nothing_is_given_up(receiver: Receiver, certificate: Path) -> None:
    released = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        released.wait(30)
        handler.send_response(204)

    receiver.answer = silent
    with pytest.raises(CallbackError, match="cannot be reached"):
        sender_with(certificate, 0.5).send(receiver.url, b"{}", {})
    released.set()


def drip(write: Callable[[bytes], object], content: bytes) -> None:
    """Send a byte at a time, each of them well before a timeout of half a second, until the other side has gone."""
    with contextlib.suppress(OSError):
        for number in range(len(content)):
            write(content[number : number + 1])
            time.sleep(0.05)


def test_a_receiver_whose_headers_drip_is_given_up(receiver: Receiver, certificate: Path) -> None:
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        drip(handler.wfile.write, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200)
        ended.set()

    receiver.answer = answer
    with pytest.raises(CallbackError, match="cannot be reached: TimeoutError"):
        sender_with(certificate, 0.5).send(receiver.url, b"{}", {})
    assert not ended.is_set()
    # The connection is closed, so the receiver cannot go on.
    assert ended.wait(PATIENCE)


def test_a_receiver_whose_handshake_drips_is_given_up(certificate: Path) -> None:
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # The header of a record of TLS, and its content.
            drip(self.request.sendall, b"\x16\x03\x03\x02\x00" + bytes(200))
            ended.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"https://{NAME}:{server.server_address[1]}/"
            with pytest.raises(CallbackError, match="cannot be reached: TimeoutError"):
                sender_with(certificate, 0.5).send(url, b"{}", {})
            assert not ended.is_set()
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hooked(open_server: OpenServices) -> Services:
    return open_server(webhook_secret=SECRET)


def outbox_of(services: Services, sender: Sender) -> Outbox:
    return Outbox(services.database, {"webhook": Webhooks(SECRET, sender).send})


def finish_a_job(services: Services, url: str, user: str = "me") -> str:
    with client_of(services, make_key(services, user)) as client:
        job_id: str = send(client, callback_url=url).json()["job_id"]
    held = taken(services.database)
    services.database.write(lambda c: queue.complete(c, held, RESULT))
    return job_id


def row(services: Services) -> Any:
    return services.database.read(lambda c: c.execute(sa.select(outbox_table)).mappings().one())


def make_due(services: Services) -> None:
    services.database.write(lambda c: c.execute(sa.update(outbox_table).values(not_before=0)))


def test_the_end_of_a_job_is_told_with_a_signature(
    hooked: Services, receiver: Receiver, sender: Sender
) -> None:
    job_id = finish_a_job(hooked, receiver.url)
    outbox = outbox_of(hooked, sender)
    assert asyncio.run(outbox.send_due()) == 1
    assert asyncio.run(outbox.send_due()) == 0
    ((headers, body),) = receiver.requests
    content = Webhook(SECRET).verify(body, {name.lower(): value for name, value in headers.items()})
    assert content == json.loads(body)
    assert (content["type"], content["data"]["job_id"], content["data"]["status"]) == (
        "job.completed", job_id, "completed",
    )  # fmt: skip
    assert row(hooked)["done_at"] is not None


def test_a_webhook_is_tried_again_with_the_same_id_and_later_each_time(
    hooked: Services, receiver: Receiver, sender: Sender
) -> None:
    finish_a_job(hooked, receiver.url)
    outbox = outbox_of(hooked, sender)
    receiver.answer = lambda handler: handler.send_response(500)
    waits = []
    for _ in range(3):
        assert asyncio.run(outbox.send_due()) == 1
        assert asyncio.run(outbox.send_due()) == 0
        waits.append(row(hooked)["not_before"] / 1000 - time.time())
        make_due(hooked)
    assert waits == sorted(waits) and 2 < waits[0] < 8 < waits[1] < 20 < waits[2] < 60
    assert row(hooked)["last_error"] == "the receiver answered with status 500"
    receiver.answer = lambda handler: handler.send_response(200)
    assert asyncio.run(outbox.send_due()) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert (row(hooked)["attempts"], row(hooked)["last_error"]) == (4, None)


def test_a_webhook_is_given_up_after_a_day(hooked: Services, receiver: Receiver, sender: Sender) -> None:
    finish_a_job(hooked, receiver.url)
    receiver.answer = lambda handler: handler.send_response(500)
    hooked.database.write(lambda c: c.execute(sa.update(outbox_table).values(created_at=0)))
    outbox = outbox_of(hooked, sender)
    assert asyncio.run(outbox.send_due()) == 1
    make_due(hooked)
    assert asyncio.run(outbox.send_due()) == 0


def test_a_slow_receiver_holds_no_other_one_back(
    hooked: Services, receiver: Receiver, certificate: Path
) -> None:
    released = threading.Event()
    slow = Receiver(certificate)
    slow.answer = lambda _handler: released.wait(PATIENCE) and None
    for _ in range(AT_ONCE + 1):
        finish_a_job(hooked, slow.url)
    finish_a_job(hooked, receiver.url)

    async def watch() -> None:
        outbox = outbox_of(hooked, sender_with(certificate, PATIENCE))
        running = asyncio.ensure_future(outbox.run())
        try:
            while not receiver.requests:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.05)
        finally:
            released.set()
            running.cancel()
            await asyncio.wait([running])

    try:
        asyncio.run(asyncio.wait_for(watch(), PATIENCE / 4))
    finally:
        released.set()
        slow.close()


def test_one_user_has_not_all_tries(hooked: Services, receiver: Receiver, sender: Sender) -> None:
    port = receiver.server.server_port
    for number in range(AT_ONCE_FOR_OWNER + 1):
        finish_a_job(hooked, f"https://{number}.{NAME}:{port}/")
    finish_a_job(hooked, receiver.url, "another")
    outbox = outbox_of(hooked, sender)
    assert asyncio.run(outbox.send_due()) == AT_ONCE_FOR_OWNER + 1
    assert len(receiver.requests) == 1
    assert asyncio.run(outbox.send_due()) == 1


def test_tries_are_reserved_once_and_within_the_limits(database: Database) -> None:
    for number, url in enumerate(
        ["https://a.example/_%"] * 3 + ["https://a.example.org/", "https://b.example"]
    ):
        add(database, f"user{number}", callback_url=url)
        held = taken(database)
        database.write(lambda c, held=held: queue.complete(c, held, RESULT))
    first = database.write(lambda c: _take(c, []))
    assert [row["target"] for row in first] == [
        "https://a.example/_%", "https://a.example/_%", "https://a.example.org/", "https://b.example",
    ]  # fmt: skip
    # The third one is due, and waits for one of the others.
    assert database.write(lambda c: _take(c, first)) == []
    (third,) = database.write(lambda c: _take(c, first[1:]))
    assert third["target"] == "https://a.example/_%" and third["id"] not in [row["id"] for row in first]
    assert database.write(lambda c: _take(c, [])) == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [("https://a.example", "https://a.example"), ("https://a.example:8443/x//y", "https://a.example:8443"),
     ("https://a.example?x=/", "https://a.example"), ("https://[2606:4700::1]/#", "https://[2606:4700::1]")],
)  # fmt: skip
def test_the_receiver_of_an_address(target: str, expected: str) -> None:
    assert _receiver(target) == expected


def test_canceled_and_set_aside_jobs_are_told_too(hooked: Services, receiver: Receiver) -> None:
    with client_of(hooked, make_key(hooked, "me")) as client:
        ids = [send(client, callback_url=receiver.url).json()["job_id"] for _ in range(2)]
        client.post(f"/api/v1/jobs/{ids[0]}/cancel")
        for _ in range(3):
            held = taken(hooked.database)
            hooked.database.write(lambda c, held=held: queue.end_leases(c, "w1"))
        assert hooked.database.write(queue.set_aside) == 1
    told = hooked.database.read(lambda c: c.scalars(sa.select(outbox_table.c.job_id)).all())
    assert sorted(told) == sorted(ids)


def test_an_address_inside_is_refused_at_the_upload(hooked: Services) -> None:
    with client_of(hooked, make_key(hooked, "me")) as client:
        answer = send(client, callback_url="https://169.254.169.254/")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "callback_url")
