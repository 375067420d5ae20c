"""Sending a webhook to an address that a stranger chose, without reaching the internal network.

The name is resolved once, every address of it must be public, and the connection goes to the very address that was
checked: a name that resolves differently a moment later gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import urllib3

from comic_upscale.errors import ComicUpscaleError

TIMEOUT_SECONDS = 10.0
LONGEST_URL = 2000
MOST_READ = 64 << 10
"""Bytes of the answer that are read. They are thrown away."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

# Networks of IPv6 that stand for addresses of IPv4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")


class CallbackError(ComicUpscaleError):
    """A webhook was not delivered, or its address is not allowed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL."""

    url: SplitResult
    host: str
    port: int

    @property
    def path(self) -> str:
        """Path and query."""
        return (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")


def check_url(text: str) -> Target:
    """Return a URL if its form is allowed. Nothing is resolved.

    Raises:
        CallbackError: it is not https, has a user or password, or names an address that is not public.
    """
    try:
        if len(text) > LONGEST_URL or any(ord(char) <= 32 or ord(char) > 126 for char in text):
            raise ValueError
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise CallbackError("callback_url is not a URL") from None
    if url.scheme != "https" or not host:
        raise CallbackError("callback_url must begin with https://")
    if url.username is not None or url.password is not None:
        raise CallbackError("callback_url must not have a user or a password")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if not is_public(address):
            raise CallbackError("callback_url must lead to a public address")
    return Target(url, host, port or 443)


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet, also the IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address in _NAT64_LOCAL or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Sender:
    """Sends webhooks.

    Args:
        resolve: returns the addresses of a name.
        allow: whether an address may be connected to.
        context: verifies certificates.
    """

    def __init__(
        self,
        resolve: Resolve = resolve,
        allow: Callable[[Address], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._resolve, self._allow = resolve, allow
        self._context = context or ssl.create_default_context()

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a webhook. Blocks, for at most about `TIMEOUT_SECONDS` for each step.

        Raises:
            CallbackError: it was not accepted with a status of 2xx.
        """
        target = check_url(url)
        address = self._address(target)
        pool = urllib3.HTTPSConnectionPool(
            address, target.port, ssl_context=self._context, server_hostname=target.host,
            assert_hostname=target.host, timeout=urllib3.Timeout(total=TIMEOUT_SECONDS), retries=False, maxsize=1,
        )  # fmt: skip
        host = target.host if target.port == 443 else f"{target.host}:{target.port}"
        try:
            with pool:
                response = pool.urlopen(
                    "POST", target.path, body=body, headers={**headers, "Host": host, "Connection": "close"},
                    redirect=False, preload_content=False,
                )  # fmt: skip
                response.read(MOST_READ, decode_content=False)
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise CallbackError(f"the receiver cannot be reached: {type(error).__name__}") from None
        if not 200 <= response.status < 300:
            raise CallbackError(f"the receiver answered with status {response.status}")

    def _address(self, target: Target) -> str:
        try:
            found = [
                ipaddress.ip_address(text.partition("%")[0])
                for text in self._resolve(target.host, target.port)
            ]
        except (OSError, ValueError):
            raise CallbackError("the name of the receiver cannot be resolved") from None
        if not found or not all(self._allow(address) for address in found):
            raise CallbackError("the receiver has an address that is not public")
        return str(found[0])
