"""A container on the remote machine: a real SSH server, and a stand-in only for `docker`."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from comic_upscale.console import display as terminal
from comic_upscale.errors import RemoteError
from comic_upscale.execution.ssh import upload
from comic_upscale.execution.ssh.container import Container, is_image_name
from tests.conftest import draw
from tests.execution.ssh.conftest import Box, Invoke

DOCKER = """#!{python}
# Runs a container's command as it is: the folder is mounted at its own path, so that every path is the same.
import json, os, pathlib, sys

state = pathlib.Path({state!r})
words = sys.argv[1:]
with (state / "asked").open("a") as log:
    log.write(json.dumps(words) + "\\n")
images = (state / "images").read_text().split() if (state / "images").exists() else []
if words[0] == "version":
    print("28.2.2")
elif words[:2] == ["image", "inspect"]:
    sys.exit(words[2] not in images)
elif words[0] == "pull":
    if words[-1] != "example/upscale:1":
        sys.exit("Error response from daemon: manifest unknown")
    (state / "images").write_text(" ".join([*images, words[-1]]))
elif words[0] == "load":
    name = pathlib.Path(words[words.index("--input") + 1]).read_text().strip()
    (state / "images").write_text(" ".join([*images, name]))
    print("Loaded image: " + name)
elif words[0] == "run":
    options, rest = {{}}, words[1:]
    environment = dict(os.environ)
    while rest[0].startswith("--"):
        if rest[0] in ("--rm", "--interactive"):
            rest = rest[1:]
        else:
            options[rest[0]] = rest[1]
            if rest[0] == "--env":
                name, _, value = rest[1].partition("=")
                environment[name] = value
            rest = rest[2:]
    if rest[0] not in images:
        sys.exit("Unable to find image " + rest[0])
    assert options["--volume"] == options["--workdir"] + ":" + options["--workdir"]
    os.chdir(options["--workdir"])
    os.execvpe(options["--entrypoint"], [options["--entrypoint"], *rest[1:]], environment)
"""


@pytest.fixture
def docker(box: Box, tmp_path: Path) -> Path:
    """The folder where the machine's `docker` notes what it was asked, a line of JSON each."""
    state = tmp_path / "docker"
    (state / "bin").mkdir(parents=True)
    program = state / "bin" / "docker"
    program.write_text(DOCKER.format(python=sys.executable, state=str(state)))
    program.chmod(0o755)
    box.stop()
    config = box.folder / "sshd_config"
    config.write_text(config.read_text().replace("SetEnv ", f"SetEnv PATH={state}/bin:{os.environ['PATH']} "))
    box.start()
    return state


def asked(docker: Path) -> list[list[str]]:
    return [json.loads(line) for line in (docker / "asked").read_text().splitlines()]


def test_pages_are_done_in_a_container_that_is_pulled_once(
    box: Box, docker: Path, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number)
    options = ["--container", "example/upscale:1", "--poll", 0.3, "--input", tmp_path / "pages"]
    options += ["--model", tiny_weights, "--device", "cpu"]
    code, out, err = remote("upscale", *box.step(), *options)
    assert code == 0, out + err
    assert len(list((tmp_path / "pages-x2.5").glob("*.png"))) == 3
    runs = [words for words in asked(docker) if "--name" in words]
    (run,) = runs
    assert run[run.index("--name") + 1] == f"comic-upscale-{box.job().name}"
    assert run[run.index("--volume") + 1] == f"{box.base}:{box.base}"
    assert run[run.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert "example/upscale:1" in run
    assert ["rm", "--force", f"comic-upscale-{box.job().name}"] in asked(docker), (
        "none is left of a dead client"
    )
    assert [words[0] for words in asked(docker)].count("pull") == 1

    # What looks after the run finds its Python in the container, too, without being told of one.
    before = len(asked(docker))
    code, out, err = remote("status", *box.options())
    assert (code, "3 of 3 done" in out) == (0, True), out + err
    assert asked(docker)[before][0] == "run"


def test_an_image_from_a_file_is_sent_and_loaded_once(
    box: Box, docker: Path, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    draw(tmp_path / "pages" / "0.png", 0)
    (tmp_path / "image.tar").write_text("example/upscale:1\n")
    options = ["--container", tmp_path / "image.tar", "--input", tmp_path / "pages", "--model", tiny_weights]
    for _ in range(2):
        code, out, err = remote("push", *box.step(), *options)
        assert code == 0, out + err
    assert [words[0] for words in asked(docker)].count("load") == 1
    assert not list((box.base / "images").glob("*.tar*"))
    assert len(list(box.job().glob("input/*"))) == 1


def test_how_far_a_large_file_is_can_be_seen(
    box: Box,
    docker: Path,
    remote: Invoke,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(terminal, "LOG_INTERVAL_SECONDS", 0.0)
    draw(tmp_path / "pages" / "0.png", 0)
    size = 1_000_000
    (tmp_path / "image.tar").write_text("example/upscale:1\n".ljust(size))
    options = ["--container", tmp_path / "image.tar", "--input", tmp_path / "pages", "--model", tiny_weights]
    code, out, err = remote("push", *box.step(), *options)
    assert code == 0, out + err
    said = re.findall(r"sending ([\w.-]+): ([\d,]+) of ([\d,]+) bytes", out)
    image = [int(done.replace(",", "")) for name, done, _ in said if name.endswith(".tar")]
    assert len(image) >= 3
    assert image == sorted(set(image))
    assert image[-1] == size
    weights = f"{tiny_weights.stat().st_size:,}"
    assert (f"model{tiny_weights.suffix}", weights, weights) in said


def test_what_docker_cannot_do_is_said(box: Box, docker: Path, remote: Invoke, tmp_path: Path) -> None:
    draw(tmp_path / "pages" / "0.png", 0)
    asked_for = ["--input", tmp_path / "pages", "--model", "comic-compact-x3"]
    code, _, err = remote("upscale", *box.step(), "--container", "no/such", *asked_for)
    assert (code, "manifest unknown" in err, "docker save no/such" in err) == (9, True, True), err
    code, _, err = remote("upscale", *box.step(), "--container", "--rm", *asked_for)
    assert (code, "is not an image name" in err) == (2, True), err
    code, _, err = remote("upscale", *box.step(), "--container", tmp_path / "none.tar.gz", *asked_for)
    assert (code, "docker save" in err) == (2, True), err
    # An engine that does not answer.
    (docker / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
    code, _, err = remote("upscale", *box.step(), "--container", "example/upscale:1", *asked_for)
    assert (code, "no Docker engine that answers" in err) == (9, True), err


@pytest.mark.parametrize("name", ["", "-v", "--rm", "a b", "a;b", "x" * 300, "a$(b)"])
def test_what_is_no_image(name: str) -> None:
    assert not is_image_name(name)


def test_folders_and_gpus_are_passed_to_docker() -> None:
    assert is_image_name("ghcr.io/some/one:1.2@sha256:abc")
    script = Container("one", "/home/a b", True).python_script("/venv/bin/python")
    assert "--volume '/home/a b':'/home/a b'" in script
    assert "--gpus all" in script
    assert "--gpus" not in Container("one", "/x", False).python_script("/p")
    # A name like a placeholder of the script is only a name.
    assert "--volume /home/@IMAGE@:/home/@IMAGE@" in Container("one", "/home/@IMAGE@", True).python_script(
        "/p"
    )
    with pytest.raises(RemoteError, match="colon"):
        Container("one", "/a:b", False)
