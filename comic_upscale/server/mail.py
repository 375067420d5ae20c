"""Mail when a job ends: plain text, sent through the SMTP server of the settings.

Nothing that a stranger chose gets into a header except the checked address of the receiver: the subject is one of ours,
and names of files are in the text alone. A job without an account names no file at all, so that nobody can use the
server to send words of their own to others.
"""

from __future__ import annotations

import email.policy
import re
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from comic_upscale.server.callbacks import CallbackError, RefusedError
from comic_upscale.server.links import SHARED_SECONDS, Link, Links
from comic_upscale.server.names import clean_name
from comic_upscale.server.settings import ServerSettings

TIMEOUT_SECONDS = 10.0
"""The most that the mail server may take for one answer."""
LONGEST_ADDRESS = 254
"""Characters of an address, as SMTP allows them."""
_DAYS = SHARED_SECONDS // 86_400
_ATOM, _LABEL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9-]+"
_ADDRESS = re.compile(rf"{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+")
_SUBJECTS = {
    "completed": "Your pages are ready",
    "failed": "Your pages could not be upscaled",
    "canceled": "Your job was canceled",
}


def check_address(text: str) -> str:
    """Return an address if mail may go there.

    Raises:
        CallbackError: it is not one address in ASCII, such as ``ann@example.com``.
    """
    if len(text) > LONGEST_ADDRESS or _ADDRESS.fullmatch(text) is None:
        raise CallbackError("email must be one address, such as ann@example.com")
    return text


class Mailer:
    """Sends mail about jobs that ended.

    Args:
        settings: of the server, with an SMTP server.
        links: sign the link to the job.
        context: verifies the certificate of the SMTP server.
    """

    def __init__(self, settings: ServerSettings, links: Links, context: ssl.SSLContext | None = None) -> None:
        self._settings, self._links = settings, links
        self._context = context or ssl.create_default_context()

    def send(self, row: Mapping[str, Any]) -> None:
        """Send one mail of the outbox. Blocks.

        Args:
            row: ``id``, ``target`` and ``job``, the row of the job with the role of its owner as ``owner_role``.

        Raises:
            RefusedError: the mail server refuses this mail for good.
            CallbackError: it was not sent; another try may succeed.
        """
        message = self.compose(row)
        try:
            with self._connect() as connection:
                connection.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code = next(iter(error.recipients.values()))[0]
            raise _refusal(code, "the address") from None
        except smtplib.SMTPResponseException as error:
            # The text of the answer may repeat what was sent, such as a name or a password.
            raise _refusal(error.smtp_code, "the mail") from None
        except (smtplib.SMTPException, OSError) as error:
            raise CallbackError(f"the mail server cannot be used: {type(error).__name__}") from None

    def compose(self, row: Mapping[str, Any]) -> EmailMessage:
        """Return the mail about a job; the argument is that of `send`."""
        job, settings = row["job"], self._settings
        token = self._links.sign(Link("share", job["id"]))
        message = EmailMessage(policy=email.policy.SMTP)
        message["From"], message["To"] = settings.smtp_from, row["target"]
        message["Subject"] = _SUBJECTS[job["status"]]
        message["Date"] = formatdate(row["created_at"] / 1000)
        # The same on each try, so that a receiver recognises a mail that comes twice.
        message["Message-ID"] = f"<{row['id']}@{str(settings.smtp_from).rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        link = f"{settings.public_url}/shared/{token}"
        paragraphs = (*_sentences(job), link, f"The link is valid for {_DAYS} days.")
        message.set_content("\n\n".join(paragraphs) + "\n")
        return message

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        assert settings.smtp_host is not None
        if settings.smtp_tls == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                settings.smtp_host, settings.smtp_port, timeout=TIMEOUT_SECONDS, context=self._context
            )
        else:
            connection = smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=TIMEOUT_SECONDS)
        try:
            if settings.smtp_tls == "starttls":
                connection.starttls(context=self._context)
            if settings.smtp_user is not None:
                connection.login(settings.smtp_user, settings.smtp_password or "")
        except BaseException:
            connection.close()
            raise
        return connection


def _refusal(code: int, what: str) -> CallbackError:
    """Return the error for an answer of the mail server. A login or a mailbox may be in order an hour later."""
    words = f"the mail server answered with {code} to {what}"
    return RefusedError(words) if 550 <= code <= 559 else CallbackError(words)


def _sentences(job: Mapping[str, Any]) -> list[str]:
    of_whom = "" if job["owner_role"] == "anonymous" else f" of {clean_name(job['title'])!r}"
    done, failed = job["pages_done"], job["pages_failed"]
    if job["status"] == "completed":
        found = [f"The job{of_whom} is done: {done} page{'s' * (done != 1)}."]
        if failed:
            found.append(f"{failed} page{'s' * (failed != 1)} could not be upscaled.")
        return found
    if job["status"] == "canceled":
        return [f"The job{of_whom} was canceled."]
    failed_words = [f"The job{of_whom} failed."]
    if job["error"] and job["owner_role"] != "anonymous":
        failed_words.append(" ".join(job["error"].split())[:500])
    return failed_words
