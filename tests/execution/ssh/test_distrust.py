"""A hostile remote machine: none of its answers becomes a path, a wrong page or a control character."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands.remote import SshOptions
from comic_upscale.errors import OutputError
from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.remote import RemoteOptions
from comic_upscale.execution.remote_host import Device, PollResult, RemotePageResult
from comic_upscale.execution.ssh.install import install_torch
from comic_upscale.execution.ssh.listing import is_page_name
from comic_upscale.execution.ssh.listing import read_lines as read_bytes_lines
from comic_upscale.execution.ssh.probe import probe_script, read_report
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_suspects
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings
from tests.conftest import draw
from tests.execution.ssh.conftest import small_disk

NAME = f"{'a' * 64}.png"
DONE = {
    "source": NAME, "state": "done", "at": "2026-01-01T00:00:00Z", "width": 10, "height": 20, "output_width": 25,
    "output_height": 50, "output_size": 100, "output_sha256": "b" * 64,
}  # fmt: skip


def read_lines(text: str) -> Iterator[tuple[RemotePageResult, str]]:
    """The results in a text, as a machine sends them."""
    return read_bytes_lines(io.BytesIO(text.encode()))


def test_a_valid_line_is_read() -> None:
    ((page, at),) = read_lines(json.dumps(DONE))
    assert (page.name, page.state, page.size, page.sha256) == (NAME, "done", 100, "b" * 64)
    assert at == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "change",
    [
        {"source": "../../.ssh/authorized_keys"},
        {"source": f"{'a' * 64}.png/../../x"},
        {"source": f"/{'a' * 64}.png"},
        {"source": f"{'a' * 64}.png\n"},
        {"source": ["x"]},
        {"state": "working"},
        {"output_sha256": "short"},
        {"output_sha256": None},
    ],
)
def test_lines_that_are_left_out(change: dict[str, object]) -> None:
    assert not list(read_lines(json.dumps({**DONE, **change})))


def test_rubbish_and_control_characters() -> None:
    lines = [
        "[" * 100_000,
        "null",
        "{",
        "\x00",
        json.dumps([1]),
        json.dumps({**DONE, "notes": "\x1b]0;evil\x07" * 999}),
    ]
    ((page, _),) = read_lines("\n".join(lines))
    assert page.notes.isprintable()
    assert len(page.notes) <= 500
    bad = {**DONE, "width": -1, "output_size": 10**30, "decode_seconds": float("nan"), "height": True}
    ((page, _),) = read_lines(json.dumps(bad))
    assert (page.width, page.size, page.height, dict(page.seconds)) == (0, 0, 0, {})


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e400, -1, True, "9", None, [1]])
def test_numbers_that_are_none_are_left_out(number: object) -> None:
    names = [name for name in DONE if name.endswith(("width", "height", "size"))]
    names += [f"{stage}_seconds" for stage in ("decode", "upscale", "encode", "place")]
    ((page, _),) = read_lines(json.dumps({**DONE, **dict.fromkeys(names, number)}))
    assert (page.width, page.height, page.output_width, page.size, dict(page.seconds)) == (0, 0, 0, 0, {})


STATUS: dict[str, object] = {
    "state": "running", "total": 9, "done": 5, "failed": 1, "skipped": 0, "pending": 3, "percent": 66.7, "alive": True,
    "pid": 77, "host": "box", "started_at": "2026-01-01T00:00:00+00:00", "model": "m", "input": "i", "output": "o",
}  # fmt: skip


def status_of(
    said: dict[str, object], monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[int, str, str]:
    """``remote status`` of a machine that says this."""

    class Answering:
        def choose_job(self, _: str | None) -> str:
            return "job"

        def status(self) -> dict[str, object]:
            return json.loads(json.dumps(said))  # type: ignore[no-any-return]

        def close(self) -> None:
            return None

    monkeypatch.setattr(SshOptions, "machine", lambda *_, **__: Answering())
    result = CliRunner().invoke(app, ["remote", "status", "box", *options])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_status_that_is_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = status_of(STATUS, monkeypatch)
    assert (code, "5 of 9 done" in out, "process 77 on box" in out) == (0, True, True)
    assert json.loads(status_of(STATUS, monkeypatch, "--json")[1])["pending"] == 3


def test_pages_in_progress_are_shown_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    within = [{"source": "a\x1b[31m.png", "unit": "tile", "done": 2, "total": 5}]
    _, out, _ = status_of({**STATUS, "within": within}, monkeypatch)
    assert "tile 3 of 5" in out
    assert "\x1b" not in out
    assert json.loads(status_of({**STATUS, "within": within}, monkeypatch, "--json")[1])["within"] == within


@pytest.mark.parametrize(
    "odd",
    [
        {"state": "stopped", "alive": False, "last_seen": "yesterday"},
        {"state": "stopped", "alive": False, "last_seen": "2026-01-01T00:00:00", "eta_seconds": 10**400},
        {"suspects": "many", "price": True, "spent": float("nan"), "device": ["x"], "eta_seconds": 1e-320},
        {"within": 7},
        {"within": [7]},
        {"within": {"source": "x"}},
        {"within": "many"},
        {"within": [{"source": "x", "unit": "tile", "done": 9, "total": 2}]},
        {"within": [{"source": "x", "unit": "tile", "done": float("nan"), "total": 10**400}]},
    ],
)
def test_what_need_not_be_there_is_left_out_of_a_status(
    odd: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = status_of({**STATUS, **odd}, monkeypatch)
    assert (code, "5 of 9 done" in out) == (0, True), err


@pytest.mark.parametrize(
    "odd",
    [
        {"total": 0}, {"total": "9"}, {"total": None}, {"done": 5.5, "failed": 0.5}, {"done": True, "failed": 5},
        {"state": None}, {"state": "flying"}, {"percent": 900}, {"pid": None}, {"host": 7}, {"started_at": None},
        {"pending": 10**400},
    ],
)  # fmt: skip
def test_a_status_without_what_it_needs_is_not_understood(
    odd: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = status_of({**STATUS, **odd}, monkeypatch)
    assert (code, out) == (9, "")
    assert "box returned an invalid status of the job" in err


def test_nothing_is_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of({}, monkeypatch)[0] == 9


def test_what_the_gate_there_says_of_a_page() -> None:
    said = {"scores": json.dumps({"psnr": 31.5, "seam": 2}), "suspect": "tinted by 9.0 levels; \x1b[31mred"}
    ((page, _),) = read_lines(json.dumps({**DONE, **said}))
    assert (dict(page.scores), page.suspect) == (
        {"psnr": 31.5, "seam": 2},
        "tinted by 9.0 levels; ?[31mred",
    )


@pytest.mark.parametrize(
    "scores",
    [
        ["psnr"],
        "{",
        "[" * 100_000,
        "[1]",
        json.dumps({"psnr": float("nan"), "ssim": float("inf"), "tint": True, "seam": "9", "../x": 1, "": 1}),
        json.dumps({"psnr": 10**400}),
    ],
)
def test_scores_that_are_none(scores: object) -> None:
    ((page, _),) = read_lines(json.dumps({**DONE, "scores": scores, "suspect": ["x"]}))
    assert (dict(page.scores), page.suspect) == ({}, "")


def test_scores_without_end() -> None:
    many = json.dumps({"a" * (1 + number % 40) + "_" * (number // 40): number for number in range(900)})
    ((page, _),) = read_lines(json.dumps({**DONE, "scores": many}))
    assert len(page.scores) <= 32


def test_a_machine_that_is_asked_every_few_seconds_answers_without_what_a_run_needs(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['remote', 'listing', '--ledger', 'none']\n"
        "from comic_upscale.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported:', [name for name in ('torch', 'numpy', 'sqlite_utils', 'paramiko') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["imported: []"], ended.stdout + ended.stderr


def test_a_machine_of_yesterday_lacks_what_it_needs() -> None:
    lines = ("system=Linux x", "free_kib=99999999", "missing=flock", "python=/usr/bin/python3|3.8.10|||1")
    found = read_report("\n".join(f"comic-upscale-probe {line}" for line in lines))
    assert found is not None
    assert found.python is None
    tools, python = found.errors()
    assert "lacks flock: run apt-get install" in tools
    assert "no Python 3.11 or newer" in python


@pytest.mark.parametrize(
    ("driver", "torch", "remark", "index"),
    [
        ("570.86.10", "2.15.0|13.2", "needs driver 580 or newer, but its driver is 570", True),
        ("580.65.06", "2.15.0|13.2", None, False),
        ("535.54.03", "2.7.0|12.8", None, True),
        ("470.1", "2.7.0|12.8", "525 or newer", True),
        ("[N/A]", "2.7.0|12.8", None, False),
        ("570.86.10", "|", "will be installed", True),
        ("590.1", "|", "will be installed", False),
        ("470.1", "|", "its driver is 470, but PyTorch needs 525 or newer", True),
    ],
)  # fmt: skip
def test_a_driver_too_old_for_pytorch(driver: str, torch: str, remark: str | None, index: bool) -> None:
    lines = ("system=Linux x", "free_kib=99999999", f"gpu=RTX 3090, 24564, {driver}",
             f"python=/usr/bin/python3|3.12.1|{torch}|1")  # fmt: skip
    found = read_report("\n".join(f"comic-upscale-probe {line}" for line in lines))
    assert found is not None
    remarks = found.warnings()
    assert bool(remarks) == (remark is not None)
    assert remark is None or remark in remarks[-1]
    installs = install_torch(found)
    # What is there is not replaced; a PyTorch that is to come is one for the driver.
    assert bool(installs) == (index and torch == "|")
    assert not installs or "--index-url https://download.pytorch.org/whl/cu128 torch torchvision" in installs


def test_names_of_pages() -> None:
    assert is_page_name(NAME)
    assert not is_page_name("page.png")
    assert not is_page_name(f"{'A' * 64}.png")


def test_a_folder_with_the_name_of_a_placeholder_is_only_a_folder() -> None:
    assert "\nbase=/home/@PYTHONS@\n" in probe_script("/home/@PYTHONS@")


def test_a_probe_that_lies() -> None:
    assert read_report("hello\n") is None
    text = "\n".join(
        f"comic-upscale-probe {line}"
        for line in ("system=Linux x", "free_kib=many", "gpu=a,b", "python=relative|3.11.1|||1", "python=/x|9|||1",
                     "python=/usr/bin/python3|3.12.1|2.9|12.8|1", "gpu=RTX, 24564, 570.1", "missing=flock")
    )  # fmt: skip
    found = read_report(text)
    assert found is not None
    assert (found.free_bytes, len(found.gpus), len(found.pythons)) == (0, 2 - 1, 1)
    assert any("flock" in complaint for complaint in found.errors())
    assert found.python is not None


class HostileWorkplace:
    """A machine that has every page at once, and lies about them as it is told."""

    def __init__(self, **lies: object) -> None:
        self.lies = lies
        self.names: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.forgotten: list[str] = []
        self.stopped = False

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        pass

    def has_accelerator(self) -> bool:
        return False

    def prepare(
        self,
        weights: ResolvedWeights,
        fingerprint: str,
        settings: JobSettings,
        of_rules: Sequence[tuple[str, ResolvedWeights]] = (),
    ) -> Device:
        return Device("hostile")

    def list_pages(self) -> frozenset[str]:
        return frozenset(self.names)

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        self.names.update(pages)

    def delete(self, names: Iterable[str]) -> None:
        self.forgotten += names

    def start(self, *, retry_failed: bool) -> None:
        return None

    def stop(self) -> str:
        self.stopped = True
        return "stopped"

    def make(self, source: bytes) -> bytes:
        """The output of a page, at twice its size."""
        with Image.open(io.BytesIO(source)) as image:
            larger = image.resize((image.width * 2, image.height * 2))
        written = io.BytesIO()
        larger.save(written, "png")
        return written.getvalue()

    def poll(self) -> PollResult:
        pages = []
        for name, data in self.names.items():
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
            output = self.make(data)
            self.outputs[name] = output
            said: dict[str, object] = {
                "name": name, "state": "done", "width": size[0], "height": size[1], "output_width": size[0] * 2,
                "output_height": size[1] * 2, "size": len(output), "sha256": hashlib.sha256(output).hexdigest(),
            }  # fmt: skip
            pages.append(RemotePageResult(**{**said, **self.lies}))  # type: ignore[arg-type]
        stranger = RemotePageResult(
            name=NAME, state="done", width=1, height=1, output_width=2, output_height=2, size=9
        )
        return PollResult(False, 0, (*pages, stranger))

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        yield "../../outside.png", b"evil"
        yield ".comic-upscale/ledger.sqlite3", b"evil"
        for name in names:
            yield name, self.outputs[name]

    def last_error(self) -> str:
        return "none"

    def private_names(self) -> tuple[str, ...]:
        return ()

    def abort(self) -> None:
        return None

    def recover(self) -> None:
        return None

    def close(self) -> None:
        return None


def run_at(
    workplace: HostileWorkplace, folder: Path, weights: Path, *, pages: int = 3, **more: Any
) -> JobFinished:
    for number in range(pages):
        draw(folder / "pages" / f"{number}.png", number)
    settings = JobSettings(
        input=folder / "pages", output=folder / "out", model=str(weights), scale=2.0, device="cpu", workers=2, **more
    )  # fmt: skip
    return run_job(settings, remote=[RemoteOptions(workplace, poll=0.1)])


@pytest.fixture
def any_weights(tmp_path: Path) -> Path:
    """A file that stands for weights where no network is loaded."""
    path = tmp_path / "any.safetensors"
    path.write_bytes(b"weights")
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_honest_machine_brings_everything_home_under_our_names(tmp_path: Path, any_weights: Path) -> None:
    finished = run_at(HostileWorkplace(), tmp_path, any_weights)
    assert (finished.done, finished.failed, finished.state) == (3, 0, "finished")
    found = {
        name for name in tree(tmp_path) if ".comic-upscale/" not in name and not name.startswith("pages")
    }
    assert found == {"any.safetensors", "out/0.png", "out/1.png", "out/2.png"}


def test_pages_that_are_suspect_there_are_suspect_here(tmp_path: Path, any_weights: Path) -> None:
    workplace = HostileWorkplace(scores={"psnr": 12.5}, suspect="tinted by 9.0 levels")
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.suspects) == (3, 3)
    listed = read_suspects(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert [(page.source, page.reasons, page.scores) for page in listed] == [
        (f"{number}.png", "tinted by 9.0 levels", {"psnr": 12.5}) for number in range(3)
    ]


@pytest.mark.parametrize(
    "lies",
    [
        {"sha256": "c" * 64},
        {"size": 10**11},
        {"size": 0},
        {"width": 7},
        {"output_width": 9},
    ],
)
def test_a_lie_makes_a_failed_page_and_no_file(
    lies: dict[str, object], tmp_path: Path, any_weights: Path
) -> None:
    workplace = HostileWorkplace(**lies)
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (0, 3)
    assert not list((tmp_path / "out").glob("*.png"))
    assert {kind for _, kind, _ in finished.failures} == {"remote"}
    assert sorted(workplace.forgotten) == sorted(workplace.names), "so that --retry-failed does them again"


def test_a_page_that_is_promised_and_not_given_has_failed(tmp_path: Path, any_weights: Path) -> None:
    class Stingy(HostileWorkplace):
        def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
            yield from list(super().fetch(names))[:-1]

    workplace = Stingy()
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (2, 1)
    assert "returned no file" in finished.failures[0][2]
    assert len(workplace.forgotten) == 1


def test_a_full_disk_here_ends_the_run_and_the_same_command_continues(
    tmp_path: Path, any_weights: Path
) -> None:
    workplace = HostileWorkplace()
    ledger = tmp_path / "ledger.sqlite3"
    with small_disk(tmp_path / "out", "64k"):
        with pytest.raises(OutputError, match=r"full|space|room"):
            run_at(workplace, tmp_path, any_weights, pages=40, ledger=ledger)
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path / "out")], check=True)
        finished = run_at(workplace, tmp_path, any_weights, pages=40, ledger=ledger)
        assert (finished.done, finished.failed) == (40, 0)
        assert len(list((tmp_path / "out").glob("*.png"))) == 40


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path, any_weights: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_bytes(b"the user's own")
    workplace = HostileWorkplace()
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (2, 1)
    assert (tmp_path / "out" / "1.png").read_bytes() == b"the user's own"
    assert len(workplace.names) == 2, "and is not even sent"


def test_a_machine_that_never_finishes_is_given_up(tmp_path: Path, any_weights: Path) -> None:
    from comic_upscale.errors import RemoteError

    class Lazy(HostileWorkplace):
        def poll(self) -> PollResult:
            return PollResult(False, None, ())

    with pytest.raises(RemoteError, match="without finishing a page"):
        run_at(Lazy(), tmp_path, any_weights)


class WorkingMachine(HostileWorkplace):
    """An honest machine whose run knows the pages that were there when it began, and takes a moment."""

    def __init__(self, exit_code: int = 0) -> None:
        super().__init__()
        self.exit_code = exit_code
        self.calls: list[str] = []
        self.in_hand: set[str] | None = None
        self.asked = 0
        self.finished: set[str] = set()

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        self.calls.append("send")
        super().send(pages)

    def start(self, *, retry_failed: bool) -> None:
        assert self.in_hand is None, "never two runs at once"
        self.calls.append("start")
        self.in_hand, self.asked = set(self.names) - self.finished, 0

    def poll(self) -> PollResult:
        self.calls.append("news")
        self.asked += 1
        if self.in_hand is not None and self.asked > 1:
            self.finished |= self.in_hand
            self.in_hand = None
        done = tuple(page for page in super().poll().pages if page.name in self.finished)
        return PollResult(self.in_hand is not None, self.exit_code, done)


def test_work_begins_with_the_first_pages_and_goes_on_with_those_that_came_meanwhile(
    tmp_path: Path, any_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comic_upscale.execution.remote.SEND_PAGES", 2)
    machine = WorkingMachine()
    finished = run_at(machine, tmp_path, any_weights, pages=7)
    assert (finished.done, finished.failed, finished.state) == (7, 0, "finished")
    assert machine.calls[:4] == ["send", "news", "start", "send"]
    assert machine.calls.count("send") == 4
    assert machine.calls.count("start") > 1


def test_a_push_lets_nothing_begin(
    tmp_path: Path, any_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comic_upscale.execution.remote.SEND_PAGES", 2)
    machine = WorkingMachine()
    draw(tmp_path / "pages" / "more.png", 9)
    settings = JobSettings(
        input=tmp_path / "pages", output=tmp_path / "out", model=str(any_weights), scale=2.0
    )
    run_job(settings, remote=[RemoteOptions(machine, "push")])
    assert machine.calls == ["send"]


def test_the_ceiling_ends_the_run_there_too(tmp_path: Path, any_weights: Path) -> None:
    class Endless(WorkingMachine):
        def poll(self) -> PollResult:
            return PollResult(self.in_hand is not None, None, ())

    machine = Endless()
    # A dollar a second, one of which is kept back for the end.
    finished = run_at(machine, tmp_path, any_weights, price=3600.0, max_cost=2.5)
    assert (finished.state, finished.stopped_by, finished.done) == ("interrupted", "max-cost", 0)
    assert machine.stopped
    assert finished.spent is not None
    assert finished.spent >= 1.0


def test_a_ceiling_that_is_reached_there_ends_the_run_here(tmp_path: Path, any_weights: Path) -> None:
    class Capped(WorkingMachine):
        def poll(self) -> PollResult:
            told = super().poll()
            return PollResult(told.alive, 8, told.pages[:1])

    machine = Capped()
    finished = run_at(machine, tmp_path, any_weights, price=0.01, max_cost=5.0)
    assert (finished.state, finished.stopped_by, finished.done) == ("interrupted", "max-cost", 1)
    assert machine.calls.count("start") == 1


def test_pages_of_a_volume_come_home_into_a_new_one(tmp_path: Path, any_weights: Path) -> None:
    for number in range(2):
        draw(tmp_path / f"{number}.png", 10 + number)
    (tmp_path / "pages").mkdir()
    with zipfile.ZipFile(tmp_path / "pages" / "v.cbz", "w") as volume:
        volume.write(tmp_path / "0.png", "0.png")
        volume.write(tmp_path / "1.png", "1.png")
    finished = run_at(HostileWorkplace(), tmp_path, any_weights)
    assert (finished.done, finished.failed, finished.volumes_done) == (5, 0, 1)
    with zipfile.ZipFile(tmp_path / "out" / "v.cbz") as volume:
        assert volume.namelist() == ["0.png", "1.png"]


def test_one_content_under_two_extensions_is_one_page_there(tmp_path: Path, any_weights: Path) -> None:
    draw(tmp_path / "pages" / "0.png", 0)
    (tmp_path / "pages" / "0.webp").write_bytes((tmp_path / "pages" / "0.png").read_bytes())
    machine = HostileWorkplace()
    finished = run_at(machine, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (4, 0)
    assert len(machine.names) == 3


def test_sixteen_bits_that_no_compression_makes_smaller_come_home(tmp_path: Path, any_weights: Path) -> None:
    import imagecodecs
    import numpy as np

    noise = np.random.default_rng(1).integers(0, 65536, (600, 500, 4), dtype=np.uint16)

    class Deep(HostileWorkplace):
        def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
            yield from ((name, self.deep) for name in names)

        def poll(self) -> PollResult:
            large = noise.repeat(2, axis=0).repeat(2, axis=1)
            large ^= np.random.default_rng(2).integers(0, 65536, large.shape, dtype=np.uint16)
            self.deep = imagecodecs.png_encode(large, level=0)
            self.lies = {"size": len(self.deep), "sha256": hashlib.sha256(self.deep).hexdigest()}
            return super().poll()

    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "deep.png").write_bytes(imagecodecs.png_encode(noise, level=0))
    finished = run_at(Deep(), tmp_path, any_weights, pages=0)
    assert (finished.done, finished.failed) == (1, 0)
    assert (tmp_path / "out" / "deep.png").stat().st_size > 1000 * 1200 * 8
