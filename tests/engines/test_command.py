"""Programs of the user's: real processes, those that do their work and those that do not."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.engines.command import CommandEngine, CommandOptions
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.imaging.pixels import SampleArray
from comic_upscale.jobs.run import run_job
from comic_upscale.planning.model_selection import named_model
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeSettings, draw

TOOL = Path(__file__).with_name("upscale_tool.py")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and sessions as POSIX has them")


def command(how: str) -> str:
    words = [sys.executable, str(TOOL), how, "{in}", "{out}", "{scale}", "{width}", "{height}"]
    return shlex.join(words).replace("'{", "{").replace("}'", "}")


QUICK_ENGINE = ("--engine", "command", "--engine-command", command("repeat"))
"""Options of a run that starts sooner than one with PyTorch."""


def engine(how: str, **options: object) -> CommandEngine:
    return CommandEngine(CommandOptions(command=command(how), **options))  # type: ignore[arg-type]


def page(height: int = 20, width: int = 30, channels: int = 3) -> SampleArray:
    return np.random.default_rng(height).integers(0, 256, (1, height, width, channels), np.uint8)


def upscale(
    how: str, target: tuple[int, int] = (60, 40), source: SampleArray | None = None, **options: object
) -> Upscaled:
    opened = engine(how, **options)
    try:
        return opened.upscale(Batch(page() if source is None else source, target))
    finally:
        opened.close()


def failure(how: str, **options: object) -> PageError:
    with pytest.raises(PageError) as raised:
        upscale(how, **options)  # type: ignore[arg-type]
    return raised.value


@pytest.mark.parametrize("how", ["repeat", "exact"])
def test_a_page_comes_back_at_its_size(how: str) -> None:
    made = upscale(how)
    assert np.array_equal(made.pixels, page().repeat(2, axis=1).repeat(2, axis=2))
    assert (made.notes, made.borders.rows, made.borders.columns) == ((), (), ())


def test_gray_pages_come_back_gray_and_sixteen_bits_spread() -> None:
    gray = page(channels=1)
    assert np.array_equal(upscale("repeat", source=gray).pixels, gray.repeat(2, axis=1).repeat(2, axis=2))
    deep = page().astype(np.uint16) * np.uint16(257)
    made = upscale("repeat", source=deep)
    assert np.array_equal(made.pixels, deep.repeat(2, axis=1).repeat(2, axis=2))
    assert made.notes == ("16 bits: the program got 8",)


@pytest.mark.parametrize("target", [(75, 50), (45, 30), (61, 39)])
def test_a_whole_factor_is_resampled_to_the_target(target: tuple[int, int]) -> None:
    made = upscale("repeat", target)
    assert made.pixels.shape == (1, target[1], target[0], 3)
    assert made.notes == ()


def test_a_program_of_too_small_a_factor_is_told_of() -> None:
    made = upscale("repeat", (150, 100), scale=2)
    assert made.pixels.shape == (1, 100, 150, 3)
    assert made.notes == ("the program enlarged 2 times; resampling did the rest",)


def test_what_is_larger_than_asked_is_shrunk() -> None:
    assert upscale("larger", (45, 30)).pixels.shape == (1, 30, 45, 3)


def test_an_odd_size_is_refused() -> None:
    error = failure("odd")
    assert error.kind == "command"
    assert "turned 30x20 into 65x20, but 60x40 is requested" in error.reason


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fails", "ended with exit code 3: [31mout of luck [0m"),
        ("nothing", "wrote no output to {out}; it ended with exit code 0: did not feel like it"),
        ("empty", "wrote an empty file"),
        ("half", "wrote an incomplete image"),
        ("huge", "wrote an image of more than 153,600 pixels, more than an enlarged page can have"),
        ("text", "wrote a file that is not an image"),
    ],
)
def test_what_goes_wrong_is_said_in_printable_words(how: str, reason: str) -> None:
    error = failure(how)
    assert error.kind == "command"
    assert reason in error.reason and error.reason.isprintable()


@posix
def test_a_program_that_crashes_is_said_to() -> None:
    assert "was ended by SIGKILL without any output" in failure("crashes").reason


def test_of_a_flood_of_words_the_last_are_kept() -> None:
    error = failure("floods")
    assert error.reason.endswith("the last word") and len(error.reason) < 500


def wait_for(path: Path) -> list[int]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if path.is_file() and len(words := path.read_text(encoding="utf-8").split()) == 2:
            return [int(word) for word in words]
        time.sleep(0.05)
    raise AssertionError("the program did not start")


def assert_gone(numbers: list[int]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not any(psutil.pid_exists(number) and _lives(number) for number in numbers):
            return
        time.sleep(0.05)
    raise AssertionError("a process lives on")


def _lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_slow_program_is_killed_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOL_NOTES", str(tmp_path / "notes"))
    error = failure("slow", timeout=3.0)
    assert error.kind == "command-timeout"
    assert "took longer than 3 s and was killed; its last output: half way there" in error.reason
    assert_gone(wait_for(tmp_path / "notes"))


def test_closing_an_engine_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_NOTES", str(tmp_path / "notes"))
    opened, errors = engine("slow"), []

    def work() -> None:
        try:
            opened.upscale(Batch(page(), (60, 40)))
        except DeviceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    numbers = wait_for(tmp_path / "notes")
    opened.close()
    thread.join(30)
    assert not thread.is_alive() and "was stopped" in errors[0]
    assert_gone(numbers)
    opened.close()
    with pytest.raises(DeviceError, match="was stopped"):
        opened.upscale(Batch(page(), (60, 40)))


def test_files_are_arguments_whatever_they_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / 'it\'s a "folder" $(touch x); {out} & more'
    if os.name == "nt":
        odd = tmp_path / "it's a folder $(touch x); {out} & more"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    monkeypatch.setenv("TOOL_NOTES", str(tmp_path / "notes"))
    assert upscale("here").pixels.shape == (1, 40, 60, 3)
    folder, source, result = (tmp_path / "notes").read_text(encoding="utf-8").split("\n")
    assert Path(source).parent == Path(result).parent == Path(folder)
    assert Path(folder).parent == odd
    assert list(odd.iterdir()) == [], "the temporary folder is gone, and what the program left in it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("tool 'unmatched {in} {out}", "cannot be split into words"),
        ("tool {in}", "needs the argument {out}"),
        ("tool -o {out}", "needs the argument {in}"),
        ("{in} {out}", "needs the argument {in}"),
    ],
)
def test_commands_that_cannot_be(text: str, message: str, make_settings: MakeSettings) -> None:
    settings = make_settings(backend="command", model="auto", engine_options={"command": text})
    with pytest.raises(SettingsError, match=message.replace("{", r"\{")):
        named_model(settings)


def test_a_program_that_is_not_there_is_said_before_the_first_page(make_settings: MakeSettings) -> None:
    settings = make_settings(
        backend="command", model="auto", engine_options={"command": "no-such-tool {in} {out}"}
    )
    with pytest.raises(SettingsError, match="there is no program 'no-such-tool'"):
        run_job(settings)


def test_relative_paths_in_the_command_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "up.py").write_text("", encoding="utf-8")
    text = f"{shlex.quote(sys.executable)} up.py {{in}} {{out}}"
    with pytest.raises(
        SettingsError, match=r"runs in a temporary folder, where 'up\.py' does not exist: use .*up\.py"
    ):
        CommandEngine(CommandOptions(command=text))


def test_settings_that_a_command_does_not_have(make_settings: MakeSettings, tiny_weights: Path) -> None:
    options = {"command": command("repeat")}
    plain = make_settings(backend="command", model="auto", engine_options=options)
    with pytest.raises(SettingsError, match="does not use --model"):
        named_model(replace(plain, model=str(tiny_weights)))
    with pytest.raises(SettingsError, match="does not support --denoise"):
        named_model(replace(plain, denoise=0.5))
    with pytest.raises(SettingsError, match="does not support --device and --tile"):
        registry.open_engines(replace(plain, device="cpu", tile=64), None)
    with pytest.raises(SettingsError, match="needs --engine-option command="):
        named_model(replace(plain, engine_options=()))


def test_the_identity_is_that_of_the_command_and_not_of_its_time(make_settings: MakeSettings) -> None:
    def identity(**options: object) -> tuple[str, str]:
        options = {"command": command("repeat"), **options}
        return registry.identify(make_settings(backend="command", model="auto", engine_options=options))

    name, digest = identity()
    assert name == Path(sys.executable).name
    assert identity(timeout=5, processes=2) == (name, digest)
    assert identity(scale=4)[1] != digest
    assert identity(command=command("exact"))[1] != digest
    # Written with other spaces it is the same command.
    assert identity(command=command("repeat").replace(" {in}", "   {in}"))[1] == digest


def test_a_run_with_its_failures_and_its_resumption(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.png", number)
    arguments = [
        "run", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--scale", "2",
        "--engine", "command", "--engine-command", command("repeat"), "--engine-option", "processes=2",
    ]  # fmt: skip
    first = CliRunner().invoke(app, [*arguments, "--json"])
    assert first.exit_code == 0, first.output
    events = [json.loads(line) for line in first.stdout.splitlines()]
    started = next(event for event in events if event["event"] == "job_started")
    assert started["model"] == Path(sys.executable).name
    assert (started["native_scale"], started["precision"]) == (None, "")
    assert started["device"] == f"program ({Path(sys.executable).name}, 2 pages at once)"
    again = CliRunner().invoke(app, arguments)
    assert "3 done before" in again.stdout or "3 pages" in again.stdout
    assert (
        json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()[-1])["done_now"] == 0
    )
    plan = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    broken = [*arguments[:-4], "--engine-command", command("fails"), "-o", str(tmp_path / "other"), "--json"]
    failed = CliRunner().invoke(app, broken)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout.splitlines()[-1])["failed"] == 3


def test_the_header_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    arguments = ["run", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--scale", "2"]
    told = CliRunner().invoke(app, [*arguments, "--engine", "command", "--engine-command", command("repeat")])
    assert told.exit_code == 0, told.output
    assert "None" not in told.stdout and ", ," not in told.stdout


def test_a_run_that_breaks_does_not_wait_for_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOL_NOTES", str(tmp_path / "notes"))
    draw(tmp_path / "in" / "a.png", 1)
    settings = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", scale=2.0, backend="command",
        engine_options={"command": command("slow")},  # type: ignore[arg-type]
    )  # fmt: skip
    assert preview(settings).counts["do"] == 1

    class BrokenError(Exception):
        pass

    def on_event(event: object) -> None:
        if (tmp_path / "notes").is_file():
            raise BrokenError

    start = time.monotonic()
    with pytest.raises(BaseException) as raised:
        run_job(settings, on_event=on_event)
    assert isinstance(raised.value, BrokenError | BaseExceptionGroup)
    assert time.monotonic() - start < 120
    assert_gone(wait_for(tmp_path / "notes"))


@posix
def test_the_second_signal_ends_the_program_too(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    arguments = ["run", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--scale", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "comic_upscale", *arguments, "--engine", "command",
         "--engine-command", command("slow")],
        env={**os.environ, "TOOL_NOTES": str(tmp_path / "notes")}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        numbers = wait_for(tmp_path / "notes")
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None, "the first one lets the page be finished"
        assert all(_lives(number) for number in numbers)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert_gone(numbers)
    finally:
        process.kill()
        process.wait()


def test_a_stop_lets_the_page_in_hand_be_finished(make_settings: MakeSettings) -> None:
    stop = StopRequest()
    settings = make_settings(
        backend="command", model="auto", scale=2.0, workers=1, engine_options={"command": command("repeat")}
    )
    done: list[object] = []

    def on_event(event: object) -> None:
        if type(event).__name__ == "PageDone":
            done.append(event)
            stop.request("enough")

    finished = run_job(settings, on_event=on_event, stop=stop)
    assert finished.state == "interrupted" and finished.failed == 0
    assert 1 <= finished.done_now < 12
