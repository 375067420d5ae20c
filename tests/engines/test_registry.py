"""The engines by name, their options, and engines of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, DeviceInfo
from comic_upscale.engines.options import describe_options, pixel_options, read_options
from comic_upscale.errors import SettingsError
from comic_upscale.jobs.run import run_job
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.planning.model_selection import job_fingerprint, named_model
from comic_upscale.planning.preview import preview
from comic_upscale.settings.engines import (
    BUILT_IN,
    GROUP,
    as_engine_options,
    engine_names,
    parse_engine_options,
)
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import Opt
from comic_upscale.settings.processing import join_engine_options
from tests.conftest import REPOSITORY, MakeSettings
from tests.docs.markdown import blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    tool: Annotated[str, Opt("What to run.", fingerprint="always")]
    threads: Annotated[int | None, Ge(1), Le(64), Opt("Threads.")] = None
    strength: Annotated[float, Gt(0), Opt("How much.", fingerprint="if-changed")] = 0.5
    way: Annotated[Literal["fast", "exact"], Opt("How.", fingerprint="if-changed")] = "fast"
    twice: Annotated[bool, Opt("Whether to do it again.", fingerprint="if-changed")] = False


def read(*texts: str) -> Options:
    options = read_options(Options, parse_engine_options(texts), "test")
    assert isinstance(options, Options)
    return options


def test_options_are_read_by_their_types() -> None:
    assert read("tool=a=b c") == Options(tool="a=b c")
    assert read("tool=x", "threads=auto", "strength=1", "way=exact", "twice=yes") == Options(
        tool="x", strength=1.0, way="exact", twice=True
    )
    assert read("tool=x", "threads=3", "threads=4").threads == 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "needs --engine-option tool="),
        (["tool"], "NAME=VALUE"),
        (["=1"], "NAME=VALUE"),
        (["tool=x", "thread=1"], "has no option 'thread'.*Did you mean threads"),
        (["tool=x", "threads=0"], "threads of the engine test must be between 1 and 64, not '0'"),
        (["tool=x", "threads=two"], "must be auto, or a whole number, between 1 and 64, not 'two'"),
        (["tool=x", "strength=nan"], "must be a number, above 0, not 'nan'"),
        (["tool=x", "way=slow"], "must be one of fast, exact, not 'slow'"),
        (["tool=x", "twice=maybe"], "must be true or false, not 'maybe'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_with_what_can(texts: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(*texts)


def test_only_options_that_decide_pixels_and_differ_are_for_the_fingerprint() -> None:
    assert pixel_options(Options(tool="x")) == (("tool", "x"),)
    assert pixel_options(Options(tool="x", threads=8)) == (("tool", "x"),)
    changed = Options(tool="x", strength=0.25, twice=True)
    assert pixel_options(changed) == (("strength", "0.25"), ("tool", "x"), ("twice", "true"))
    nearly, other = Options(tool="x", strength=0.12345678), Options(tool="x", strength=0.12345679)
    assert pixel_options(nearly) != pixel_options(other)


def test_options_are_described() -> None:
    described = {each.name: each for each in describe_options(Options)}
    assert list(described) == ["tool", "threads", "strength", "way", "twice"]
    assert (described["tool"].default, described["tool"].help) == ("", "What to run.")
    assert (described["threads"].values, described["threads"].default) == (
        "auto, or a whole number, between 1 and 64",
        "auto",
    )
    assert described["strength"].default == "0.5"


def test_settings_hold_options_in_one_form() -> None:
    from_mapping = as_engine_options({"tile-pad": 3, "half": True, "device": None})
    assert from_mapping == (("device", "auto"), ("half", "true"), ("tile_pad", "3"))
    assert from_mapping == parse_engine_options(["half=true", "tile_pad=3", "device=auto"])
    assert as_engine_options(from_mapping) == from_mapping
    with pytest.raises(SettingsError, match="pairs of a name and a value"):
        as_engine_options([1])  # type: ignore[list-item]


def test_flags_of_their_own_are_engine_options() -> None:
    words = {"engine_option": ("seed=3", "pipeline=other"), "pipeline": "here", "keep_lettering": False}
    assert join_engine_options({**words, "accept_noncommercial": True, "engine_command": None}) == (
        ("accept_noncommercial", "true"), ("keep_lettering", "false"), ("pipeline", "here"), ("seed", "3"),
    )  # fmt: skip
    assert join_engine_options({"engine_command": "x {in} {out}"}) == (("command", "x {in} {out}"),)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_each_engine_of_the_package_is_known_by_its_name(name: str) -> None:
    factory = registry.find_factory(name)
    assert factory.name == name
    assert factory.summary and (factory.install or not factory.packages)
    for option in describe_options(factory.options):
        assert option.help.endswith("."), option.name


def test_looking_at_the_engines_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from comic_upscale.cli import main\n"
        "sys.argv = ['comic-upscale', 'engines', 'list']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'onnxruntime', 'realesrgan', 'cv2') if name in sys.modules])"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(engine_names())
    assert lines[-1] == "[]"


def test_the_identity_is_the_hash_of_the_weights_whatever_runs_them(
    make_settings: MakeSettings, tiny_weights: Path
) -> None:
    settings = make_settings()
    name, digest = registry.identify(settings)
    assert name == tiny_weights.name
    weights = registry.prepare_engine(settings)
    assert weights is not None and weights.identity == digest
    assert registry.identify(replace(settings, backend="realesrgan")) == (name, digest)
    (engine, *_) = engines = registry.open_engines(replace(settings, device="cpu"), weights)
    assert (engine.info.name, engine.info.identity, engine.info.device.kind) == ("torch", digest, "cpu")
    for each in engines:
        each.close()


def test_options_at_their_defaults_are_no_part_of_the_fingerprint(make_settings: MakeSettings) -> None:
    settings = make_settings()
    plain = job_fingerprint(settings, "0" * 64)
    assert plain == settings.fingerprint("0" * 64)
    assert job_fingerprint(replace(settings, engine_options={"overlap": None}), "0" * 64) == plain
    assert job_fingerprint(replace(settings, engine_options={"overlap": 40}), "0" * 64) != plain


def test_a_job_with_another_option_is_another_job(make_settings: MakeSettings) -> None:
    settings = make_settings(device="cpu")
    assert run_job(settings).done_now == 12
    wider = replace(settings, engine_options={"overlap": 7})
    assert preview(wider).counts["do"] == 12
    assert run_job(wider).done_now == 12
    assert run_job(wider).done_now == 0
    with pytest.raises(SettingsError, match=r"has no option 'overlaps'.*Did you mean overlap"):
        run_job(replace(settings, engine_options={"overlaps": 7}))


def test_the_official_program_mixes_no_weights(make_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="does not support --denoise"):
        named_model(make_settings(model="realesr-general-x4v3", denoise=0.5, backend="realesrgan"))
    # At the full strength, the partner of comic-fast works: another file.
    with pytest.raises(SettingsError, match="does not support --denoise"):
        named_model(make_settings(model="comic-fast-x2", denoise=1.0, backend="realesrgan"))
    # Without any, its own file does.
    without = named_model(make_settings(model="Comic-Fast-x2", denoise=0.0, backend="realesrgan"))
    assert without.identity == CATALOGUE["comic-fast-x2"].weights.sha256


def test_only_engines_whose_settings_and_weights_are_all_run_remotely(make_settings: MakeSettings) -> None:
    for name in ("torch", "realesrgan"):
        registry.check_remote(make_settings(backend=name))
    for name in ("onnx", "command"):
        with pytest.raises(SettingsError, match=f"--engine {name} cannot run on a remote machine"):
            registry.check_remote(make_settings(backend=name))


def test_the_device_in_words_is_as_it_always_was() -> None:
    assert str(DeviceInfo("cuda", 0, "NVIDIA H200")) == "cuda:0 (NVIDIA H200)"
    assert str(DeviceInfo("cpu", name="2 threads")) == "cpu (2 threads)"
    assert str(DeviceInfo("cpu", name="2 threads", pages_at_once=2)) == "cpu (2 threads, 2 pages at once)"
    assert str(DeviceInfo("mps", name="Apple GPU")) == "mps (Apple GPU)"
    assert str(DeviceInfo("fake")) == "fake"


# Engines of other packages


EXAMPLE = next(
    block.text for block in blocks(REPOSITORY / "docs" / "engines.md") if block.language == "python"
)
"""The engine of the documentation, as a package of its own."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package as pip would: a module and its metadata, in a folder of the import path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def add(name: str, module: str, source: str, target: str, version: str = "1.0") -> None:
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {target}\n")

    return add


def test_an_engine_of_another_package_is_listed_shown_and_run(
    install: Callable[..., None], make_settings: MakeSettings, pages: Path, tmp_path: Path
) -> None:
    install("nearest", "nearest_engine", EXAMPLE, "nearest_engine:NearestFactory")
    assert engine_names() == (*BUILT_IN, "nearest")
    listed = json.loads(CliRunner().invoke(app, ["engines", "list", "--json"]).stdout)
    (option,) = listed[-1].pop("options")
    assert listed[-1] == {"name": "nearest", "summary": "Repeats pixels.", "installed": True}
    assert (option["name"], option["values"]) == ("brightness", "a whole number, between 0 and 255")
    shown = CliRunner().invoke(app, ["engines", "show", "nearest"]).stdout
    assert "brightness: a whole number, between 0 and 255 (default 0)" in shown
    arguments = ["run", "-i", str(pages), "-o", str(tmp_path / "cli"), "--scale", "2", "--engine", "nearest"]
    first = CliRunner().invoke(app, [*arguments, "--engine-option", "brightness=9"])
    assert first.exit_code == 0, first.output
    assert "nearest" in first.output
    again = CliRunner().invoke(app, [*arguments, "--engine-option", "brightness=9", "--json"])
    assert json.loads(again.stdout.splitlines()[-1])["done_now"] == 0
    finished = run_job(make_settings(backend="nearest", model="auto", scale=2.0))
    assert (finished.done_now, finished.failed) == (12, 0)
    (engine,) = registry.open_engines(
        make_settings(backend="nearest", engine_options={"brightness": 5}), None
    )
    made = engine.upscale(Batch(np.full((1, 2, 2, 3), 7, np.uint8), (4, 4)))
    assert (made.pixels == 12).all()


def test_an_engine_that_cannot_be_loaded_is_named_with_its_package(
    install: Callable[..., None], make_settings: MakeSettings
) -> None:
    install("broken", "broken_engine", "raise RuntimeError('out of order')", "broken_engine:Factory")
    install("odd", "odd_engine", "Factory = 3", "odd_engine:Factory")
    with pytest.raises(
        SettingsError, match=r"broken \(broken_engine:Factory\) cannot be loaded.*out of order"
    ):
        run_job(make_settings(backend="broken"))
    with pytest.raises(SettingsError, match="is not an EngineFactory"):
        run_job(make_settings(backend="odd"))
    listed = json.loads(CliRunner().invoke(app, ["engines", "list", "--json"]).stdout)
    assert [row["installed"] for row in listed if row["name"] in ("broken", "odd")] == [False, False]


def test_two_packages_with_one_engine_are_refused(
    install: Callable[..., None], make_settings: MakeSettings
) -> None:
    install("nearest", "nearest_engine", EXAMPLE, "nearest_engine:NearestFactory")
    install("nearest", "another_engine", EXAMPLE, "another_engine:NearestFactory")
    with pytest.raises(SettingsError, match="two packages have an engine called nearest"):
        run_job(make_settings(backend="nearest"))


def test_an_engine_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--engine must be one of torch, realesrgan.* not 'caffe'"):
        JobSettings(input=tmp_path / "in", output=tmp_path / "out", backend="caffe")
    told = CliRunner().invoke(app, ["engines", "show", "caffe"])
    assert told.exit_code == 2
    assert f"there is no engine 'caffe': the engines are {', '.join(engine_names())}" in told.stderr


def test_what_an_engine_needs_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs nothing more" in CliRunner().invoke(app, ["engines", "show", "torch"]).stdout
    assert "prompt: text (default empty)" in CliRunner().invoke(app, ["engines", "show", "imagen"]).stdout
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    shown = CliRunner().invoke(app, ["engines", "show", "onnx"])
    assert shown.exit_code == 0
    assert "not installed: onnxruntime. pip install '.[onnx]' in a clone" in shown.stdout
    listed = CliRunner().invoke(app, ["engines", "list"]).stdout
    assert any(line.startswith("onnx ") and line.endswith("(not installed)") for line in listed.splitlines())


def test_backend_is_another_name_of_the_option_engine(
    pages: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    common = [
        "run",
        "-i",
        str(pages),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(tiny_weights),
        "-d",
        "cpu",
        "--json",
    ]
    first = CliRunner().invoke(app, [*common, "--backend", "torch"])
    again = CliRunner().invoke(app, [*common, "--engine", "torch"])
    assert json.loads(first.stdout.splitlines()[-1])["done_now"] == 12
    assert json.loads(again.stdout.splitlines()[-1])["done_now"] == 0
