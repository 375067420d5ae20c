"""``--spot-notice``: a run stops in time before a cloud takes its machine back, and the next one continues."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comic_upscale.provisioning import spot
from comic_upscale.provisioning.spot import SpotNotice
from tests.commands.test_costs import own_folders
from tests.commands.test_run import invoke
from tests.conftest import draw
from tests.engines.test_command import QUICK_ENGINE
from tests.provisioning.metadata import FakeMetadata, serve

__all__ = ["own_folders"]

PAGES = 8


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetadata]:
    with serve() as served:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{served.host}/")
        monkeypatch.setenv("GCE_METADATA_HOST", served.host)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setattr(spot, "LOOK_SECONDS", 0.01)
        yield served


def test_a_notice_ends_a_run_and_the_next_one_continues(fake: FakeMetadata, tmp_path: Path) -> None:
    for number in range(PAGES):
        draw(tmp_path / "in" / f"{number}.png", number)
    output = tmp_path / "out"
    fake.is_due = lambda: any(output.glob("*.png"))
    asked = ("run", "--input", tmp_path / "in", "--output", output, "--workers", 1, *QUICK_ENGINE)
    code, out, _ = invoke(*asked, "--spot-notice", "aws")
    reason = "AWS will terminate this spot machine at 2026-11-27T20:00:00Z"
    assert (code, f"stopped early ({reason}); run the same command again" in out) == (143, True)
    status = json.loads(invoke("status", "--job", output, "--json")[1])
    assert (status["run_state"], status["failed"]) == ("interrupted", 0)
    assert 0 < status["done"] < PAGES and status["done"] == len(list(output.glob("*.png")))
    looks = fake.asked
    assert invoke(*asked)[0] == 0 and fake.asked == looks, "nobody is asked without the option"
    assert len(list(output.glob("*.png"))) == PAGES


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_elsewhere_the_option_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cloud: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{host}")
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    draw(tmp_path / "in" / "1.png", 1)
    code, _, err = invoke("run", "--input", tmp_path / "in", *QUICK_ENGINE, "--spot-notice", cloud)
    assert code == 2 and f"--spot-notice {cloud}: no metadata service answers at http://{host}" in err
    assert not (tmp_path / "in-x2.5").exists()


def test_google_cloud_is_asked_in_its_own_way(fake: FakeMetadata) -> None:
    notice = SpotNotice("gcp", f"http://{fake.host}")
    assert notice.look() is None
    fake.is_due = lambda: True
    assert notice.look() == "Google Cloud takes this spot machine back"


def test_an_expired_token_is_renewed(fake: FakeMetadata) -> None:
    notice = SpotNotice("aws", f"http://{fake.host}")
    assert notice.look() is None and notice.look() is None and fake.tokens == 1
    fake.tokens = 7
    fake.is_due = lambda: True
    assert notice.look() is not None and fake.tokens == 8


@pytest.mark.parametrize(
    "said", [b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"]
)
def test_an_answer_that_is_none_is_a_service_that_fails(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(
            OSError, match=r"BadStatusLine|IncompleteRead|ValueError|InvalidURL|URLError|urlopen"
        ):
            SpotNotice("gcp", f"http://127.0.0.1:{server.getsockname()[1]}").look()
        thread.join()


@pytest.mark.parametrize("address", ["169.254.169.254", "http://a b", "http://[::1"])
def test_an_address_that_is_none_is_a_service_that_fails(address: str) -> None:
    with pytest.raises(OSError, match=r"BadStatusLine|IncompleteRead|ValueError|InvalidURL|URLError|urlopen"):
        SpotNotice("aws", address).look()


def test_a_service_that_fails_for_a_while_ends_nothing(fake: FakeMetadata) -> None:
    answers = iter([OSError("away"), None, "taken back"])
    told: list[str] = []
    has_told = threading.Event()

    class Odd(SpotNotice):
        def look(self) -> str | None:
            found = next(answers)
            if isinstance(found, OSError):
                raise found
            return found

    def tell(text: str) -> None:
        told.append(text)
        has_told.set()

    with spot.watch(Odd("gcp", f"http://{fake.host}"), tell):
        assert has_told.wait(60)
    assert told == ["taken back"]
