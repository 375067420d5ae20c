"""Buckets with faults between, through a proxy: every answer may be an error, a reset, cut off, lost or slow."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError

from comic_upscale.errors import InputError, OutputError, PageError, StorageError
from comic_upscale.retries import RetryPolicy
from comic_upscale.settings.places import Place, place_of
from comic_upscale.storage import buckets as buckets_module
from comic_upscale.storage.base import OutputStore
from comic_upscale.storage.bucket_check import check_input, check_output
from comic_upscale.storage.buckets import Bucket
from comic_upscale.storage.object_outputs import ObjectOutputStore
from comic_upscale.storage.object_sources import ObjectSourceStore
from comic_upscale.storage.ranged import open_ranged
from tests.server import buckets
from tests.storage.conftest import BUCKETS, OpenBucket, bucket_of
from tests.storage.proxy import Fault, FaultProxy, fault_proxy

FAULTS: list[Fault] = ["unavailable", "reset", "cut", "lost answer", "slow"]
QUICK = RetryPolicy(seconds=20, attempts=4, first_pause=0.05, longest_pause=0.1)
GIVES_UP = RetryPolicy(attempts=1)


@pytest.fixture(params=["moto", "rclone"])
def proxy(
    request: pytest.FixtureRequest, servers: Callable[[str], buckets.Bucket], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A proxy in front of a server; the variables lead to the proxy. The library itself repeats no request."""
    server = servers(request.param)
    monkeypatch.setitem(buckets_module.RETRIES, "max_retries", 0)
    with fault_proxy(server.endpoint) as running:
        for name, value in server.behind(running.endpoint).variables().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return tmp_path.name


def whole_bucket(patience: RetryPolicy = QUICK) -> Bucket:
    return Bucket(Place("s3", "comics", ""), patience)


def break_every(numbers: set[int], fault: Fault) -> Callable[[str, str, int], Fault | None]:
    """A plan that breaks some requests, counted from now on."""
    count = itertools.count()
    return lambda *_: fault if next(count) in numbers else None


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_mixed_up_by_faults_between(proxy: FaultProxy, prefix: str, fault: Fault) -> None:
    address = Path(f"s3://comics/{prefix}")
    outputs: OutputStore = ObjectOutputStore(address / "out", bucket=whole_bucket())
    content = [hashlib.sha256(bytes([number])).digest() * 3000 for number in range(4)]
    # Every second request of the first few, so each kind of request is hit at its first try, and at its second.
    proxy.plan = break_every({0, 2, 3, 5, 8} if fault != "slow" else {1}, fault)
    outputs.prepare()
    for number, data in enumerate(content):
        asyncio.run(outputs.put(f"p/{number}.png", data, number))
    proxy.plan = break_every({0, 2, 3, 6} if fault != "slow" else {1}, fault)
    sources = ObjectSourceStore(address / "out", bucket=whole_bucket())
    names = sorted(entry.name for entry in sources.list(str(address / "out" / "p")))
    assert names == [f"{number}.png" for number in range(4)]
    proxy.plan = break_every({0, 1}, fault)
    assert [each.key for each in whole_bucket().walk(f"{prefix}/out/p")] == [
        f"{prefix}/out/p/{name}" for name in names
    ]
    proxy.plan = break_every({0, 2, 3, 6} if fault != "slow" else {1}, fault)
    for number, data in enumerate(content):
        assert sources.read_now(address / "out" / "p" / f"{number}.png") == data
    assert proxy.broken
    assert set(proxy.broken) == {fault}


class BreaksOff:
    """Stands for the library's listing: gives the objects by twos, and breaks off after each two, a number of times."""

    def __init__(self, times: int, order: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
        self.left, self.order = times, order
        self.list = obstore.list

    def __call__(self, store: Any, **how: Any) -> Iterator[list[dict[str, str]]]:
        found: Any = [each for page in self.list(store, **how) for each in page]
        objects = self.order(found)
        for number in range(0, len(objects), 2):
            if number and self.left:
                self.left -= 1
                raise BaseError("error decoding response body")
            yield objects[number : number + 2]


def test_a_listing_that_breaks_off_has_each_object_once_in_any_order(
    proxy: FaultProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = whole_bucket()
    names = [f"{prefix}/{number}" for number in range(7)]
    for name in names:
        bucket.put(name, b"page")
    monkeypatch.setattr(obstore, "list", BreaksOff(3, lambda found: found))
    assert [each.key for each in bucket.walk(prefix)] == names
    # Some services list `A/1` before `A-B/1`.
    monkeypatch.setattr(obstore, "list", BreaksOff(1, lambda found: found[::-1]))
    assert [each.key for each in bucket.walk(prefix)] == names[::-1]


def test_a_large_object_is_sent_and_read_in_parts_through_faults(proxy: FaultProxy, prefix: str) -> None:
    bucket = whole_bucket()
    data = bytes(range(256)) * (10 << 12)
    proxy.plan = break_every({1, 3}, "unavailable")
    bucket.put(f"{prefix}/large", io.BytesIO(data))
    # The answer to the request that makes the parts an object is lost: the parts are gone then.
    lost = itertools.count()
    proxy.plan = lambda method, path, _: (
        "lost answer" if method == "POST" and "uploadId=" in path and not next(lost) else None
    )
    bucket.put(f"{prefix}/large", io.BytesIO(data))
    assert proxy.broken[-1] == "lost answer"
    listed = bucket.head(f"{prefix}/large")
    proxy.plan = break_every({0, 2}, "cut")
    target = io.BytesIO()
    bucket.fetch(listed, target)
    assert target.getvalue() == data


def test_a_page_is_not_taken_for_the_one_that_replaced_it(open_bucket: OpenBucket) -> None:
    address = open_bucket("moto")
    bucket = bucket_of(address)
    bucket.put("v.cbz", b"a" * 3_000_000)
    with open_ranged(bucket, bucket.head("v.cbz")) as file:
        assert file.read(10) == b"a" * 10
        bucket.put("v.cbz", b"b" * 3_000_000)
        file.seek(2_000_000)
        with pytest.raises(OSError, match="replaced") as caught:
            file.read(10)
    assert caught.value.errno == errno.ESTALE


def test_of_a_zip_in_a_bucket_only_a_part_is_read(
    proxy: FaultProxy, prefix: str, request: pytest.FixtureRequest
) -> None:
    if "rclone" in request.node.name:
        pytest.skip("rclone sends no ranges")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}.bin", hashlib.sha256(bytes([number])).digest() * 4000)
    bucket = whole_bucket()
    bucket.put(f"{prefix}/v.cbz", made.getvalue())
    before = len(proxy.requests)
    with open_ranged(bucket, bucket.head(f"{prefix}/v.cbz")) as file, zipfile.ZipFile(file) as archive:
        assert archive.read("20.bin") == hashlib.sha256(bytes([20])).digest() * 4000
    # The head, the directory at the end, the member.
    assert len(proxy.requests) - before <= 5


def test_a_bucket_that_does_not_answer(proxy: FaultProxy, prefix: str) -> None:
    address = Path(f"s3://comics/{prefix}")
    sources = ObjectSourceStore(address, bucket=whole_bucket(GIVES_UP))
    bucket_of(address).put("1.png", b"x")
    assert sources.is_folder()
    assert sources.is_there()
    outputs = ObjectOutputStore(address, bucket=whole_bucket(GIVES_UP))
    proxy.plan = lambda *_: "reset"
    assert not sources.is_there()
    with pytest.raises(PageError) as caught:
        sources.read_now(address / "1.png")
    assert caught.value.kind == "unreadable"
    with sources.open(address / "1.png") as file, pytest.raises(OSError, match="cannot be used"):
        file.read()
    with pytest.raises(InputError, match="cannot be listed"):
        ObjectSourceStore(address, bucket=whole_bucket(GIVES_UP)).is_folder()
    for write in (
        outputs.prepare,
        lambda: outputs.stat("1.png"),
        lambda: asyncio.run(outputs.put("2.png", b"x", 1)),
        lambda: outputs.copy("2.png", io.BytesIO(b"x"), 1),
        lambda: outputs.relocate("1.png", "2.png"),
    ):
        with pytest.raises(OutputError, match="run the same command again"):
            write()


@pytest.mark.parametrize("kind", BUCKETS)
def test_what_a_bucket_allows_is_said_and_leaves_nothing(open_bucket: OpenBucket, kind: str) -> None:
    address = open_bucket(kind)
    bucket_of(address).put("in/ch/1.png", b"x")
    said: list[str] = []
    check_input(address / "in", said.append)
    check_output(address / "out", said.append)
    steps = [line.partition(":")[0] for line in said]
    assert steps == [
        "list", "read", "write", "write a large object", "read", "list", "copy", "metadata", "delete",
    ]  # fmt: skip
    assert [each.key for each in bucket_of(address).walk()] == ["in/ch/1.png"]


@pytest.mark.parametrize(
    ("kind", "secret"), [("rclone", "AWS_SECRET_ACCESS_KEY"), ("azurite", "AZURE_STORAGE_ACCOUNT_KEY")]
)
def test_a_right_that_is_missing_is_named(
    open_bucket: OpenBucket, monkeypatch: pytest.MonkeyPatch, kind: str, secret: str
) -> None:
    """moto checks no secrets."""
    address = open_bucket(kind)
    monkeypatch.setenv(secret, "wrongwrong==")
    with pytest.raises(StorageError, match=r"allow to list.*s3:ListBucket"):
        check_input(address, lambda _: None)
    with pytest.raises(StorageError, match=r"allow to write.*s3:PutObject"):
        check_output(address, lambda _: None)


@pytest.mark.parametrize("kind", ["moto", "google", "azurite"])
def test_a_bucket_that_does_not_exist_is_named_at_once(open_bucket: OpenBucket, kind: str) -> None:
    address = Path(f"{place_of(open_bucket(kind)).kind}://no-such-bucket/x")
    for check in (check_input, check_output):
        with pytest.raises(StorageError, match="the bucket does not exist: create it") as caught:
            check(address, lambda _: None)
        assert "\n" not in str(caught.value)


def test_odd_names_in_a_bucket(open_bucket: OpenBucket) -> None:
    address = open_bucket("moto")
    bucket = bucket_of(address)
    names = ["Kapitel 1/é ü.png", "a+b/100%25.png", "日本/一.png", "x/..png", " lead/ 1.png", "q?#&<>'\".png"]
    for name in names:
        bucket.put(name, name.encode())
    # What programs that show folders leave behind.
    bucket.put("empty/", b"")
    sources = ObjectSourceStore(address)
    found: dict[str, bytes] = {}
    folders = [str(address)]
    while folders:
        for entry in sources.list(folders.pop()):
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.stat().st_size:
                path = Path(entry.path)
                found[path.relative_to(address).as_posix()] = sources.read_now(path)
    assert found == {name: name.encode() for name in names}


def test_the_output_of_a_bucket_is_not_taken_for_its_input(open_bucket: OpenBucket) -> None:
    address = open_bucket("moto")
    outputs = ObjectOutputStore(address)
    assert outputs.is_same("1.png", address / "1.png")
    assert not outputs.is_same("1.png", address / "2.png")
    assert outputs.real_folder("a/1.png") == ObjectSourceStore(address).real_folder(address / "a" / "x.png")
    assert place_of(address).bucket == "comics"
    asyncio.run(outputs.put("1.png", b"x", 1))
    assert outputs.is_marked("1.png")
    bucket_of(address).put("2.png", b"of somebody else")
    assert not outputs.is_marked("2.png")
    with pytest.raises(PageError, match="too long"):
        asyncio.run(outputs.put("x" * 1100, b"x", 1))


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("S3", "AWS_ACCESS_KEY_ID"),
        ("GCS", "GOOGLE_APPLICATION"),
        ("MicrosoftAzure", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_a_login_that_is_missing_is_named(service: str, variable: str) -> None:
    from obstore.exceptions import BaseError

    def ask_the_machine() -> None:
        raise BaseError(f"Generic {service} error: GET http://169.254.169.254/token: 403 Forbidden")

    with pytest.raises(StorageError, match=f"no credentials for the bucket were found: set .*{variable}"):
        buckets_module.translated(ask_the_machine)
