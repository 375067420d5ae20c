"""Sending a webhook to an address that a stranger chose, without reaching the internal network.

The name is resolved once, every address of it must be public, and the connection goes to the very address that was
checked: a name that resolves differently a moment later gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from comic_upscale.errors import ComicUpscaleError

TIMEOUT_SECONDS = 10.0
"""The most that a connection takes, from its beginning to the last header of the answer."""
LONGEST_URL = 2000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

# Networks of IPv6 that stand for addresses of IPv4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")


class CallbackError(ComicUpscaleError):
    """A webhook was not delivered, or its address is not allowed."""


class RefusedError(CallbackError):
    """The receiver refused a message for good: another try would be refused, too."""


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
    # Every machine takes this name for itself (RFC 6761), so nothing needs to be resolved.
    if host.rstrip(".").rpartition(".")[2] == "localhost":
        raise CallbackError("callback_url must lead to a public address")
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
        timeout: seconds for a whole connection.
    """

    def __init__(
        self,
        resolve: Resolve = resolve,
        allow: Callable[[Address], bool] = is_public,
        context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._resolve, self._allow, self._timeout = resolve, allow, timeout
        self._context = context or ssl.create_default_context()

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a webhook. Blocks until the name is resolved, and then for at most the timeout.

        Only the status of the answer counts, and its body is not read.

        Raises:
            CallbackError: it was not accepted with a status of 2xx.
        """
        target = check_url(url)
        address = self._address(target)
        try:
            status = self._post(target, address, body, headers)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise CallbackError(f"the receiver cannot be reached: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise CallbackError(f"the receiver answered with status {status}")

    def _post(self, target: Target, address: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status of the answer."""
        end = time.monotonic() + self._timeout
        with (
            socket.create_connection((address, target.port), self._timeout) as plain,
            _shut_down_at(end, plain),
            self._context.wrap_socket(plain, server_hostname=target.host.rstrip(".")) as secure,
        ):
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = secure
            host = target.host if target.port == 443 else f"{target.host}:{target.port}"
            connection.request("POST", target.path, body, {**headers, "Host": host, "Connection": "close"})
            with connection.getresponse() as response:
                return response.status

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


@contextlib.contextmanager
def _shut_down_at(end: float, connected: socket.socket) -> Iterator[None]:
    """Shut a connection down at a time of `time.monotonic`, unless the ``with`` block ends before.

    The timeout of a socket does not do: it begins again with each byte.

    Raises:
        TimeoutError: it was shut down.
    """
    # A descriptor of its own, since the block closes the other one.
    own = connected.dup()
    is_late = threading.Event()

    def shut_down() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            own.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(end - time.monotonic(), 0.0), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (http.client.HTTPException, OSError):
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
        own.close()
    if is_late.is_set():
        raise TimeoutError
