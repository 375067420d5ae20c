"""Signed links: whoever has one may fetch one file or result for some minutes, without a key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from itsdangerous import BadSignature, URLSafeTimedSerializer

Purpose: TypeAlias = Literal["file", "results", "originals", "share"]

LIFETIME_SECONDS = 600
SHARED_SECONDS = 7 * 86_400
"""How long a link is valid that a person gives to somebody else."""


class LinkError(Exception):
    """A link is not valid."""


class LinkExpiredError(LinkError):
    """A link was valid."""


@dataclass(frozen=True, slots=True)
class Link:
    """The content of a signed link."""

    purpose: Purpose
    object_id: str
    """A file; the job or upload whose files go into one ZIP; or the job that is shared."""


class Links:
    """Signs and verifies links.

    Args:
        secrets: the keys, oldest first: the last one signs, all of them verify.
    """

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets

    def sign(self, link: Link) -> str:
        """Return a token for a link, which is valid for `LIFETIME_SECONDS`, or `SHARED_SECONDS` to share a job."""
        return str(self._serializer(link.purpose).dumps(link.object_id))

    def verify(self, purpose: Purpose, token: str) -> Link:
        """Return the content of a token.

        Raises:
            LinkExpiredError: it is too old.
            LinkError: it was not signed by this server for this purpose.
        """
        try:
            lifetime = SHARED_SECONDS if purpose == "share" else LIFETIME_SECONDS
            content, signed_at = self._serializer(purpose).loads(token, return_timestamp=True)
        except BadSignature:
            raise LinkError from None
        # A link from the future is valid: the clock of this server was set back, or another server signed it.
        if datetime.now(UTC) - signed_at > timedelta(seconds=lifetime):
            raise LinkExpiredError
        if not isinstance(content, str):
            raise LinkError
        return Link(purpose, content)

    def _serializer(self, purpose: Purpose) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secrets, salt=f"comic-upscale link {purpose}")
