"""Ledgers from strangers: any value in any column ends in words, and nothing outside of the job is read or written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.errors import InputError, LedgerError
from comic_upscale.ledger import values
from comic_upscale.ledger.queries import (
    read_done_pages,
    read_failures,
    read_run_rows,
    read_runs,
    read_settled_pages,
    read_suspects,
)
from comic_upscale.ledger.records import SELECT_ROWS
from comic_upscale.ledger.schema import MIGRATIONS
from comic_upscale.ledger.status import read_status
from comic_upscale.ledger.writer import Ledger
from tests.archives import make_zip, pictures
from tests.conftest import LONG, draw

T = TypeVar("T")

ODD: dict[str, object] = {
    "null": None, "zero": 0, "one": 1, "minus one": -1, "largest": 2**63 - 1, "smallest": -(2**63), "half": 0.5,
    "huge": 1e308, "infinite": float("inf"), "empty": "", "words": "x", "digits": "12", "NaN": "NaN",
    "controls": "\x1b[31m\u009b\x07", "NUL": "a\0b", "blob": b"\x00\xff", "no UTF-8": ("text", b"\x80\xff"),
    "surrogate": ("text", b"\xed\xa0\x80"), "brace": "{", "list": "[]", "null JSON": "null", "nested": "[" * 3000,
    "object": '{"size": [1], "workers": "many", "pdf_dpi": {}, "scale": 1e999}', "no workers": '{"workers": 0}',
    "odd date": "2024-02-31T25:61:00Z", "far date": "9999-12-31T23:59:59.999Z",
    "early date": "0001-01-01T00:00:00.000Z", "no zone": "2024-02-01T10:00:00", "running": "running", "done": "done",
    "outside": "../../x.png", "absolute": "/etc/passwd", "device": "/dev/zero",
    "folder": ".", "ledger": ".comic-upscale/ledger.sqlite3",
    "long": "x" * 70_000,
    "a device": "cuda:99999999999999999999999 (x, 0 pages at once)",
}  # fmt: skip
"""Values by what is odd about them; bytes after "text" are stored as text."""

TRIED = ("null", "one", "largest", "half", "controls", "NUL", "nested", "long", "a device")
"""The values with which every command is run, where a column takes them."""


def columns() -> list[tuple[str, str]]:
    """Every column of every table, from the schema itself."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in MIGRATIONS:
            for statement in migration.statements:
                connection.execute(statement)
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        return [
            (table, column[1])
            for table in tables
            for column in connection.execute(f"pragma table_info({table})")
        ]


def test_every_column_has_a_rule() -> None:
    assert {(table, column) for table, rules in values.RULES.items() for column in rules} == set(columns())


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


class Job:
    """A finished job with a page, a failed page, a volume and a sidecar, and its ledger as it was."""

    def __init__(self, root: Path, weights: Path) -> None:
        self.input, self.output = root / "in", root / "out"
        self.ledger = self.output / ".comic-upscale" / "ledger.sqlite3"
        self.run = (
            "run", "--input", self.input, "--output", self.output, "--model", weights, "--device", "cpu",
            "--workers", "1", "--price", "0.2", "--levels", "volume",
        )  # fmt: skip
        draw(self.input / "page.png", 1)
        (self.input / "page.txt").write_text("a caption")
        (self.input / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
        make_zip(self.input / "v.cbz", pictures(2))
        assert invoke(*self.run)[0] == 1
        self.sound = root / "sound.sqlite3"
        shutil.copy(self.ledger, self.sound)

    def loosen(self, table: str) -> Path:
        """A copy of the ledger whose tables have no types, no constraints and no views; one table has no key either."""
        loose = self.sound.with_name(f"loose-{table}.sqlite3")
        if loose.is_file():
            return loose
        with closing(sqlite3.connect(loose)) as connection:
            connection.execute("attach ? as sound", [str(self.sound)])
            query = "select name from sound.sqlite_master where type = 'table' and name not like 'sqlite_%'"
            for (name,) in connection.execute(query).fetchall():
                key = "" if table == name else " integer primary key"
                typed = ", ".join(
                    f"{column}{key if column == 'id' else ''}{'' if default is None else f' default {default}'}"
                    for _, column, _, _, default, _ in connection.execute(f"pragma sound.table_info({name})")
                )
                connection.execute(f"create table main.{name} ({typed})")
                connection.execute(f"insert into main.{name} select * from sound.{name}")
            connection.commit()
        return loose

    def put(self, table: str, column: str, value: object) -> None:
        """Make the ledger one with a value in every row of a column."""
        for suffix in ("-wal", "-shm"):
            Path(f"{self.ledger}{suffix}").unlink(missing_ok=True)
        shutil.copy(self.loosen(table if column == "id" else ""), self.ledger)
        with closing(sqlite3.connect(self.ledger)) as connection:
            connection.execute("pragma synchronous = off")
            stored = "cast(? as text)" if isinstance(value, tuple) else "?"
            given = value[1] if isinstance(value, tuple) else value
            assert connection.execute(f"update {table} set {column} = {stored}", [given]).rowcount > 0
            connection.commit()

    def commands(self) -> list[tuple[object, ...]]:
        job = ("--job", self.output)
        return [
            ("status", *job, "--failures", "--suspects"),
            ("status", *job, "--json"),
            ("export", *job, "--format", "csv"),
            ("export", *job, "--overwrite"),
            ("report", *job, "--overwrite"),
            ("remote", "listing", "--ledger", self.ledger),
            ("prune", *job),
            ("cost", "--input", self.input, "--gpu", "RTX 4090"),
            (*self.run, "--dry-run"),
            self.run,
            ("status", *job, "--watch"),
        ]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def own_state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(state))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, state: Path, tiny_weights: Path) -> Job:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(state))
        return Job(tmp_path_factory.mktemp("job"), tiny_weights)


READ: tuple[Callable[[Path], object], ...] = (
    read_status, read_failures, read_suspects, read_done_pages, read_run_rows,
    lambda path: list(read_settled_pages(path)), lambda path: read_runs(path, least=2),
)  # fmt: skip
"""All that reads a ledger, except for the commands that open it for writing."""


def is_refused(read: Callable[[Path], object], ledger: Path, what: str) -> bool:
    """Whether a ledger is refused in words. Anything else that is raised is a fault."""
    try:
        read(ledger)
    except LedgerError as error:
        assert error.exit_code == 6
        return True
    except InputError as error:
        # A ledger without the job of its pages.
        assert "holds no job" in str(error), what
        return True
    return False


def rotate(values: list[T], by: int) -> list[T]:
    by %= len(values)
    return values[by:] + values[:by]


@pytest.mark.parametrize(("table", "column"), columns(), ids=str)
def test_any_value_in_any_column_ends_in_words(job: Job, table: str, column: str) -> None:
    # Every value is read. A long trial gives every command all values; else some commands see one value a column,
    # and both change from column to column.
    at = columns().index((table, column))
    tried = sorted(TRIED) if LONG else rotate(sorted(TRIED), at)[:1]
    commands = job.commands() if LONG else rotate(job.commands(), 3 * at)[:3]
    refused = []
    for what, value in ODD.items():
        job.put(table, column, value)
        # All of them check a ledger in one place. So what one refuses is given to one more, and what it reads to all.
        is_read = not is_refused(READ[0], job.ledger, what)
        for read in READ[1:] if LONG or is_read else rotate(list(READ[1:]), at)[:1]:
            is_refused(read, job.ledger, what)
        if is_refused(lambda path: Ledger(path).close(), job.ledger, what):
            refused.append(what)
        elif what in tried:
            for command in commands:
                code, out = invoke(*command)
                assert code in (0, 1, 3, 6), (what, command, out)
                # The bytes of an export are for programs.
                assert command[0] == "export" or not {*"\x1b\u009b\x07"} & {*out}, (what, command, out)
    # What is refused once is refused by every command.
    if refused:
        job.put(table, column, ODD[refused[-1]])
        refusing = [("export", "--job", job.output), ("report", "--job", job.output), job.run]
        for command in refusing if LONG else rotate(refusing, at)[:1]:
            code, out = invoke(*command)
            assert (code, "error: " in out, "Traceback" in out) == (6, True, False), (refused, command, out)


def test_a_sound_ledger_without_types_is_read(job: Job) -> None:
    job.put("runs", "error", None)
    assert [invoke(*command)[0] for command in job.commands()] == [0] * 9 + [1, 0]


@pytest.mark.parametrize("name", ["bad-date", "bad-settings", "price-text"])
def test_ledgers_that_ended_in_tracebacks(faults_dir: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "ledger.sqlite3"
    shutil.copy(faults_dir / "hostile-ledger" / f"{name}.sqlite3", path)
    path.chmod(0o600)
    for command in (["status"], ["export", "--job", tmp_path], ["report", "--job", tmp_path]):
        code, out = invoke(*command, "--ledger", path)
        assert code in (0, 6), out
        assert (code == 6) <= ("damaged" in out)
    assert "damaged" in out


def test_triggers_and_views_are_refused(job: Job) -> None:
    for statement in (
        "create trigger t after update on pages begin delete from jobs; end",
        "create trigger t after insert on runs begin delete from pages; end",
    ):
        shutil.copy(job.sound, job.ledger)
        with closing(sqlite3.connect(job.ledger)) as connection:
            connection.execute(statement)
        for command in (("status", "--job", job.output), job.run):
            code, out = invoke(*command)
            assert (code, "trigger" in out) == (6, True), out


# Nothing outside of the job


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's that has nothing to do with any job."""
    folder = tmp_path / "outside"
    draw(folder / "pic.png", 7)
    (folder / "pic.txt").write_text("a secret")
    return folder


def forge(path: Path, folder: Path, *, source_folder: Path, name: str = "pic.png") -> Path:
    """A ledger in which a page of a folder is done."""
    ledger = Ledger(path)
    job = ledger.open_job(
        input=source_folder, output=folder, fingerprint="f", settings="{}", model="m", model_sha256="h"
    )
    ledger.start_run(job, versions={})
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "insert into pages (job_id, source, source_size, source_mtime_ns, state, output, source_sha256, width,"
            " height, output_width, output_height, output_size, output_sha256) values"
            " (?, ?, 1, 1, 'done', ?, 's', 1, 1, 2, 2, 1, 'o')",
            [job, name, name],
        )
        connection.commit()
        assert connection.execute(SELECT_ROWS, [job]).fetchall()
    return path


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "command", [["export"], ["export", "--format", "csv"], ["report"], ["prune", "--yes"]]
)
def test_a_ledger_that_names_a_folder_elsewhere_is_not_believed(
    tmp_path: Path, outside: Path, command: list[str]
) -> None:
    ledger = forge(tmp_path / "stranger.sqlite3", outside, source_folder=outside)
    before = listing(outside)
    code, out = invoke(*command, "--ledger", ledger)
    assert (code, f"--job {outside}" in out.replace("\n", "")) == (6, True), out
    assert listing(outside) == before
    # The user says that this is the folder.
    code, out = invoke(*command, "--ledger", ledger, "--job", outside)
    assert code in (0, 6), out
    assert "--job" not in out


def test_a_ledger_elsewhere_is_known_to_the_folder_of_its_job(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in" / "page.png", 1)
    ledger = tmp_path / "ledgers" / "own.sqlite3"
    run = ("run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--ledger", ledger)
    assert invoke(*run, "--model", tiny_weights, "--device", "cpu")[0] == 0
    # In a container the list of jobs is gone by then.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    assert invoke("export", "--ledger", ledger)[0] == 0
    assert json.loads((tmp_path / "out" / "metadata.jsonl").read_text())["file_name"] == "page.png"
    assert invoke("report", "--ledger", ledger)[0] == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_ledger_elsewhere_is_known_to_the_user_who_ran_its_job(tmp_path: Path, tiny_weights: Path) -> None:
    draw(tmp_path / "in" / "page.png", 1)
    ledger = tmp_path / "ledgers" / "own.sqlite3"
    run = ("run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--ledger", ledger)
    assert invoke(*run, "--model", tiny_weights, "--device", "cpu")[0] == 0
    # As in a folder whose job began before it named its ledger.
    (tmp_path / "out" / ".comic-upscale" / "ledger.path").unlink()
    assert invoke("export", "--ledger", ledger, "--format", "csv")[0] == 0


def test_captions_are_read_only_beside_the_pages_of_the_job(tmp_path: Path, outside: Path) -> None:
    folder = tmp_path / "out"
    draw(folder / "pic.png", 7)
    forge(folder / ".comic-upscale" / "ledger.sqlite3", folder, source_folder=outside)
    code, out = invoke("export", "--job", folder, "--format", "jsonl")
    # The file beside which the caption lies is not the source of the page.
    assert (code, "a secret" in out) == (0, False)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_captions_are_not_read_through_links_that_lead_out(tmp_path: Path, outside: Path, link: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    name = "pic.png" if link == "file" else "sub/pic.png"
    if link == "file":
        draw(folder / "pic.png", 7)
        (folder / "pic.txt").symlink_to(outside / "pic.txt")
    else:
        (folder / "sub").symlink_to(outside)
    forge(folder / ".comic-upscale" / "ledger.sqlite3", folder, source_folder=tmp_path / "none", name=name)
    code, out = invoke("export", "--job", folder, "--format", "jsonl")
    assert (code, name in out, "a secret" in out) == (0, True, False), out


def test_a_report_shows_no_picture_through_a_link_that_leads_out(tmp_path: Path, outside: Path) -> None:
    folder, source = tmp_path / "out", draw(tmp_path / "in" / "pic.png", 7)
    folder.mkdir()
    (folder / "pic.png").symlink_to(outside / "pic.png")
    ledger = forge(folder / ".comic-upscale" / "ledger.sqlite3", folder, source_folder=source.parent)
    import hashlib

    data = source.read_bytes()
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(
            "update pages set source_size = ?, source_sha256 = ?",
            [len(data), hashlib.sha256(data).hexdigest()],
        )
        connection.commit()
    code, out = invoke("report", "--job", folder)
    assert (code, "leads out of the output folder" in " ".join(out.split())) == (0, True), out
    assert "data:image" not in (folder / "report.html").read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_source_or_a_caption_is_not_opened(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    os.mkfifo(source / "pic.png")
    folder = tmp_path / "out"
    draw(folder / "pic.png", 7)
    os.mkfifo(folder / "pic.txt")
    forge(folder / ".comic-upscale" / "ledger.sqlite3", folder, source_folder=source)
    assert invoke("export", "--job", folder, "--format", "csv")[0] == 0
    assert invoke("report", "--job", folder)[0] == 0


def test_names_that_lead_out_are_damage(faults_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "h"
    (folder / ".comic-upscale").mkdir(parents=True)
    (tmp_path / "sec").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "sec" / "pic.png")
    (tmp_path / "sec" / "pic.txt").write_text("a secret")
    path = folder / ".comic-upscale" / "ledger.sqlite3"
    shutil.copy(faults_dir / "hostile-ledger" / "export-leak.sqlite3", path)
    path.chmod(0o600)
    code, out = invoke("export", "--job", folder, "--format", "jsonl")
    assert (code, "a secret" in out, "damaged" in out) == (6, False, True), out
