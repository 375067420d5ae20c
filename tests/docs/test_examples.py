"""The examples in the README and in docs/ work: commands are accepted, marked blocks run, Python runs.

A block that stands after ``<!-- run -->`` is run in a folder with small copies of the example pages, and its output is
compared with the one shown. Numbers may differ, ``...`` stands for any text, and a line of ``...`` for any lines.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import typer
import typer.core
from PIL import Image

from comic_upscale.cli import app
from tests.conftest import REPOSITORY
from tests.docs.markdown import PAGES, Block, blocks, code_spans, command_lines

Command: TypeAlias = Any
"""A command of Click, which Typer brings along in its newer versions."""

UsageError = typer.BadParameter.__mro__[1]
SHELL = ("sh", "console")
OPERATORS = re.compile(r"\|\||&&|[|;&]|\d?>&?\d?\S*|<\S*")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
BLOCKS = [block for page in PAGES for block in blocks(page)]

SMALLER = 3
"""How many times smaller than the example pages the copies are, so that the examples run quickly."""

FOREIGN = {
    "--build-arg",
    "--gpus",
    "--group",
    "--instance-ids",
    "--instance-initiated-shutdown-behavior",
    "--strict",
    "--write",
}
"""Options of other programs that the prose names: docker, pip, aws, zensical, benchmarks/cost_table.py."""


# --- Commands are accepted -------------------------------------------------------------------------------------------


def own_commands(line: str) -> Iterator[list[str]]:
    """The arguments of each ``comic-upscale`` in a line of shell."""
    words = shlex.split(line, comments=True)
    while "comic-upscale" in words:
        words = words[words.index("comic-upscale") + 1 :]
        ends = [place for place, word in enumerate(words) if OPERATORS.fullmatch(word)]
        yield words[: ends[0]] if ends else words


@cache
def root() -> Command:
    """The whole command line."""
    return typer.main.get_command(app)


def find_command(arguments: list[str]) -> tuple[Command, list[str]]:
    """Return the command that the arguments name, and the arguments left for it.

    Raises:
        typer.BadParameter: there is no such command.
    """
    command = root()
    while is_group(command) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        if name not in command.commands:
            raise typer.BadParameter(f"there is no command {name}")
        command = command.commands[name]
    return command, arguments


def is_group(command: Command) -> bool:
    """Whether a command has commands of its own."""
    return isinstance(command, typer.core.TyperGroup)


def options_of(command: Command) -> set[str]:
    """Every option that a command takes, those included that it hands on to ``run`` or to the watchdog's script."""
    own = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    own |= {"--help", "-h"}
    if not command.context_settings.get("ignore_unknown_options"):
        return own
    if command.name == "watchdog":
        return own | options_of_script("idle_watchdog.sh")
    return own | options_of(find_command(["run"])[0])


def options_of_script(name: str) -> set[str]:
    """The options that a script names in its help."""
    script = REPOSITORY / "scripts" / name
    return set(OPTION.findall(script.read_text(encoding="utf-8")))


def check_command(arguments: list[str]) -> None:
    """Parse a command as the command line does, without running it.

    Raises:
        UsageError: a command, option or value that does not exist, or one that is missing.
    """
    command, rest = find_command(arguments)
    left = rest if is_group(command) else command.make_context(command.name, list(rest)).args
    if is_group(command) or command.name == "watchdog":
        for word in left:
            if word.startswith("-") and word not in options_of(command):
                raise typer.BadParameter(f"there is no option {word}")
    elif command.context_settings.get("ignore_unknown_options"):
        check_command(["run", *left])


COMMANDS = [
    pytest.param(arguments, id=f"{block.place} {shlex.join(arguments)[:60]}")
    for block in BLOCKS
    if block.language in SHELL
    for line in command_lines(block)
    # In `docker run` and `docker save` it is the name of an image.
    if not line.startswith("docker ")
    for arguments in own_commands(line)
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_in_code_blocks_are_accepted(arguments: list[str]) -> None:
    check_command(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    known = FOREIGN | every_option()
    unknown = []
    for span in code_spans(page):
        if span.startswith("comic-upscale ") and not span.startswith("comic-upscale --"):
            command, _ = find_command([word for word in span.split()[1:] if word != "..."])
            allowed = options_of(command)
        else:
            allowed = known
        unknown += [f"{option} in `{span}`" for option in OPTION.findall(span) if option not in allowed]
    assert unknown == []


@cache
def every_option() -> set[str]:
    """The options of all commands, of the scripts, and of the benchmarks and the training."""
    found: set[str] = set()
    waiting = [root()]
    while waiting:
        command = waiting.pop()
        found |= options_of(command)
        waiting += command.commands.values() if is_group(command) else []
    for script in (REPOSITORY / "scripts").glob("*.sh"):
        found |= options_of_script(script.name)
    for folder in ("benchmarks", "training"):
        for module in (REPOSITORY / folder).rglob("*.py"):
            found |= options_of_program(module)
    return found


def options_of_program(module: Path) -> set[str]:
    """The options of a program that argparse reads, or that Typer makes from the parameters of its ``main``."""
    text = module.read_text(encoding="utf-8")
    found = {"--help", *re.findall(r"add_argument\([^)]*?\"(--[a-z-]+)\"", text)}
    if "typer.run(main)" in text:
        (main,) = (
            node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "main"
        )
        found |= {f"--{argument.arg.replace('_', '-')}" for argument in main.args.args}
    return found


PROGRAM = re.compile(r"\bpython (?:-m )?((?:benchmarks|training)[./][\w./]+)([^|;&\n]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_and_training_take_the_options_that_are_shown(page: Path) -> None:
    lines = [line for block in blocks(page) if block.language in SHELL for line in command_lines(block)]
    for name, options in PROGRAM.findall("\n".join([*lines, *code_spans(page)])):
        module = REPOSITORY / f"{name.removesuffix('.py').replace('.', '/')}.py"
        assert module.is_file(), name
        assert set(OPTION.findall(options)) <= options_of_program(module), name


@pytest.mark.parametrize(
    "line",
    ["run --input pages/ --no-such-option", "run --input pages/ --workers many", "run --scale", "no-such-command",
     "remote upscale host --input pages/ --no-such-option", "watchdog --no-such-option", "--no-such-option",
     "models no-such-command", "status pages-x2.5"],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(UsageError):
        check_command(shlex.split(line))


def test_commands_are_found_among_others() -> None:
    line = "gzip x | comic-upscale run --input 'a b' >log 2>&1 && comic-upscale status # comic-upscale no"
    assert list(own_commands(line)) == [["run", "--input", "a b"], ["status"]]


# --- Marked blocks run -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the examples use: pages/, page.png, cover.png and volume.cbz, all small."""
    work = tmp_path / "work"
    source = REPOSITORY / "examples" / "pages"
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        target = work / "pages" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as page:
            small = page.convert("RGB") if page.mode == "P" else page
            small.resize((page.width // SMALLER, page.height // SMALLER)).save(target)
    for name in ("page.png", "cover.png"):
        shutil.copy(work / "pages" / "001.png", work / name)
    with zipfile.ZipFile(work / "volume.cbz", "w") as volume:
        for path in sorted(path for path in (work / "pages").rglob("*") if path.is_file()):
            volume.write(path, path.relative_to(work / "pages"))
    return work


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user who has run nothing yet, on a machine without a GPU, with ``comic-upscale`` on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "comic-upscale"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m comic_upscale "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    own = {f"XDG_{name}_HOME": str(tmp_path / "user") for name in ("STATE", "CACHE", "DATA", "CONFIG")}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        **own,
        "PATH": path,
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
    }


def transcript(block: Block) -> list[tuple[str, str]]:
    """The commands of a block, each with the output that is shown for it."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def looks_like(shown: str, printed: str) -> bool:
    """Whether an output is the one shown, but for its numbers and for what ``...`` stands for."""
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "..." else f"{_pattern(line)}\n" for line in shown.splitlines()
    )
    return re.fullmatch(pattern, "".join(f"{_plain(line)}\n" for line in printed.splitlines())) is not None


def _pattern(line: str) -> str:
    return ".*".join(re.escape(_plain(part)) for part in line.split("..."))


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,:]*\d|\d", "0", line)).strip()


MARKED = [page for page in PAGES if any(block.run for block in blocks(page))]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_marked_blocks_print_what_is_shown(page: Path, folder: Path, environment: dict[str, str]) -> None:
    for block in blocks(page):
        if not block.run:
            continue
        assert block.language == "console", f"{block.place}: only console blocks can be run"
        for command, shown in transcript(block):
            result = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert result.returncode == 0, f"{block.place}: $ {command}\n{result.stdout}"
            assert looks_like(shown, result.stdout), (
                f"{block.place}: $ {command}\nshown:\n{shown}\nprinted:\n{result.stdout}"
            )


def test_an_output_is_compared_but_for_its_numbers() -> None:
    printed = "reading\n 6 pages  in 0.4 s\nthe end\n"
    assert looks_like("...\n7 pages in 12 s\n...\n", printed)
    assert looks_like("...\n6 pages...\nthe end\n", printed)
    assert not looks_like("6 pages in 0.4 s\nthe end\n", printed)
    assert not looks_like("...\n6 pages are done\n...\n", printed)
    assert not looks_like("...\nthe end\nmore\n", printed)


# --- Python runs -----------------------------------------------------------------------------------------------------

PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_examples_run(page: Path, folder: Path, environment: dict[str, str]) -> None:
    """All of a page in one program, since each goes on where the one before ended."""
    program = "\n".join(block.text for block in blocks(page) if block.language == "python")
    if "client import" in program:
        # It needs a server with an upload in progress: tests/client makes these calls.
        compile(program, page.name, "exec")
        return
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
