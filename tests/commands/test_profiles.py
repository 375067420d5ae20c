"""Profiles: found by name, file and place; their options and rules in a job; the command line wins."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.commands.run import job_settings
from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.options import definitions
from comic_upscale.settings.profiles import _known, built_in, built_in_names
from comic_upscale.settings.sizes import LongSide, Scale
from tests.commands.test_run import invoke
from tests.conftest import draw


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without profiles, in a folder of pages."""
    for kind in ("STATE", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    draw(tmp_path / "work" / "pages" / "0.png", 0)
    return tmp_path


def own(home: Path, name: str, text: str) -> Path:
    path = home / "config" / "comic-upscale" / "profiles" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def settings(profile: str | None = None, **given: Any) -> JobSettings:
    named = {} if profile is None else {"profile": profile}
    return job_settings({"input": Path("pages"), **named, **given})


def problem(text: str, name: str = "mine.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        settings(name)
    return str(caught.value)


@pytest.mark.parametrize("name", built_in_names())
def test_built_in_profiles_are_settings_and_say_what_they_are_for(name: str) -> None:
    assert built_in(name).description.endswith(".")
    assert settings(name).profile == name
    code, out, _ = invoke("profiles", "show", name)
    assert code == 0
    # What is shown can be kept as a file: it gives the same job.
    Path("copy.toml").write_text(out, encoding="utf-8")
    first, second = settings(name, output=Path("out")), settings("copy.toml", output=Path("out"))
    assert second.fingerprint("weights") == first.fingerprint("weights")


def test_the_list_has_own_profiles_first_and_tells_of_broken_ones(home: Path) -> None:
    own(home, "scans", 'description = "Our scans."\nbase = "manga"\n')
    own(home, "broken", "scael = 2\n")
    code, out, _ = invoke("profiles", "list")
    assert code == 0
    assert "scans" in out and "Our scans. (yours)" in out and "did you mean 'scale'?" in out
    rows = {row["name"]: row for row in json.loads(invoke("profiles", "list", "--json")[1])}
    assert rows.keys() == {"scans", "broken", *built_in_names()}
    assert rows["manga"]["origin"] == "built-in" and rows["broken"]["problem"]


def test_a_profile_sets_options_by_their_names_and_the_command_line_wins() -> None:
    Path("mine.toml").write_text(
        """
        scale = 3
        format = "webp"
        quality = 80
        levels = [12, 240]
        skip-larger-than = "2000x3000"
        engine = "torch"
        max_failures = 5
        workers = 3
        """,
        encoding="utf-8",
    )
    made = settings("mine.toml")
    assert (made.size, made.format, made.quality, made.levels) == (Scale(3), "webp", 80, Levels(12, 240))
    assert (str(made.skip_larger_than), str(made.max_failures), made.workers) == ("2000x3000", "5", 3)
    assert made.output.name == "pages-x3"
    other = settings("mine.toml", size=LongSide(2000), levels=None, workers=2)
    assert (other.size, other.levels, other.workers, other.quality) == (LongSide(2000), None, 2, 80)
    # The quality is that of the profile's format, and means nothing with another.
    assert settings("mine.toml", format="png").quality is None


def test_a_profile_builds_on_another_and_adds_rules(home: Path) -> None:
    own(home, "scans", 'base = "manga"\nformat = "png"\n[[rule]]\ngray = false\nmodel = "comic-best"\n')
    Path("mine.toml").write_text(
        'base = "scans"\n[[rule]]\nmax_jpeg_quality = 60\nlevels = "off"\n', encoding="utf-8"
    )
    made = settings("mine.toml")
    assert (made.format, made.quality, made.levels) == ("png", None, Levels())
    assert [str(rule) for rule in made.rules] == [
        "not gray: model comic-best",
        "max_jpeg_quality 60: levels off",
    ]
    # An option of the command line holds for every page.
    assert [str(rule) for rule in settings("mine.toml", model="comic-fast").rules] == [
        "max_jpeg_quality 60: levels off"
    ]
    assert settings("mine.toml", model="comic-fast", levels=None).rules == ()


def test_an_own_profile_of_a_built_in_name_may_build_on_it(home: Path) -> None:
    own(home, "manga", 'base = "manga"\nscale = 2\n')
    made = settings("manga")
    assert (made.size, made.levels, made.profile) == (Scale(2), Levels(), "manga")
    own(home, "a", 'base = "b"\n')
    own(home, "b", 'base = "a"\n')
    with pytest.raises(SettingsError, match="in a circle: a, b"):
        settings("a")


def test_a_book_drops_the_format_of_a_profile_that_it_does_not_take(home: Path) -> None:
    assert (settings("manga", archive_output="epub").format, settings("manga").quality) == ("webp", 90)
    for book in ("kepub", "pdf"):
        made = settings("manga", archive_output=book)
        assert (made.format, made.quality, made.levels) == ("png", None, Levels())
        assert settings("manga", archive_output=book, format="jpeg", quality=80).quality == 80
        with pytest.raises(SettingsError, match="png or jpeg, not webp"):
            settings("manga", archive_output=book, format="webp")
    own(home, "kobo", 'base = "manga"\narchive_output = "kepub"\n')
    assert (settings("kobo").format, settings("kobo").quality) == ("png", None)
    own(home, "wrong", 'base = "manga"\narchive_output = "kepub"\nformat = "webp"\n')
    with pytest.raises(SettingsError, match="png or jpeg, not webp"):
        settings("wrong")


def test_the_folders_of_a_profile_for_volumes_go_where_originals_are_replaced(home: Path) -> None:
    assert settings("lora").archive_output == "folder"
    made = settings("lora", replace_sources=True)
    assert (made.archive_output, made.format, made.gray) == ("cbz", "png", "off")
    with pytest.raises(SettingsError, match=r"exclude each other: a volume is replaced by one file$"):
        settings("lora", replace_sources=True, archive_output="folder")


def test_a_message_says_which_option_is_that_of_a_profile(home: Path) -> None:
    own(home, "mine", "crop_margins = true\nformat = 'webp'\nquality = 80\n")
    with pytest.raises(SettingsError, match=r"makes less of a page\. The profile mine sets --crop-margins$"):
        settings("mine", replace_sources=True)
    with pytest.raises(SettingsError, match=r"exclude each other[^.]*$"):
        settings("mine", replace_sources=True, crop_margins=True)


def test_the_place_of_a_profile_decides_without_a_name(home: Path) -> None:
    assert settings().profile is None
    own(home, "default", "scale = 2\n")
    assert (settings().profile, settings().size) == ("default", Scale(2))
    Path("comic-upscale.toml").write_text("scale = 3\n", encoding="utf-8")
    assert settings().size == Scale(3)
    beside = home / "library"
    shutil.copytree("pages", beside / "vol 1")
    (beside / "comic-upscale.toml").write_text("scale = 4\n", encoding="utf-8")
    found = job_settings({"input": beside / "vol 1"})
    assert (found.size, found.profile) == (Scale(4), str(beside / "comic-upscale.toml"))
    assert settings("manga").size == Scale(2.5)
    assert (settings("none").profile, settings("none").size) == (None, Scale(2.5))


def test_a_profile_that_was_only_found_runs_no_program() -> None:
    text = 'engine = "command"\nengine_options = { command = "tool {in} {out}" }\n'
    Path("comic-upscale.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"engine may run .* only in a profile that you name"):
        settings()
    for line in (
        "overwrite = true",
        "replace = true",
        "max_pixels = 9_000_000_000",
        'max_unpacked = "9T"',
        "max_ratio = 1e6",
        'engine_options = { pipeline = "other" }',
    ):
        Path("comic-upscale.toml").write_text(f"{line}\n", encoding="utf-8")
        # The option has the name that the file gives it.
        with pytest.raises(SettingsError, match=rf"{line.split()[0]} may .* only in a profile that you name"):
            settings()
    for line in ("engine_command = 'tool'", "pipeline = 'other'", "accept_noncommercial = true"):
        Path("comic-upscale.toml").write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(SettingsError, match="only in a profile that you name"):
            settings()
    Path("comic-upscale.toml").write_text(text, encoding="utf-8")
    made = settings("comic-upscale.toml")
    assert (made.backend, dict(made.engine_options)["command"]) == ("command", "tool {in} {out}")


def test_a_profile_that_another_one_beside_the_input_names_runs_no_program_either() -> None:
    Path("comic-upscale.toml").write_text('base = "./a.toml"\n', encoding="utf-8")
    Path("a.toml").write_text('base = "./b.toml"\n', encoding="utf-8")
    Path("b.toml").write_text(
        'engine = "command"\nengine_options = { command = "x {in} {out}" }\n', encoding="utf-8"
    )
    with pytest.raises(SettingsError, match="only in a profile that you name"):
        settings()
    assert settings("comic-upscale.toml").backend == "command"
    # Those of the user and of the package are trusted.
    Path("comic-upscale.toml").write_text('base = "manga"\n', encoding="utf-8")
    assert settings().neutral_paper


def test_paths_in_a_profile_are_relative_to_it(home: Path, tiny_weights: Path) -> None:
    folder = home / "profiles"
    folder.mkdir()
    shutil.copy(tiny_weights, folder / "net.safetensors")
    (folder / "base.toml").write_text('model = "net.safetensors"\n', encoding="utf-8")
    (folder / "mine.toml").write_text(
        'base = "./base.toml"\n[[rule]]\npath = "covers/"\nmodel = "./net.safetensors"\n', encoding="utf-8"
    )
    made = settings(str(folder / "mine.toml"))
    assert Path(made.model) == folder / "net.safetensors"
    assert Path(made.rules[0].changes["model"]) == folder / "net.safetensors"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scael = 2", "mine.toml: there is no option 'scael': did you mean 'scale'?"),
        ("modle = 'x'", "did you mean 'model'?"),
        ("colour_of_hair = 'red'", "`comic-upscale run --help` lists the options"),
        ("output = 'x'", "there is no option 'output' in a profile: it belongs on the command line"),
        ("rules = []", "[[rule]] has rules"),
        ("scale = 99", "mine.toml: --scale must be"),
        ("scale = '2'", "scale must be a number, not '2'"),
        ("scale = 2\nwidth = 200", "exclude each other"),
        ("quality = 101", "mine.toml: quality must be between 1 and 100, not 101"),
        ("format = 'jpg'", "tiff, not 'jpg': did you mean jpeg?"),
        ("png_level = true", "png_level must be a whole number, not True"),
        ("gate = 'on'", "gate must be true or false, not 'on'"),
        ("scale = ", "mine.toml is not TOML"),
        ("base = 'mnaga'", "there is no profile 'mnaga': did you mean 'manga'?"),
        ("base = 3", "base must be text"),
        ("[[rule]]\ngrey = true\nlevels = 'auto'", "mine.toml: rule 1: a rule has no 'grey': did you mean 'gray'?"),
        ("[[rule]]\nlevels = 'auto'\n[[rule]]\nheight = 3", "rule 2: a rule has no 'height'"),
        ("[[rule]]\ngray = true", "rule 1: it sets nothing"),
        ("[[rule]]\ngray = true\nformat = 'jpeg'", "rule 1: a rule with a format can only have a path"),
        ("[[rule]]\npath = 'a/'\nformat = 'jpg'", "rule 1: format must be one of auto, png"),
        ("[[rule]]\npath = 'a/'\nicc = 'srgb'", "rule 1: a rule has no 'icc'"),
        ("[rule]\ngray = true", "rules must be a list of tables"),
        ("description = ['a']", "description must be text"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_file_and_the_option(text: str, says: str) -> None:
    assert says in problem(text)


def test_missing_and_unreadable_profiles() -> None:
    with pytest.raises(SettingsError, match=r"there is no profile .*nowhere\.toml: check the path"):
        settings("nowhere.toml")
    with pytest.raises(SettingsError, match=r"there is no profile 'zzz': choose .*manga"):
        settings("zzz")
    Path("latin.toml").write_bytes(b'description = "\xe9"\n')
    with pytest.raises(SettingsError, match="UTF-8"):
        settings("latin.toml")


def test_every_option_of_a_job_can_be_in_a_profile() -> None:
    names = set(_known())
    missing = {
        option.name for option in definitions(JobSettings) if option.group.name and option.name not in names
    }
    assert missing == {"rules"}
    assert {"scale", "print", "dpi", "engine", "skip_larger_than"} <= names
    tomllib.loads("\n".join(f"{name} = 1" for name in names))


def test_a_run_shows_and_records_its_profile(tiny_weights: Path) -> None:
    shutil.copy(tiny_weights, "net.safetensors")
    Path("mine.toml").write_text(
        'scale = 2\nmodel = "net.safetensors"\nprecision = "fp32"\n[[rule]]\nmin_height = 5000\nlevels = "auto"\n',
        encoding="utf-8",
    )
    code, out, err = invoke("run", "pages", "--profile", "mine.toml", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "profile: " in out and "mine.toml" in out and "rule 1: min_height 5000: levels auto" in out
    # The rule of the changed profile is told, and the page that it does not touch stays.
    text = Path("mine.toml").read_text(encoding="utf-8")
    Path("mine.toml").write_text(text.replace("5000", "10"), encoding="utf-8")
    preview = invoke("run", "pages", "--profile", "mine.toml", "--device", "cpu", "--dry-run")[1]
    assert "again" in preview and "made with other rules" in preview
    assert "profile: mine.toml" in preview.replace(str(Path.cwd()) + "/", "")
    recorded = json.loads(invoke("status", "--json")[1])
    assert (recorded["total"], Path(recorded["profile"]).name) == (1, "mine.toml")
    assert "profile: mine.toml" in invoke("status")[1]


def test_cost_and_completion_know_profiles(home: Path) -> None:
    from comic_upscale.commands.options import SUGGESTIONS

    own(home, "scans", "scale = 2\n")
    assert {"scans", "manga", "none"} <= set(SUGGESTIONS["profile"]())
    code, out, _ = invoke("cost", "pages", "--profile", "scans", "--model", "comic-fast", "--json")
    assert code == 0 and json.loads(out)
