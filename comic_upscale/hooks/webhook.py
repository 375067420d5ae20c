"""Webhooks as in Standard Webhooks: an id, a time and a signature over both and the body.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.hooks.http import send
from comic_upscale.retries import RetryPolicy

_PREFIX = "whsec_"


class Webhook:
    """Sends webhooks to one address.

    Args:
        url: of the receiver.
        secret: signs them; ``whsec_`` and base64. None to sign none.

    Raises:
        SettingsError: the secret is not base64.
    """

    def __init__(self, url: str, secret: str | None) -> None:
        self._url = url
        self._key = None if secret is None else _key_of(secret)

    def send(self, kind: str, data: Mapping[str, Any], policy: RetryPolicy) -> None:
        """Send a webhook, and repeat it with the same id until it is accepted.

        Args:
            kind: such as ``job.finished``.
            data: for the receiver.
            policy: when it is repeated.

        Raises:
            HookError: the receiver did not accept it.
        """
        content = {"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": data}
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
        identity = f"msg_{secrets.token_hex(16)}"

        def headers() -> dict[str, str]:
            # Receivers refuse old times, so each try has its own.
            moment = str(int(time.time()))
            named = {
                "Content-Type": "application/json",
                "User-Agent": "comic-upscale",
                "webhook-id": identity,
                "webhook-timestamp": moment,
            }
            if self._key is not None:
                named["webhook-signature"] = sign(self._key, identity, moment, body)
            return named

        send("POST", self._url, policy, headers=headers, body=body)


def sign(key: bytes, identity: str, moment: str, body: bytes) -> str:
    """Return the header ``webhook-signature``.

    Args:
        key: the bytes of the secret.
        identity: the header ``webhook-id``.
        moment: the header ``webhook-timestamp``.
        body: of the request.
    """
    content = b".".join((identity.encode(), moment.encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SettingsError("COMIC_UPSCALE_WEBHOOK_SECRET must be whsec_ and base64")
    return key
