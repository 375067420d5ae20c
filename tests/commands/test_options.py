"""The options of the command line as they come from their definitions: help, completion, defaults, JSON, remote."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import typer
from annotated_types import Ge
from typer.testing import CliRunner

from comic_upscale.cli import COMMANDS, app
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.remote import SshOptions
from comic_upscale.commands.run import JOB, SHOW
from comic_upscale.errors import RemoteError, SettingsError
from comic_upscale.execution.ssh.machine import remote_settings
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import from_json, to_json, values_from_json
from comic_upscale.settings.options import Definition, Group, Opt, check, definitions, fingerprint_parts
from tests.commands.test_run import invoke, own_state
from tests.conftest import draw

__all__ = ["own_state"]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    draw(tmp_path / "pages" / "0.png", 0)
    return tmp_path / "pages"


def shown(options: tuple[Definition, ...]) -> list[Definition]:
    return [part for option in options for part in option.parts or (option,) if option.opt.on_command_line]


def command(*names: str) -> Any:
    node: Any = typer.main.get_command(app)
    for name in names:
        node = node.commands[name]
    return node


def said(*arguments: str) -> str:
    code, out, _ = invoke(*arguments, "--help-all" if arguments == ("run",) else "--help")
    assert code == 0
    return re.sub(r"[\s│]+", " ", out)


@pytest.mark.parametrize("names", [("run",), ("remote", "upscale"), ("remote", "push")], ids=" ".join)
def test_every_option_of_a_job_is_an_option_of_its_commands(names: tuple[str, ...]) -> None:
    by_name = {parameter.name: parameter for parameter in command(*names).params}
    text = said(*names)
    for option in shown((*JOB, *SHOW)):
        parameter = by_name[option.name]
        assert option.flag in parameter.opts
        assert set(parameter.opts + parameter.secondary_opts) >= {
            flag for each in option.opt.flags for flag in each.split("/")
        }
        if option.kind is not bool:
            assert (option.opt.metavar or "|".join(option.choices) or "<") in text
    assert by_name["gate"].secondary_opts == ["--no-gate"]
    assert "weights_cache" not in by_name


def test_defaults_bounds_and_choices_are_in_the_help() -> None:
    text = said("run")
    for default in ("(2.5)", "(one per core)", "(16G)", "(20,000)", "150", "gate", "(auto)", "png"):
        assert f"[default: {default}]" in text
    assert "Between 36 and 1200." in text
    assert "At least 64." in text
    assert "auto|fp32|fp16|bf16|int8" in text


@pytest.mark.parametrize("words", [(), ("run",), ("watch",), ("status",), ("models", "list"), ("pause",)])
def test_help_has_no_types_of_flags_and_no_brackets_twice(words: tuple[str, ...]) -> None:
    code, out, _ = invoke(*words, "--help")
    assert code == 0
    for noise in ("<bool>", "<list[", "[[PAGES", "[[FOLDER", "{FOLDER...}"):
        assert noise not in out


def test_help_of_shared_options_is_the_same_unless_they_mean_something_else() -> None:
    for option in JOB:
        if option.name in ("denoise", "tile", "batch", "precision"):
            assert option.opt.help[:30] in said("bench")
    assert "The bytes" not in said("run")
    assert "decides how many bytes are downloaded" in said("cost")


def below_root(text: str) -> Path:
    return Path("/root", text)


@dataclass(frozen=True, kw_only=True)
class EveryKind:
    """An option of each kind."""

    GROUP: ClassVar[Group] = Group("kinds", sent="always")

    off: Annotated[bool, Opt("Off.", fingerprint="if-changed")] = False
    on: Annotated[bool, Opt("On.", flags=("--on", "-n"), fingerprint="if-changed")] = True
    unsure: Annotated[bool | None, Opt("Unsure.", default_text="auto", fingerprint="if-changed")] = None
    named: Annotated[bool, Opt("Named.", flags=("--with/--without", "-w/-W"), fingerprint="if-changed")] = (
        False
    )
    count: Annotated[int, Ge(1), Opt("Count.", fingerprint="if-changed")] = 3
    share: Annotated[float | None, Ge(0), Opt("Share.", fingerprint="if-changed")] = None
    depth: Annotated[Literal[8, 16], Opt("Depth.", fingerprint="if-changed")] = 8
    word: Annotated[Literal["a", "b"] | None, Opt("Word.", fingerprint="if-changed")] = None
    texts: Annotated[tuple[str, ...], Opt("Texts.", fingerprint="if-changed")] = ()
    numbers: Annotated[tuple[int, ...], Opt("Numbers.", fingerprint="if-changed")] = ()
    paths: Annotated[tuple[Path, ...], Opt("Paths.", fingerprint="if-changed")] = ()
    file: Annotated[Path | None, Opt("File.", fingerprint="if-changed")] = None
    folder: Annotated[Path | None, Opt("Folder.", parse=below_root)] = None

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--off"], "off", True),
        (["--no-on"], "on", False),
        (["-n"], "on", True),
        (["--unsure"], "unsure", True),
        (["--no-unsure"], "unsure", False),
        (["-w"], "named", True),
        (["--with", "--without"], "named", False),
        (["-W"], "named", False),
        (["--count", "4"], "count", 4),
        (["--share", "1"], "share", 1.0),
        (["--depth", "16"], "depth", 16),
        (["--word", "b"], "word", "b"),
        (["--texts", "a", "--texts", "b,c"], "texts", ("a", "b,c")),
        (["--numbers", "1", "--numbers", "2"], "numbers", (1, 2)),
        (["--paths", "a", "--paths", "b"], "paths", (Path("a"), Path("b"))),
        (["--file", "a"], "file", Path("a")),
        (["--folder", "a"], "folder", Path("/root/a")),
    ],
)
def test_an_option_of_each_kind_works_on_the_command_line_and_in_json(
    arguments: list[str], name: str, value: Any
) -> None:
    found: dict[str, Any] = {}
    one = typer.Typer()

    @one.command()
    @takes(given=definitions(EveryKind))
    def show(given: Given) -> None:
        found.update(given.values())

    assert CliRunner().invoke(one, arguments).exit_code == 0
    assert found == {name: value}
    made = EveryKind(**found)
    assert from_json(EveryKind, json.loads(json.dumps(to_json(made)))) == made
    assert CliRunner().invoke(one, ["--help"]).exit_code == 0
    rule = {each.name: each.opt.fingerprint for each in definitions(EveryKind)}[name]
    changed = rule == "if-changed" and made != EveryKind()
    assert list(fingerprint_parts(made, {})) == ([name] if changed else [])


def test_a_choice_that_is_a_number_is_named_where_it_is_wrong() -> None:
    with pytest.raises(SettingsError, match=r"^--depth must be one of 8, 16, not '12'$"):
        EveryKind(depth="12")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^kinds\.depth must be one of 8, 16, not 12$"):
        from_json(EveryKind, {"depth": 12})


COMPLETE = """
import os, sys
from comic_upscale.cli import main
for line in sys.stdin.read().splitlines():
    os.environ.update(COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1))
    sys.argv = ["comic-upscale"]
    try:
        main()
    except SystemExit:
        print("--")
"""


def test_shell_completion_knows_commands_options_and_choices() -> None:
    expected = {
        "comic-upscale rem": ["remote"],
        "comic-upscale run --pdf": ["--pdf-dpi"],
        "comic-upscale remote upscale box --pdf": ["--pdf-dpi"],
        "comic-upscale run --precision fp": ["fp32", "fp16"],
        "comic-upscale run --icc ": ["keep", "srgb"],
        "comic-upscale run --model realesr-": ["realesr-animevideov3", "realesr-general-x4v3"],
        "comic-upscale run --engine on": ["onnx"],
        "comic-upscale run --device c": ["cpu", "cuda"],
        "comic-upscale run --format j": ["jpeg", "jxl"],
        "comic-upscale models li": ["list"],
    }
    # One process for all of them.
    ended = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        env={**os.environ, "_COMIC_UPSCALE_COMPLETE": "complete_bash"},
        input="\n".join(expected), capture_output=True, text=True,
    )  # fmt: skip
    completed = [answer.split() for answer in ended.stdout.split("--\n")]
    assert dict(zip(expected, completed, strict=False)) == expected, ended.stderr


def test_a_command_that_is_not_asked_for_is_not_imported() -> None:
    program = (
        "import sys; from comic_upscale.cli import app\n"
        "try: app({!r})\n"
        "except SystemExit: pass\n"
        "print('imported:', sorted(m for m in sys.modules if m.startswith('comic_upscale.commands.')"
        " or m.startswith('comic_upscale.settings.')))"
    )
    for arguments, imported in (
        (["--help"], []),
        (["--version"], []),
        (
            ["status"],
            [
                "comic_upscale.commands.environment",
                "comic_upscale.commands.recorded_job",
                "comic_upscale.commands.status",
                "comic_upscale.settings.paths",
                "comic_upscale.settings.places",
                "comic_upscale.settings.screens",
                "comic_upscale.settings.selection",
                "comic_upscale.settings.sizes",
            ],
        ),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", program.format(arguments)], capture_output=True, text=True
        )
        assert ended.stdout.splitlines()[-1] == f"imported: {imported}", ended.stderr


def test_a_word_that_is_no_command() -> None:
    code, _, err = invoke("rnu")
    assert (code, "run" in err) == (2, True)
    for name in COMMANDS:
        assert command(name).name == name


# What was given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--max-failures", "lots"], "--max-failures takes a number or a percentage"),
        (["--batch", "many"], "--batch must be auto or a whole number, not 'many'"),
        (["--pdf-dpi", "5"], "--pdf-dpi must be between 36 and 1200, not 5"),
        (["--fit", "5"], "--fit takes a size in pixels"),
        (["--width", "5", "--scale", "2"], "--scale and --width exclude each other"),
        (["--format", "bmp"], "--format must be one of auto, png"),
    ],
    ids=str,
)
def test_every_mistake_is_one_json_event_where_events_are_read(
    pages: Path, wrong: list[str], message: str
) -> None:
    code, out, err = invoke("run", "--input", pages, "--json", *wrong)
    event = json.loads(out)
    assert (code, event["event"], event["exit_code"], err) == (2, "error", 2, "")
    assert message in event["message"]


def test_settings_from_a_file_come_before_the_defaults_and_after_the_command_line(
    pages: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"size": "width 100", "format": "webp", "resources": {"device": "cpu"}}))
    arguments = [
        "run",
        "--input",
        pages,
        "--output",
        tmp_path / "out",
        "--settings",
        file,
        "--dry-run",
        "--json",
    ]
    plan = json.loads(invoke(*arguments)[1])
    assert (plan["size"], plan["model"]) == ("width 100", "comic-fast-x3")
    assert plan["pages"][0]["output"].endswith(".webp")
    assert json.loads(invoke(*arguments, "--scale", 3)[1])["size"] == "scale 3"
    file.write_text('{"pdf_dip": 1}')
    code, out, _ = invoke(*arguments)
    assert (code, "did you mean 'pdf_dpi'" in json.loads(out)["message"]) == (2, True)
    file.write_text('{"pdf_dpi": "1"}')
    assert "processing.pdf_dpi must be a whole number" in json.loads(invoke(*arguments)[1])["message"]
    file.write_text('{"pdf_dpi": 1}')
    assert "processing.pdf_dpi must be between" in json.loads(invoke(*arguments)[1])["message"]
    file.write_text('{"strict": true}')
    message = json.loads(invoke(*arguments, "--no-gate")[1])["message"]
    assert message == "processing.strict needs the quality gate: leave out --no-gate"
    file.write_text("[1]")
    assert invoke(*arguments)[0] == 2
    file.write_text("{")
    assert invoke(*arguments)[0] == 2
    assert invoke(*arguments[:5], "--settings", tmp_path / "none")[0] == 3


# The remote machine


def asked_of_the_machine(monkeypatch: pytest.MonkeyPatch, pages: Path, *options: object) -> dict[str, Any]:
    """What a run there works with, as `remote upscale` tells it."""
    told: list[dict[str, Any]] = []

    def machine(self: SshOptions, resources: dict[str, Any], **_: object) -> None:
        told.append(dict(resources))
        raise RemoteError("no machine")

    monkeypatch.setattr(SshOptions, "machine", machine)
    code, _, err = invoke("remote", "upscale", "box", "--input", pages, *options)
    assert (code, "no machine" in err) == (9, True), err
    return told[0]


def test_a_remote_machine_keeps_its_own_defaults(monkeypatch: pytest.MonkeyPatch, pages: Path) -> None:
    assert asked_of_the_machine(monkeypatch, pages) == {}
    assert asked_of_the_machine(monkeypatch, pages, "--workers", 4, "--batch", "auto", "--no-gate") == {
        "workers": 4,
        "batch": None,
    }
    assert asked_of_the_machine(monkeypatch, pages, "--device", "cuda:0,cuda:1", "--tile", 64) == {
        "device": "cuda:0,cuda:1",
        "tile": 64,
    }


def test_a_remote_machine_is_told_what_decides_pixels_and_what_it_costs() -> None:
    settings = JobSettings(
        input=Path("in"), output=Path("out"), scale=2.0, gate=False, format="webp", price=2.0, max_cost=1.0,
        overwrite=True, pdf_dpi=300, workers=3,
    )  # fmt: skip
    told = remote_settings(settings)
    assert json.loads(json.dumps(told)) == told
    assert told.items() >= {
        "size": "scale 2", "gate": False, "format": "webp", "price": 2.0, "max_cost": 1.0, "gray": "auto",
        "sidecars": "skip",
    }.items()  # fmt: skip
    assert not told.keys() & {
        "input",
        "output",
        "model",
        "overwrite",
        "pdf_dpi",
        "workers",
        "retry_failed",
        "ledger",
    }


def test_a_job_on_a_remote_machine_has_the_fingerprint_that_it_had_there() -> None:
    # What concerns volumes stayed here when options were sent as words; the jobs of that time go on.
    here = JobSettings(
        input=Path("in"), output=Path("out"), pdf_dpi=300, archive_output="folder", gray="keep"
    )
    values = values_from_json(JobSettings, remote_settings(here))
    there = JobSettings(input=Path("there/in"), output=Path("there/out"), **values)
    assert there.fingerprint("weights") == "3ca49f2fd6e00d26ba0f28b3148f4cde"


def test_mistakes_before_a_remote_run_say_that_the_machine_still_bills(pages: Path) -> None:
    for wrong in (("--fit", "5"), ("--poll", "0"), ("--patience", "-1"), ("--pdf-dpi", "1")):
        arguments = ["remote", "upscale", "box", "--input", pages, "--when-done", "false", *wrong]
        code, _, err = invoke(*arguments)
        assert (code, wrong[0] in err) == (2, True)
        assert "THE MACHINE IS STILL BILLED" in err.splitlines()[-1]


def test_a_dry_run_asks_no_machine(pages: Path) -> None:
    code, out, _ = invoke("remote", "upscale", "no-such-machine.invalid", "--input", pages, "--dry-run")
    assert (code, "0.png" in out) == (0, True)


def test_every_option_is_on_a_command_line_or_says_that_it_is_not() -> None:
    hidden = {each.name for each in definitions(JobSettings) if not each.opt.on_command_line}
    assert hidden == {"rules", "weights_cache"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--scale", "two"], "'--scale' / '-s': must be a number such as 2.5, not 'two'"),
        (["--scale", "2,5"], "must be a number such as 2.5, not '2,5': did you mean 2.5?"),
        (["--scale", "2x"], "must be a number such as 2.5, not '2x': did you mean 2?"),
        (["--workers", "1.5"], "'--workers' / '-w': must be a whole number such as 4, not '1.5'"),
        (["--format", "jpg"], "--format must be one of auto, png, webp, jpeg, avif, jxl, tiff, not 'jpg': did"),
        (["--format", "bmp"], "jxl, tiff, not 'bmp'"),
    ],
    ids=str,
)  # fmt: skip
def test_an_obvious_value_that_is_refused_comes_with_what_to_write(
    pages: Path, wrong: list[str], says: str
) -> None:
    code, _, err = invoke("run", "--input", pages, "--dry-run", *wrong)
    assert code == 2
    assert says in " ".join(err.replace("│", " ").split())


def test_named_values_may_be_in_any_case(pages: Path) -> None:
    plan = json.loads(invoke("run", "--input", pages, "--dry-run", "--json", "--format", "JPEG")[1])
    assert {Path(page["output"]).suffix for page in plan["pages"]} == {".jpg"}
    assert JobSettings.from_json('{"input": "/in", "output": "/out", "format": "WebP"}').format == "webp"
