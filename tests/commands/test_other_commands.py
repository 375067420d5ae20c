"""``status``, ``models``, ``--help`` and ``--version``: quick, light, complete."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import typer

from comic_upscale.cli import app
from comic_upscale.ledger.records import PageFailed
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page
from comic_upscale.models import weights
from comic_upscale.version import __version__
from tests.commands.test_run import invoke, own_state

__all__ = ["own_state"]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The output folder of a job of three pages, one failed, whose run was interrupted."""
    output = tmp_path / "out"
    ledger = Ledger(output / ".comic-upscale" / "ledger.sqlite3")
    job_id = ledger.open_job(
        input=tmp_path / "in", output=output, fingerprint="f", settings="{}", model="m", model_sha256="h"
    )
    rows = ledger.add_pages(job_id, [Page(f"{n}.png", tmp_path, f"{n}.png", 1, 1) for n in range(3)])
    run = ledger.start_run(job_id, device="cpu", precision="fp32", versions={})
    ledger.record([PageFailed(row_id=rows[0], source="0.png", kind="truncated", reason="cut \x1b[31m short")])
    ledger.end_run(run, "interrupted", "SIGTERM")
    ledger.close()
    return output


def test_status_in_words(job: Path) -> None:
    code, out, _ = invoke("status", "--job", job, "--failures")
    assert code == 0
    assert out.startswith("stopped: 33.3 % decided, 0 of 3 done, 1 failed, 2 pending")
    assert re.search(r"the run was stopped \S+( s)? ago \(SIGTERM\)", out)
    assert "failed: 0.png: cut \\x1b[31m short [truncated]" in out
    assert "run the same command again" in out


def test_every_display_counts_failed_pages_as_decided(job: Path) -> None:
    path = job / ".comic-upscale" / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as ledger, ledger:
        assert ledger.execute("select percent from progress").fetchone() == (33.3,)
        ledger.execute("update pages set state = 'done' where state = 'pending'")
    assert invoke("status", "--job", job)[1].startswith("finished: 100 % decided, 2 of 3 done, 1 failed")
    assert json.loads(invoke("status", "--job", job, "--json")[1])["percent"] == 100.0


def test_status_as_json(job: Path) -> None:
    code, out, _ = invoke(
        "status", "--ledger", job / ".comic-upscale" / "ledger.sqlite3", "--json", "--failures"
    )
    report = json.loads(out)
    assert code == 0
    for field in (
        "state",
        "total",
        "done",
        "failed",
        "skipped",
        "pending",
        "pages_per_second",
        "eta_seconds",
    ):
        assert field in report
    assert (report["state"], report["total"], report["failed"], report["pending"]) == ("stopped", 3, 1, 2)
    assert report["failures"][0]["source"] == "0.png"


def test_status_that_watches_ends_with_the_run(job: Path) -> None:
    assert invoke("status", "--job", job, "--watch")[0] == 0


def test_status_that_watches_waits_for_a_run_that_has_just_started(tmp_path: Path) -> None:
    output = tmp_path / "out"
    path = output / ".comic-upscale" / "ledger.sqlite3"
    Ledger(path).close()
    code, _, err = invoke("status", "--job", output)
    assert code == 3 and "a run that has just started needs some seconds" in err

    def begin() -> None:
        ledger = Ledger(path)
        words = {"fingerprint": "f", "settings": "{}", "model": "m", "model_sha256": "h"}
        ledger.open_job(input=tmp_path / "in", output=output, **words)
        ledger.close()

    timer = threading.Timer(1.0, begin)
    timer.start()
    assert invoke("status", "--job", output, "--watch")[0] == 0
    timer.join()


def test_commands_find_the_ledger_of_the_variable(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = job / ".comic-upscale" / "ledger.sqlite3"
    assert invoke("status")[0] == 3
    monkeypatch.setenv("COMIC_UPSCALE_LEDGER", str(ledger))
    for command in (("status",), ("export", "--format", "csv")):
        assert invoke(*command)[0] == 0, command
    # It refuses the settings of this made-up job, but has found it.
    assert invoke("prune") == invoke("prune", "--ledger", ledger)
    assert invoke("prune")[0] != 3
    assert invoke("report", "--output", tmp_path / "r.html")[0] == 0
    # What the user names counts more.
    assert invoke("status", "--job", tmp_path / "none")[0] == 3
    assert invoke("status", "--job", job)[0] == 0
    assert invoke("status", "--ledger", tmp_path / "none.sqlite3")[0] == 3
    # Before the first run there is no such file.
    monkeypatch.setenv("COMIC_UPSCALE_LEDGER", str(tmp_path / "none.sqlite3"))
    assert invoke("status")[0] == 3


def test_status_of_nothing(tmp_path: Path) -> None:
    code, _, err = invoke("status")
    assert code == 3
    assert "--job" in err
    assert invoke("status", "--job", tmp_path)[0] == 3
    (tmp_path / "x.sqlite3").write_bytes(b"not a database at all, but text" * 100)
    assert invoke("status", "--ledger", tmp_path / "x.sqlite3")[0] == 6


def test_models_list() -> None:
    code, out, _ = invoke("models", "list")
    assert code == 0
    for text in ("RealESRGAN_x4plus_anime_6B", "realesr-animevideov3", "x2", "BSD-3-Clause", "no"):
        assert text in out
    rows = json.loads(invoke("models", "list", "--json")[1])
    assert {row["name"]: row["scale"] for row in rows}["RealESRGAN_x2plus"] == 2


def test_the_model_of_the_package_is_shown_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "comic-compact-x3"
    assert re.search(rf"{name} +x3 +0\.\d +MIT +in the package", invoke("models", "list")[1])
    row = json.loads(invoke("models", "list", "--json")[1])[0]
    assert (row["name"], row["bundled"], row["present"]) == (name, True, True)
    path = Path(invoke("models", "path", name)[1].strip())
    assert path.name == f"{name}.safetensors"
    assert path.is_file()
    for command in ("verify", "fetch"):
        assert invoke("models", command, name)[:2] == (0, f"{path}: ok\n")

    monkeypatch.setattr(weights, "BUNDLED_FOLDERS", (tmp_path / "nowhere",))
    assert json.loads(invoke("models", "list", "--json")[1])[0]["present"] is False
    for command in (["verify"], ["verify", name], ["fetch", name], ["path", name]):
        code, _, err = invoke("models", *command)
        assert code == 4
        assert "install the package again" in err
        assert "models fetch" not in err


def test_models_verify_and_path(animevideo_weights: Path, tmp_path: Path) -> None:
    folder = ["--weights-dir", animevideo_weights.parent]
    code, out, _ = invoke("models", "verify", "realesr-animevideov3", *folder)
    assert (code, out.strip()) == (0, f"{animevideo_weights}: ok")
    assert invoke("models", "path", "realesr-animevideov3", *folder)[1].strip() == str(animevideo_weights)
    assert str(animevideo_weights.parent) in invoke("models", "path", *folder)[1]
    (tmp_path / animevideo_weights.name).write_bytes(animevideo_weights.read_bytes()[:-1])
    code, out, err = invoke("models", "verify", "--weights-dir", tmp_path)
    assert code == 4
    assert "wrong hash" in out
    assert "models fetch" in err
    code, _, err = invoke("models", "path", "RealESRGAN_x4plus", "--weights-dir", tmp_path)
    assert code == 4
    assert "models fetch RealESRGAN_x4plus" in err


def test_models_fetch_checks_what_is_here(animevideo_weights: Path) -> None:
    code, out, _ = invoke(
        "models", "fetch", "realesr-animevideov3", "--weights-dir", animevideo_weights.parent
    )
    assert (code, out.strip()) == (0, f"{animevideo_weights}: ok")


def test_version() -> None:
    assert invoke("--version")[1].strip() == f"comic-upscale {__version__}"
    module = subprocess.run(
        [sys.executable, "-m", "comic_upscale", "--version"], capture_output=True, text=True
    )
    assert module.stdout.strip() == f"comic-upscale {__version__}"


def commands(group: typer.Typer) -> list[list[str]]:
    click_group = typer.main.get_command(group)
    found: list[list[str]] = []
    for name, command in click_group.commands.items():  # type: ignore[attr-defined]
        found += [[name, inner] for inner in getattr(command, "commands", [])] or [[name]]
    return found


@pytest.mark.parametrize("name", ["run", "watch"])
def test_the_short_help_has_the_most_used_options_and_says_where_the_others_are(name: str) -> None:
    code, short, _ = invoke(name, "--help")
    assert code == 0
    # `watch` takes folders instead.
    for flag in (
        *(["--input"] if name == "run" else []),
        "--output",
        "--scale",
        "--model",
        "--format",
        "--device",
        "--help-all",
    ):
        assert flag in short
    assert "--max-ratio" not in short
    everything = invoke(name, "--help-all")[1]
    assert "--max-ratio" in everything
    assert len(short.splitlines()) * 2 < len(everything.splitlines())
    assert re.search(r"--help-all shows all \d\d", " ".join(short.split()))


# The watchdog becomes its script, which has a test of its own.
@pytest.mark.parametrize("command", [each for each in commands(app) if each != ["watchdog"]], ids=" ".join)
def test_every_command_and_option_has_help(command: list[str]) -> None:
    code, out, _ = invoke(*command, "--help-all" if command in (["run"], ["watch"]) else "--help")
    assert code == 0
    node = typer.main.get_command(app)
    for name in command:
        node = node.commands[name]  # type: ignore[attr-defined]
    assert node.help
    for parameter in node.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{' '.join(command)} {parameter.name} has no help"
            if parameter.hidden:
                continue
            assert max(parameter.opts, key=len) in out


def test_shell_completion_is_there() -> None:
    # From a shell, because Typer asks the parent process which shell it is; `exit` keeps that process alive.
    command = f"{shlex.quote(sys.executable)} -m comic_upscale --show-completion; exit $?"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "_COMIC_UPSCALE_COMPLETE=complete_bash" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status"], ["models", "list"], ["run", "--help"]], ids=" ".join
)
def test_light_commands_do_not_import_torch(job: Path, arguments: list[str]) -> None:
    watched = ["torch", "numpy", "PIL", "spandrel", "sqlite_utils", "requests", "asyncio"]
    program = (
        "import sys; from comic_upscale.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print('imported:', [name for name in {watched!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert re.search(r"imported: \[\]$", out.strip()), out


@pytest.mark.parametrize("model", ["named", "auto"])
@pytest.mark.parametrize("then", ["run", "dry run"])
def test_a_run_with_nothing_to_do_does_not_import_torch(
    tmp_path: Path, tiny_weights: Path, model: str, then: str
) -> None:
    from tests.conftest import draw

    draw(tmp_path / "pages" / "0.png", 0)
    arguments = ["run", "--input", str(tmp_path / "pages")]
    arguments += ["--model", str(tiny_weights)] if model == "named" else []
    assert invoke(*arguments, "--device", "cpu")[0] == 0
    # From here on it is not said that it is a CPU: whoever wants to know has to ask for the device.
    arguments += ["--dry-run"] if then == "dry run" else []
    program = (
        "import sys; from comic_upscale.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('imported:', 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert ("1 done" if then == "dry run" else "nothing left to do") in out
    assert out.strip().endswith("imported: False")


def test_a_dry_run_of_a_new_job_does_not_import_torch(tmp_path: Path) -> None:
    from tests.conftest import draw

    draw(tmp_path / "pages" / "0.png", 0)
    arguments = ["run", "--input", str(tmp_path / "pages"), "--dry-run"]
    program = (
        "import sys; from comic_upscale.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('imported:', [name for name in ('torch', 'requests') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "1 do" in out
    assert out.strip().endswith("imported: []")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another user")
def test_a_user_without_a_name_is_told_what_to_do(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable, "-c",
            "import getpass, os, pwd\n"
            "import comic_upscale.execution.ssh.address\n"
            "from comic_upscale.commands.environment import ssh_files\n"
            "from comic_upscale.errors import SettingsError\n"
            "os.setuid(54321)\n"
            "try: ssh_files()\n"
            "except SettingsError as error: print(error)\n"
            "os.environ['LOGNAME'] = 'reader'; print(ssh_files().user)",
        ],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/"}, cwd="/",
    )  # fmt: skip
    assert ended.stdout.splitlines()[-1:] == ["reader"], ended.stderr
    assert "LOGNAME" in ended.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_watchdog_explains_its_options(option: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "comic_upscale", "watchdog", option],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0
    for part in ("--idle SECONDS", "--then COMMAND", "Exit codes"):
        assert part in shown.stdout
