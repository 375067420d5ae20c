"""Jobs whose pages and outputs are in buckets: as in a folder, through faults, and continued by another machine."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.commands.environment import bucket_ledger
from comic_upscale.errors import LedgerBusyError, SettingsError, StorageError
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger import bucket_copy
from comic_upscale.ledger.bucket_copy import LedgerCopy
from comic_upscale.ledger.recent import choose_job, remember_ledger
from comic_upscale.retries import RetryPolicy
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.places import place_of
from comic_upscale.storage import buckets as buckets_module
from comic_upscale.storage.stores import open_outputs
from tests.archives import make_7z, make_zip, picture, pictures
from tests.fakes import NearestEngine
from tests.server import buckets
from tests.storage.conftest import BUCKETS, OpenBucket, bucket_of, names_in, open_bucket, servers
from tests.storage.proxy import Fault, FaultProxy, fault_proxy

__all__ = ["open_bucket", "servers"]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, bytes]:
    """A few pages, two of them the same, with a caption; a ZIP and a solid archive."""
    return {
        "1.png": picture(1),
        "1.txt": b"a caption",
        "deep/2.jpg": picture(2, format="JPEG"),
        "deep/same.png": picture(1),
        "notes.md": b"notes",
        "v.cbz": make_zip(
            tmp_path / "made.zip", {**pictures(3), "ComicInfo.xml": b"<ComicInfo/>"}
        ).read_bytes(),
        "w.cb7": make_7z(tmp_path / "made.7z", pictures(4, seed=7)).read_bytes(),
    }


class Place:
    """An input and an output in a bucket, and a machine that works on them."""

    def __init__(self, address: Path, folder: Path) -> None:
        self.source, self.output, self.folder = address / "in", address / "out", folder
        weights = folder / "any.safetensors"
        weights.write_bytes(b"weights")
        self.weights = weights

    def fill(self, objects: dict[str, bytes]) -> None:
        for name, data in objects.items():
            bucket_of(self.source).put(name, data)

    def settings(self, machine: str = "one", **changes: Any) -> JobSettings:
        values: dict[str, Any] = {
            "input": self.source, "output": self.output, "ledger": self.ledger(machine), "model": str(self.weights),
            "scale": 2.0, "workers": 2, **changes,
        }  # fmt: skip
        return JobSettings(**values)

    def ledger(self, machine: str = "one") -> Path:
        return self.folder / machine / ".comic-upscale" / "ledger.sqlite3"

    def run(self, machine: str = "one", engine: NearestEngine | None = None, **changes: Any) -> JobFinished:
        return run_job(self.settings(machine, **changes), open_engines=lambda *_: [engine or NearestEngine()])

    def outputs(self) -> dict[str, bytes]:
        bucket = bucket_of(self.output)
        keys = [each.key for each in bucket.walk() if not each.key.startswith(".comic-upscale")]
        return {key: bucket.get(key) for key in sorted(keys)}


@pytest.fixture(params=BUCKETS)
def place(request: pytest.FixtureRequest, open_bucket: OpenBucket, tmp_path: Path) -> Place:
    return Place(open_bucket(request.param), tmp_path)


@pytest.fixture
def moto(open_bucket: OpenBucket, tmp_path: Path) -> Place:
    return Place(open_bucket("moto"), tmp_path)


def test_a_job_between_buckets_makes_the_bytes_of_one_between_folders(
    place: Place, objects: dict[str, bytes], tmp_path: Path
) -> None:
    place.fill(objects)
    finished = place.run(copy_others=True)
    assert (finished.done, finished.failed, finished.warnings) == (10, 0, ())
    assert (finished.volumes_done, finished.carried_now, finished.copied_now) == (2, 2, 1)
    assert (finished.output, finished.ledger) == (place_of(place.output).address, str(place.ledger()))
    source, local = tmp_path / "in", tmp_path / "out"
    for name, data in objects.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    run_job(
        JobSettings(
            input=source, output=local, model=str(place.weights), scale=2.0, workers=2, copy_others=True
        ),
        open_engines=lambda *_: [NearestEngine()],
    )
    names = [name for name in names_in(local) if not name.startswith(".comic-upscale")]
    made = place.outputs()
    assert sorted(made) == names
    # The date of a CBZ's members is that of its source.
    assert all(made[name] == (local / name).read_bytes() for name in names if not name.endswith(".cbz"))
    again = place.run(engine=NearestEngine(_refuse), copy_others=True)
    assert (again.done, again.done_now) == (10, 0)
    # Nothing but the lock, the ledger and a note is on this machine.
    assert {name.split("/")[0] for name in names_in(tmp_path / "one")} == {".comic-upscale"}


def test_another_machine_continues_where_one_ended(moto: Place, objects: dict[str, bytes]) -> None:
    moto.fill(objects)
    moto.run("one")
    bucket_of(moto.output).delete(["deep/2.png"])
    finished = moto.run("two")
    assert (finished.done, finished.done_now, finished.failed) == (10, 1, 0)
    # The first machine sees that another one has worked on it meanwhile.
    bucket_of(moto.output).delete(["1.png"])
    finished = moto.run("one")
    assert (finished.done, finished.failed) == (10, 0)
    assert (moto.folder / "one" / ".comic-upscale" / "ledger-before.sqlite3").is_file()
    with closing(sqlite3.connect(moto.ledger("one"))) as ledger:
        assert ledger.execute("select count(*) from runs").fetchone()[0] == 3


def test_a_machine_that_goes_off_is_replaced_by_another(moto: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {f"{number:02}.png": picture(number) for number in range(12)}
    moto.fill(pages)
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.jobs.odd_bucket_run", str(moto.source), str(moto.output),
            str(moto.ledger()), "7", str(moto.weights),
        ],
        cwd=REPOSITORY, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 9
    there = moto.outputs()
    assert 0 < len(there) < 12
    monkeypatch.setattr(bucket_copy, "ALIVE_WITHIN_SECONDS", 1.5)
    events: list[Event] = []
    finished = run_job(
        moto.settings("two"), open_engines=lambda *_: [NearestEngine()], on_event=events.append
    )
    # None is lost, and none looks like that of somebody else.
    assert (finished.done, finished.failed) == (12, 0)
    assert len(moto.outputs()) == 12


def test_an_output_of_somebody_else_is_kept_by_another_machine_too(moto: Place) -> None:
    moto.fill({"1.png": picture(1), "2.png": picture(2)})
    moto.run("one")
    bucket = bucket_of(moto.output)
    bucket.put("2.png", b"mine")
    finished = moto.run("two")
    assert (finished.done, finished.failed) == (1, 1)
    assert bucket.get("2.png") == b"mine"


def test_two_machines_never_work_on_one_job_at_once(moto: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    moto.fill({"1.png": picture(1), "2.png": picture(2)})
    monkeypatch.setattr(bucket_copy, "SIGN_SECONDS", 0.3)
    monkeypatch.setattr(bucket_copy, "_POLL_SECONDS", 0.5)
    refused: list[str] = []

    def begin_another(_: object) -> None:
        if not refused:
            refused.append("")
            with pytest.raises(LedgerBusyError, match="is working on s3://comics/") as caught:
                moto.run("two")
            refused.append(str(caught.value))

    finished = moto.run("one", NearestEngine(begin_another))
    assert (finished.done, len(refused)) == (2, 2)


def test_a_job_that_another_machine_has_taken_over_ends(moto: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {f"{number:02}.png": picture(number) for number in range(30)}
    moto.fill(pages)
    monkeypatch.setattr(bucket_copy, "SAVE_SECONDS", 0.2)
    is_noticed = threading.Event()
    saving = LedgerCopy.saving

    def note(copy: LedgerCopy, on_lost: Callable[[str], None]) -> Any:
        return saving(copy, lambda reason: (on_lost(reason), is_noticed.set())[0])

    monkeypatch.setattr(LedgerCopy, "saving", note)

    def take_over(_: object) -> None:
        # Again and again: a copy of this machine that was on its way may have taken the place of the first one.
        while not is_noticed.is_set() and time.monotonic() < latest:
            bucket_of(moto.output).put(
                ".comic-upscale/ledger.sqlite3", b"of another machine", {buckets_module.MARK: "another"}
            )
            is_noticed.wait(1)

    latest = time.monotonic() + 60
    finished = moto.run("one", NearestEngine(take_over))
    assert finished.state == "interrupted"
    assert finished.reason is not None
    assert "taken over" in finished.reason
    assert bucket_of(moto.output).get(".comic-upscale/ledger.sqlite3") == b"of another machine"


def test_a_short_job_that_another_machine_has_taken_over_does_not_end_as_finished(moto: Place) -> None:
    moto.fill({"1.png": picture(1)})

    def take_over(_: object) -> None:
        bucket_of(moto.output).put(
            ".comic-upscale/ledger.sqlite3", b"of another machine", {buckets_module.MARK: "another"}
        )

    # It ends before the next copy is due, so only the last one finds it.
    with pytest.raises(LedgerBusyError, match="taken over the job"):
        moto.run("one", NearestEngine(take_over))
    assert bucket_of(moto.output).get(".comic-upscale/ledger.sqlite3") == b"of another machine"


@pytest.fixture
def copy_of(moto: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], LedgerCopy]]:
    """Opens the copy of a machine, all of one job that has not begun yet. Its signs come often."""
    monkeypatch.setattr(bucket_copy, "SIGN_SECONDS", 0.2)
    monkeypatch.setattr(bucket_copy, "_POLL_SECONDS", 0.3)
    opened: list[LedgerCopy] = []

    def open_copy(machine: str) -> LedgerCopy:
        moto.ledger(machine).parent.mkdir(parents=True, exist_ok=True)
        opened.append(LedgerCopy(moto.output, moto.ledger(machine), moto.folder / machine))
        return opened[-1]

    yield open_copy
    for each in opened:
        each.close()


def test_a_job_that_has_just_begun_is_held_before_there_is_a_copy(
    copy_of: Callable[[str], LedgerCopy],
) -> None:
    waits: list[str] = []
    first = copy_of("one")
    first.restore(waits.append)
    with pytest.raises(LedgerBusyError, match="is working on s3://comics/"):
        copy_of("two").restore(lambda _: None)
    # A machine does not wait for its own run that was killed.
    copy_of("one").restore(waits.append)
    assert waits == []
    first.close()


def test_the_next_machine_begins_at_once_after_an_end(copy_of: Callable[[str], LedgerCopy]) -> None:
    waits: list[str] = []
    for machine in ("one", "two", "one"):
        copy = copy_of(machine)
        copy.restore(waits.append)
        copy.close()
    assert waits == []


def test_a_machine_that_slept_sees_who_works_instead_and_saves_nothing(
    moto: Place, copy_of: Callable[[str], LedgerCopy]
) -> None:
    bucket = bucket_of(moto.output)
    copy = copy_of("one")
    copy.restore(lambda _: None)
    with closing(sqlite3.connect(moto.ledger("one"))) as ledger:
        ledger.execute("create table pages (id integer)")
    reasons: list[str] = []
    lost = threading.Event()

    def on_lost(reason: str) -> None:
        reasons.append(reason)
        lost.set()

    other = json.dumps({"host": "other", "pid": 7, "machine": "two"}).encode()
    with copy.saving(on_lost):
        for _ in range(100):
            # This machine's own sign may be under way.
            bucket.put(".comic-upscale/run.json", other)
            if lost.wait(0.3):
                break
    copy.close()
    assert reasons and "process 7 on other has taken over" in reasons[0]
    kept = [each.key for each in bucket.walk(".comic-upscale")]
    assert kept == [".comic-upscale/run.json"]
    assert bucket.get(".comic-upscale/run.json") == other


@pytest.fixture(params=BUCKETS)
def proxied(
    request: pytest.FixtureRequest, open_bucket: OpenBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Place, FaultProxy]]:
    """A place behind a proxy. Failed requests are repeated without long pauses."""
    running: buckets.Bucket = request.getfixturevalue("servers")(request.param)
    address = open_bucket(request.param)
    monkeypatch.setitem(buckets_module.RETRIES, "max_retries", 0)
    quick = RetryPolicy(seconds=30, attempts=8, first_pause=0.02, longest_pause=0.1)
    monkeypatch.setattr(buckets_module, "PATIENCE", quick)
    with fault_proxy(running.endpoint) as proxy:
        for name, value in running.behind(proxy.endpoint).variables().items():
            monkeypatch.setenv(name, value)
        yield Place(address, tmp_path), proxy


def test_a_job_through_faults_loses_nothing(
    proxied: tuple[Place, FaultProxy], objects: dict[str, bytes]
) -> None:
    place, proxy = proxied
    place.fill(objects)
    faults: list[Fault] = ["unavailable", "reset", "cut", "lost answer", "slow"]
    # A quarter of all requests.
    proxy.plan = lambda method, path, number: faults[number // 4 % 5] if number % 4 == 1 else None
    finished = place.run(copy_others=True)
    assert (finished.done, finished.failed, finished.warnings) == (10, 0, ())
    assert set(proxy.broken) == {"unavailable", "reset", "cut", "lost answer", "slow"}
    proxy.plan = lambda *_: None
    assert len(place.outputs()) == 7
    assert place.run("two", NearestEngine(_refuse), copy_others=True).done == 10


def test_what_a_user_asks_of_a_job_in_a_bucket(moto: Place, tmp_path: Path) -> None:
    moto.fill({"1.png": picture(1)})
    state = tmp_path / "state"
    moto.run()
    remember_ledger(state, moto.ledger())
    assert choose_job(None, None, state) == (moto.ledger(), moto.output)
    assert choose_job(moto.output, moto.ledger(), state) == (moto.ledger(), moto.output)
    assert open_outputs(moto.output).stat("1.png") is not None
    assert bucket_ledger(moto.output) != bucket_ledger(moto.source)
    with pytest.raises(SettingsError, match="needs a --ledger"):
        moto.settings(ledger=None)
    assert JobSettings.from_json(moto.settings().as_json()) == moto.settings()
    with pytest.raises(SettingsError, match="no address of a bucket"):
        moto.settings(output=Path("s3://UPPER/x"))


def test_a_service_without_metadata_still_tells_whose_copy_it_is(moto: Place, tmp_path: Path) -> None:
    class Plain(type(bucket_of(moto.output))):  # type: ignore[misc]
        def marks(self, key: str) -> dict[str, str]:
            self.head(key)
            return {}

    moto.fill({"1.png": picture(1)})
    moto.run()
    bucket = bucket_of(moto.output)
    plain = Plain(bucket.place)
    copy = LedgerCopy(moto.output, moto.ledger(), tmp_path / "one", plain)
    copy.save()
    copy.save()
    copy.restore(lambda _: None)
    copy.close()
    assert not copy.was_fetched
    other = LedgerCopy(moto.output, moto.ledger("two"), tmp_path / "two", plain)
    (tmp_path / "two" / ".comic-upscale").mkdir(parents=True)
    other.restore(lambda _: None)
    other.close()
    assert other.was_fetched


def test_a_row_of_copies_that_do_not_arrive_is_no_other_machine(moto: Place, tmp_path: Path) -> None:
    class Full(type(bucket_of(moto.output))):  # type: ignore[misc]
        def put(self, *arguments: Any) -> Any:
            raise StorageError("the bucket is full")

    moto.fill({"1.png": picture(1)})
    moto.run()
    bucket = bucket_of(moto.output)
    LedgerCopy(moto.output, moto.ledger(), moto.folder / "one", bucket).save()
    full = LedgerCopy(moto.output, moto.ledger(), moto.folder / "one", Full(bucket.place))
    for _ in range(6):
        with pytest.raises(StorageError, match="is full"):
            full.save()
    LedgerCopy(moto.output, moto.ledger(), moto.folder / "one", bucket).save()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ledger.sqlite3", "the ledger cannot be copied to s3://"),
        ("run.json", "the sign that this run is alive"),
    ],
)
def test_copies_and_signs_that_fail_are_logged_once_and_go_on(
    moto: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    message: str,
) -> None:
    away, odd = StorageError("the bucket is away"), RuntimeError("nobody foresaw this")
    outcomes: list[Exception | None] = []
    has_tried = threading.Event()

    class Faulty(type(bucket_of(moto.output))):  # type: ignore[misc]
        def put(self, key: str, *arguments: Any) -> Any:
            if key.endswith(name) and outcomes:
                error = outcomes.pop(0)
                if error is not None:
                    raise error
                if not outcomes:
                    has_tried.set()
            return super().put(key, *arguments)

    moto.fill({"1.png": picture(1)})
    moto.run()
    monkeypatch.setattr(bucket_copy, "SAVE_SECONDS", 0.01)
    monkeypatch.setattr(bucket_copy, "SIGN_SECONDS", 0.01)
    copy = LedgerCopy(moto.output, moto.ledger(), tmp_path / "one", Faulty(bucket_of(moto.output).place))
    copy.restore(lambda _: None)
    caplog.clear()
    outcomes += [away, away, odd, odd, None, away, None]
    with copy.saving(lambda _: None):
        assert has_tried.wait(60)
    copy.close()
    records = [record for record in caplog.records if record.name == bucket_copy.__name__]
    assert [record.levelname for record in records] == ["WARNING", "ERROR", "WARNING"]
    assert all(record.getMessage().startswith(message) for record in records)
    assert records[1].exc_info is not None


def _refuse(_: object) -> None:
    raise AssertionError("nothing is left to do")
