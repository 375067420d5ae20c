"""Mail at the end of a job: one, through a real SMTP server, with a link and without a stranger's words in headers."""

from __future__ import annotations

import asyncio
import dataclasses
import email
import email.policy
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

pytest.importorskip("aiosmtpd", reason="aiosmtpd receives the mail of these tests")

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from comic_upscale.errors import SettingsError
from comic_upscale.server import queue
from comic_upscale.server.api import uploads
from comic_upscale.server.api.uploads import ANONYMOUS_MAILS_PER_DAY
from comic_upscale.server.callbacks import CallbackError
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.database.schema import outbox as outbox_table
from comic_upscale.server.mail import Mailer, check_address
from comic_upscale.server.outbox import Outbox, _take
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_queue import RESULT, add, taken
from tests.server.test_resumable import ADDRESS, begin, patch
from tests.server.test_told_errors import REASON, WITH_PLACES
from tests.server.test_uploads import send
from tests.server.test_webhooks import certificate

__all__ = ["certificate"]

PASSWORD = "pass-word-of-the-mail-server"


class Inbox:
    """A mail server's handler: keeps messages, or gives the answer that a test sets."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.answer = "250 OK"
        self.logins: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - the library's name
        if self.answer.startswith("250"):
            self.raw.append(envelope.original_content)
            self.messages.append(
                email.message_from_bytes(
                    envelope.original_content, _class=EmailMessage, policy=email.policy.SMTP
                )  # type: ignore[arg-type]
            )
        return self.answer

    def log_in(
        self, _server: object, _session: object, _envelope: object, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword), mechanism
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == PASSWORD.encode())


@contextmanager
def running(inbox: Inbox, **options: Any) -> Iterator[dict[str, Any]]:
    """An SMTP server on this machine; yields the settings for it."""
    # Port 0 is not known to the controller of the library, so it connects to nothing at its start.
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield {
            "smtp_host": "localhost", "smtp_port": controller.port, "smtp_from": "comics@example.org",
            "smtp_tls": "none", "public_url": "https://comics.example.org/app",
        }  # fmt: skip
    finally:
        controller.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Inbox, dict[str, Any]]]:
    inbox = Inbox()
    with running(inbox) as settings:
        yield inbox, settings


@pytest.fixture
def inbox(server: tuple[Inbox, dict[str, Any]]) -> Inbox:
    server[0].__init__()  # type: ignore[misc]
    return server[0]


@pytest.fixture
def mailing(server: tuple[Inbox, dict[str, Any]], open_server: OpenServices) -> Services:
    return open_server(**server[1])


def outbox_of(services: Services, mailer: Mailer | None = None) -> Outbox:
    mailer = mailer or Mailer(services.settings, services.links)
    return Outbox(services.database, {"mail": mailer.send})


def finish(services: Services, end: Callable[[Any, queue.Claim], object] | None = None) -> None:
    held = taken(services.database)
    services.database.write(lambda c: queue.complete(c, held, RESULT) if end is None else end(c, held))


def ask(services: Services, address: str = "ann@example.com") -> str:
    with client_of(services, make_key(services, "me")) as client:
        answer = send(client, "page.png", email=address)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])


def row(services: Services) -> Any:
    return services.database.read(lambda c: c.execute(sa.select(outbox_table)).mappings().one())


def test_the_end_of_a_job_is_mailed_once_with_a_link(mailing: Services, inbox: Inbox) -> None:
    job_id = ask(mailing)
    assert mailing.database.read(lambda c: c.execute(sa.select(outbox_table)).all()) == []
    finish(mailing)
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    assert asyncio.run(outbox_of(mailing).send_due()) == 0
    (message,) = inbox.messages
    assert (message["To"], message["From"]) == ("ann@example.com", "comics@example.org")
    assert (message["Subject"], message["Auto-Submitted"]) == ("Your pages are ready", "auto-generated")
    assert message.get_content_type() == "text/plain"
    text = message.get_content()
    found = re.search(r"https://comics\.example\.org/app/shared/(\S+)", text)
    assert found is not None and "'page.png'" in text
    assert mailing.links.verify("share", found[1]).object_id == job_id


@pytest.mark.parametrize(
    "name",
    [
        "page\r\nBcc: evil@example.net.png", "page\nSubject: won.png", "=?utf-8?q?=0D=0ABcc:_e@example.net?=.png",
        "p\u2028Bcc: e@example.net.png", "\u0000\r\n\r\n.png", "päge 漫画.png", ".\r\n.\r\nMAIL FROM:.png",
        "x" * 300 + ".png",
    ],
)  # fmt: skip
def test_a_file_name_gets_into_no_header(mailing: Services, inbox: Inbox, name: str) -> None:
    job_id = ask(mailing)
    # An upload cleans its names; here is one that was not.
    mailing.database.write(
        lambda c: c.execute(sa.update(jobs).where(jobs.c.id == job_id).values(title=name[:256]))
    )
    finish(mailing)
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    (message,) = inbox.messages
    own = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"}
    assert set(message.keys()) - own <= {
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
        "X-Peer",
    }
    assert message.get_all("Subject") == ["Your pages are ready"] and message["To"] == "ann@example.com"
    assert message.get_content().count("https://comics.example.org/") == 1


def test_failures_are_told_with_their_reason(mailing: Services, inbox: Inbox) -> None:
    ask(mailing)
    finish(mailing, lambda c, held: queue.fail(c, held, "no_page", "No page\r\ncould be read."))
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    (message,) = inbox.messages
    assert message["Subject"] == "Your pages could not be upscaled"
    assert "No page could be read." in message.get_content()


def test_a_mail_names_no_folder_of_the_worker(mailing: Services, inbox: Inbox) -> None:
    ask(mailing)
    finish(mailing, lambda c, held: queue.fail(c, held, "weights", WITH_PLACES))
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    text = " ".join(inbox.messages[0].get_content().split())
    assert REASON in text and "/srv" not in text


def test_mail_is_tried_again_and_given_up_when_it_is_refused(mailing: Services, inbox: Inbox) -> None:
    ask(mailing)
    finish(mailing)
    inbox.answer = "451 later"
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    waiting = row(mailing)
    assert (
        waiting["failed_at"] is None
        and waiting["last_error"] == "the mail server answered with 451 to the mail"
    )
    mailing.database.write(lambda c: c.execute(sa.update(outbox_table).values(not_before=0)))
    inbox.answer = "554 spam"
    assert asyncio.run(outbox_of(mailing).send_due()) == 1
    assert row(mailing)["failed_at"] is not None
    mailing.database.write(lambda c: c.execute(sa.update(outbox_table).values(not_before=0)))
    assert asyncio.run(outbox_of(mailing).send_due()) == 0 and inbox.messages == []


def test_a_mail_server_that_is_away_is_tried_again(mailing: Services, open_server: OpenServices) -> None:
    ask(mailing)
    finish(mailing)
    away = dataclasses.replace(mailing.settings, smtp_port=free_port())
    assert asyncio.run(outbox_of(mailing, Mailer(away, mailing.links)).send_due()) == 1
    waiting = row(mailing)
    assert waiting["failed_at"] is None and waiting["not_before"] > waiting["created_at"]
    assert "ConnectionRefusedError" in waiting["last_error"]


def test_the_login_is_encrypted(open_server: OpenServices, certificate: Path) -> None:
    inbox = Inbox()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    options = {"tls_context": context, "require_starttls": True, "authenticator": inbox.log_in}
    with running(inbox, **options) as settings:
        services = open_server(
            **settings | {"smtp_tls": "starttls", "smtp_user": "comics", "smtp_password": PASSWORD}
        )
        ask(services)
        finish(services)
        # The certificate is for another name than localhost, and of nobody whom the system knows.
        assert asyncio.run(outbox_of(services).send_due()) == 1
        assert "SSLCertVerificationError" in row(services)["last_error"] and inbox.logins == []
        trusting = ssl.create_default_context(cafile=str(certificate))
        trusting.check_hostname = False
        services.database.write(lambda c: c.execute(sa.update(outbox_table).values(not_before=0)))
        assert (
            asyncio.run(outbox_of(services, Mailer(services.settings, services.links, trusting)).send_due())
            == 1
        )
    assert inbox.logins == [("comics", PASSWORD)] and len(inbox.messages) == 1


@pytest.mark.parametrize(
    "address",
    [
        "ann", "@example.com", "ann@", "ann@localhost", "a@example.com, b@example.com", "a@example.com\r\nBcc: b@c.de",
        "<a@example.com>", "Ann <a@example.com>", "a b@example.com", "ä@example.com", "a@b@example.com",
        "a" * 250 + "@example.com", "a@example.com;b@example.com", "a@[127.0.0.1", '"x"y@example.com',
    ],
)  # fmt: skip
def test_addresses_that_are_refused(mailing: Services, address: str) -> None:
    with pytest.raises(CallbackError, match="one address"):
        check_address(address)


def test_a_bad_address_is_refused_at_the_upload(mailing: Services, services_without_mail: Services) -> None:
    with client_of(mailing, make_key(mailing, "me")) as client:
        answer = send(client, email="a@example.com, b@example.com")
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "email")
    with client_of(services_without_mail, make_key(services_without_mail, "me")) as client:
        assert "sends no mail" in send(client, email="a@example.com").json()["error"]["message"]


@pytest.fixture
def services_without_mail(open_server: OpenServices, tmp_path: Path) -> Services:
    return open_server(data=tmp_path / "silent")


def test_without_an_account_few_mails_are_sent_and_they_name_no_file(
    server: tuple[Inbox, dict[str, Any]], inbox: Inbox, open_server: OpenServices
) -> None:
    services = open_server(public=True, uploads_per_hour=100, **server[1])
    for number in range(ANONYMOUS_MAILS_PER_DAY):
        with client_of(services, address=f"192.0.2.{number}") as client:
            assert send(client, "Buy at evil.example.png", email="Ann@example.com").status_code == 202
    with client_of(services, address="192.0.2.99") as client:
        # From yet another address, in other letters.
        refused = send(client, email="aNN@example.com")
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 3600
        assert send(client, email="bob@example.com").status_code == 202
        assert send(client).status_code == 202
    finish(services)
    assert asyncio.run(outbox_of(services).send_due()) == 1
    assert (
        "evil" not in inbox.raw[0].decode()
        and "https://comics.example.org/app/shared/" in inbox.raw[0].decode()
    )


def test_mail_of_uploads_in_parts_is_limited_too(mailing: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAILS_PER_DAY", 1)
    with client_of(mailing, make_key(mailing, "ann")) as client:
        found = []
        for _ in range(2):
            url = begin(client, 4, "page.png", hold=True).headers["location"]
            patch(client, url, 0, b"page")
            asked = {"uploads": [url.rpartition("/")[2]], "fields": {"email": "ann@example.com"}}
            found.append(client.post(f"{ADDRESS}/complete", json=asked).status_code)
    assert found == [202, 429]


def test_webhook_and_mail_of_one_job_are_two_messages(database: Database) -> None:
    job_id = add(database, callback_url="https://a.example/", email="ann@example.com")
    held = taken(database)
    database.write(lambda c: queue.complete(c, held, RESULT))
    assert database.write(lambda c: _take(c, [], [])) == []
    (webhook,) = database.write(lambda c: _take(c, [], ["webhook"]))
    (mail,) = database.write(lambda c: _take(c, [webhook]))
    assert (webhook["id"], webhook["kind"], mail["kind"]) == (job_id, "webhook", "mail")
    assert mail["id"] != job_id and len(mail["id"]) == 36 and mail["job"]["owner_role"] == "user"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"smtp_from": None}, "SMTP_FROM"), ({"smtp_from": "a@b\r\nBcc: c@d.de"}, "SMTP_FROM"),
        ({"public_url": None}, "PUBLIC_URL"), ({"public_url": "comics.example"}, "PUBLIC_URL"),
        ({"smtp_user": "me", "smtp_host": "mail.example", "smtp_tls": "none"}, "in the clear"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    good = {
        "smtp_host": "localhost",
        "smtp_from": "a@example.com",
        "public_url": "https://example.com",
        "smtp_tls": "none",
    }
    with pytest.raises(SettingsError, match=words):
        ServerSettings(data=tmp_path, **good | changes)  # type: ignore[arg-type]
