"""What is derived from one definition of an option: checks, names, JSON both ways, fingerprint, the remote record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import FailureLimit, JobSettings
from comic_upscale.settings.option_json import from_json, in_program_words, to_json
from comic_upscale.settings.options import Group, Opt, check, definitions, fingerprint_parts, pick, sent_names
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.resources import ResourceSettings
from comic_upscale.settings.run import RunSettings
from comic_upscale.settings.sizes import Bounds, Fit, Print, Scale, Size, Width


def settings(**changes: Any) -> JobSettings:
    return JobSettings(input=Path("/pages"), output=Path("/out"), **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coffee:
    """Options of nobody's."""

    GROUP: ClassVar[Group] = Group("coffee", sent="always")

    strength: Annotated[int, Interval(ge=1, le=5), Opt("How strong.", fingerprint="always")] = 3
    milk: Annotated[float | None, Ge(0), Lt(1), Opt("Share of milk.", fingerprint="if-changed")] = None
    sugar: Annotated[float, Gt(0), Le(9), Opt("Grams.")] = 1.0
    bean: Annotated[Literal["arabica", "robusta"], Opt("Which.", flags=("--bean", "-b"))] = "arabica"
    cups: Annotated[int | None, Ge(2), Opt("How many.", default_text="auto", sent="if-given")] = None
    cup_size: Annotated[int, Opt("In millilitres.", sent="never")]

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 6}, "--strength must be between 1 and 5, not 6"),
        ({"milk": 1.0}, "--milk must be at least 0 and below 1, not 1"),
        ({"milk": float("nan")}, "--milk must be a finite number, at least 0 and below 1, not nan"),
        ({"sugar": 0.0}, "--sugar must be above 0 and at most 9, not 0"),
        ({"bean": "tea"}, "--bean must be one of arabica, robusta, not 'tea'"),
        ({"cups": 1}, "--cups must be auto or at least 2, not 1"),
        ({"strength": None}, "--strength must be given, not None"),
        ({"strength": "strong"}, "--strength must be a whole number, not 'strong'"),
    ],
    ids=str,
)
def test_bounds_and_choices_are_checked_in_words(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Coffee(cup_size=100, **wrong)
    assert str(raised.value) == message


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_amounts_of_money_are_finite_and_not_negative(wrong: float) -> None:
    with pytest.raises(SettingsError, match=r"^--price must be a number of dollars, at least 0, not "):
        settings(price=wrong)


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_every_number_is_finite(wrong: float) -> None:
    floats = [each for each in definitions(JobSettings) if float in (each.kind, each.item_kind)]
    assert {"max_ratio", "price", "denoise"} <= {each.name for each in floats}
    for each in floats:
        with pytest.raises(SettingsError, match=f"^{each.flag} must be "):
            settings(**{each.name: wrong})
    with pytest.raises(SettingsError, match=r"^--max-ratio must be a finite number, at least 1, not "):
        settings(max_ratio=wrong)


def test_who_asks_decides_how_an_option_is_called() -> None:
    with pytest.raises(SettingsError, match=r"^--pdf-dpi must be between 36 and 1200, not 5$"):
        settings(pdf_dpi=5)
    with pytest.raises(SettingsError, match=r"^processing\.pdf_dpi must be between 36 and 1200, not 5$"):
        JobSettings.from_json('{"input": "/pages", "output": "/out", "pdf_dpi": 5}')
    with pytest.raises(SettingsError, match=r"choose processing\.format webp or jpeg$"):
        JobSettings.from_json('{"input": "/pages", "output": "/out", "quality": 5}')
    with pytest.raises(SettingsError, match=r"^processing\.size \(width\) must be between 1"):
        JobSettings.from_json('{"input": "/pages", "output": "/out", "size": "width 0"}')
    with pytest.raises(SettingsError, match=r"^run\.max_failures takes a number"):
        JobSettings.from_json('{"input": "/pages", "output": "/out", "max_failures": "many"}')
    with pytest.raises(SettingsError, match=r"choose another output, or"):
        JobSettings.from_json('{"input": "/pages", "output": "/pages"}')
    message = "--max-cost needs --price; --no-such-thing stays"
    assert in_program_words(message, JobSettings) == "run.max_cost needs run.price; --no-such-thing stays"


def test_a_field_without_one_opt_is_a_mistake_of_ours() -> None:
    @dataclass
    class Bare:
        number: int = 1

    @dataclass
    class Twice:
        number: Annotated[int, Opt("a"), Opt("b")] = 1

    @dataclass
    class Made:
        number: Annotated[int, Opt("a")] = field(default_factory=int)

    @dataclass
    class Unchecked:
        number: Annotated[int, MultipleOf(2), Opt("a")] = 2

    for wrong in (Bare, Twice, Made, Unchecked):
        with pytest.raises(TypeError, match="number"):
            definitions(wrong)


# JSON


formats = st.sampled_from(["auto", "png", "webp", "jpeg", "avif", "jxl", "tiff"])
sizes: st.SearchStrategy[Size] = st.sampled_from(
    [Scale(2.5), Scale(1.0000001), Width(2000), Fit(1, 2), Print(169.9261234567, 260, 300, 3.175)]
)
many_settings = st.builds(
    settings,
    size=sizes,
    skip_larger_than=st.none() | st.builds(Bounds, st.integers(1, 9999), st.integers(1, 9999)),
    model=st.text(max_size=5),
    denoise=st.none() | st.floats(0, 1),
    format=formats,
    gray=st.sampled_from([None, "auto", "keep", "off"]),
    gate=st.just(True),
    strict=st.booleans(),
    batch=st.none() | st.integers(1, 99),
    tile=st.none() | st.integers(64, 999),
    workers=st.integers(1, 64),
    max_failures=st.none() | st.builds(FailureLimit, count=st.integers(0, 99)) | st.just(FailureLimit.parse("7%")),
    max_unpacked=st.integers(1, 1 << 40),
    engine_options=st.dictionaries(st.sampled_from(["threads", "command"]), st.text(max_size=3), max_size=2),
    max_ratio=st.floats(1, 1e9),
    price=st.none() | st.floats(0, 1e6),
    ledger=st.none() | st.just(Path("/l.sqlite3")),
    weights_folders=st.lists(st.sampled_from([Path("w"), Path("/x y")]), max_size=2).map(tuple),
)  # fmt: skip


@given(many_settings)
def test_settings_are_the_same_once_written_and_read(made: JobSettings) -> None:
    assert JobSettings.from_json(made.as_json()) == made
    record = json.loads(json.dumps(to_json(made.processing)))
    assert from_json(ProcessingSettings, record) == made.processing


def test_groups_may_stand_in_objects_of_their_own() -> None:
    nested = {
        "input": "/pages", "output": "/out", "processing": {"size": "width 2000", "format": "webp"},
        "run": {"max_failures": "5%", "max_unpacked": "500M"}, "resources": {"batch": "auto", "workers": 2},
    }  # fmt: skip
    made = JobSettings.from_json(json.dumps(nested))
    assert (made.size, made.format, made.workers, made.batch) == (Width(2000), "webp", 2, None)
    assert (made.max_failures, made.max_unpacked) == (FailureLimit(share=0.05), 500 << 20)


OLD_LEDGER = (
    '{"input": "/pages", "output": "/out", "scale": 2.0, "size": null, "skip_larger_than": "20x30", "model": "auto", '
    '"denoise": null, "format": "png", "quality": null, "png_level": null, "gray": null, "icc": "keep", "animated": '
    '"first", "backend": "torch", "device": "auto", "precision": "auto", "batch": null, "tile": null, "workers": 4, '
    '"max_pixels": 89478485, "max_failures": "5%", "sidecars": "copy", "copy_others": false, "overwrite": false, '
    '"retry_failed": false, "gate": true, "strict": false, "archive_output": "cbz", "keep_original_on_failure": false, '
    '"pdf_dpi": 150, "max_members": 20000, "max_unpacked": 17179869184, "max_ratio": 200.0, "ledger": null, "price": '
    'null, "max_cost": null, "weights_folders": ["/w"], "weights_cache": null}'
)
"""As the version before wrote it into its ledger."""


def test_what_an_earlier_version_wrote_is_read() -> None:
    assert JobSettings.from_json(OLD_LEDGER) == settings(
        scale=2.0,
        skip_larger_than=Bounds(20, 30),
        max_failures=FailureLimit(share=0.05),
        weights_folders=(Path("/w"),),
    )
    by_print = OLD_LEDGER.replace(
        '"scale": 2.0, "size": null', '"scale": null, "size": "print 170x260 mm at 300 dpi, bleed 3 mm"'
    )
    assert JobSettings.from_json(by_print).size == Print(170, 260, 300, 3)
    # Of a version that knew fewer options.
    assert JobSettings.from_json('{"input": "/pages", "output": "/out", "scale": 2.5}') == settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no.* JSON object"),
        ('{"output": "/out"}', "^input is missing"),
        ('{"input": "/pages", "output": "/out", "pdf_dip": 1}', "no option 'pdf_dip': did you mean 'pdf_dpi'"),
        ('{"input": "/pages", "output": "/out", "pdf_dpi": "150"}', "processing.pdf_dpi must be a whole number"),
        ('{"input": "/pages", "output": "/out", "pdf_dpi": true}', "whole number, not True"),
        ('{"input": "/pages", "output": "/out", "pdf_dpi": 150.0}', "whole number, not 150.0"),
        ('{"input": "/pages", "output": "/out", "pdf_dpi": null}', "processing.pdf_dpi must not be null"),
        ('{"input": "/pages", "output": "/out", "gate": 1}', "processing.gate must be true or false, not 1"),
        ('{"input": "/pages", "output": "/out", "max_ratio": "2"}', "run.max_ratio must be a number"),
        ('{"input": "/pages", "output": "/out", "size": 2}', "processing.size must be text, not 2"),
        ('{"input": "/pages", "output": "/out", "format": ["png"]}', "processing.format must be text"),
        ('{"input": "/pages", "output": "/out", "weights_folders": "w"}', "weights_folders must be a list of paths"),
        ('{"input": "/pages", "output": "/out", "weights_folders": [1]}', "weights_folders must be a path"),
        ('{"input": "", "output": "/out"}', "input must be a path"),
        ('{"input": "/pages", "output": "/out", "engine_options": 5}', "engine options must be pairs"),
        ('{"input": "/pages", "output": "/out", "backend": "caffe"}', "processing.backend must be one of torch"),
        ('{"input": "/pages", "output": "/out", "scale": 2, "size": "width 9"}', "give one"),
        ('{"input": "/pages", "output": "/out", "scale": "2"}', "must be a number"),
        ('{"input": "/pages", "output": "/out", "icc": "srgb", "processing": {"icc": "keep"}}', "icc is given twice"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        JobSettings.from_json(text)
    assert "--" not in str(raised.value)


def test_a_record_names_options_by_its_keys_only() -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(SettingsError) as raised:
            JobSettings.from_json(json.dumps({"input": "/pages", "output": "/out", **changes}))
        return str(raised.value)

    assert refused(strict=True, gate=False).endswith("leave out processing.gate = false")
    assert refused(engine="onnx") == "there is no option 'engine': did you mean 'backend'?"
    assert refused(width=100) == "there is no option 'width': did you mean 'size'?"
    assert refused(processing=3) == "processing must be an object with options by name"
    both = "--quality and --format"
    assert in_program_words(both, JobSettings, {"quality"}) == "processing.quality and --format"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pdf_dpi": 150.5}, "--pdf-dpi must be a whole number, not 150.5"),
        ({"workers": True}, "--workers must be a whole number, not True"),
        ({"tile": 100.5}, "--tile must be auto or a whole number, not 100.5"),
        ({"overwrite": "no"}, "--overwrite must be true or false, not 'no'"),
        ({"device": 3}, "--device must be text, not 3"),
        ({"model": Path("a.pth")}, "--model must be text, not a.pth"),
        ({"denoise": True}, "--denoise must be a number, not True"),
        ({"max_failures": "5%"}, "--max-failures must be a FailureLimit, not '5%'"),
        ({"skip_larger_than": 100}, "--skip-larger-than must be a Bounds, not 100"),
        ({"scale": "2"}, "--scale must be a number, not '2'"),
        ({"weights_folders": ["w"]}, "--weights-dir must be a tuple of paths, not ['w']"),
        ({"weights_cache": "w"}, "--weights-cache must be a path, not 'w'"),
        ({"ledger": "l"}, "--ledger must be a path, not 'l'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_refused_where_it_is_given(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(**wrong)
    assert str(raised.value) == message
    with pytest.raises(SettingsError, match=r"^--width must be a whole number of pixels, not 20\.5$"):
        Width(20.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [("max_failures", 25, "25"), ("skip_larger_than", 3000, "3000"), ("batch", 4, "4")],
)
def test_json_takes_a_number_where_the_command_line_takes_it(name: str, number: int, text: str) -> None:
    def read(value: object) -> object:
        return getattr(JobSettings.from_json(json.dumps({"input": "/a", "output": "/b", name: value})), name)

    assert read(number) == read(text)
    for wrong in (-number, True, [number], 0.5):
        with pytest.raises(SettingsError, match=rf"\.{name} "):
            read(wrong)


@pytest.mark.parametrize("name", ["scale", "denoise", "max_ratio", "price"])
def test_a_whole_number_beyond_all_floats_is_refused(name: str) -> None:
    huge = 10**400
    with pytest.raises(SettingsError, match=" must be a number, not 1000"):
        settings(**{name: huge})
    with pytest.raises(SettingsError, match=rf"\.{name} must be a number, not 1000"):
        JobSettings.from_json(f'{{"input": "/pages", "output": "/out", "{name}": {huge}}}')


def test_settings_that_are_accepted_are_read_back_from_their_json() -> None:
    made = settings(weights_folders=[Path("/a"), Path("/b")])
    assert JobSettings.from_json(made.as_json()).weights_folders == (Path("/a"), Path("/b"))


def test_a_type_that_works_nowhere_is_a_mistake_of_ours() -> None:
    for kind in (list[str], dict[str, str], tuple[int, str], Literal[1, "a"], Scale):
        wrong = make_dataclass("Wrong", [("x", Annotated[kind, Opt("Wrong.")], None)])
        with pytest.raises(TypeError, match="x has a type that needs a parse and a write"):
            definitions(wrong)


def test_a_whole_number_is_a_number() -> None:
    made = JobSettings.from_json('{"input": "/pages", "output": "/out", "denoise": 1}')
    assert made.fingerprint("w") == settings(denoise=1.0).fingerprint("w")


# Groups, and what is made of the definitions


def test_a_job_is_its_three_groups_and_gives_them_back() -> None:
    made = settings(scale=3, format="webp", max_cost=1.0, price=0.5, device="cpu", workers=7)
    assert made.processing == ProcessingSettings(scale=3, format="webp")
    assert made.run == RunSettings(max_cost=1.0, price=0.5)
    assert made.resources == ResourceSettings(device="cpu", workers=7)
    for group, change in ((ProcessingSettings, {"tile": 1}), (RunSettings, {"format": "png"})):
        with pytest.raises(TypeError):
            group(**change)
    for group, change in (
        (ProcessingSettings, {"pdf_dpi": 1}),
        (RunSettings, {"price": -1.0}),
        (ResourceSettings, {"tile": 1}),
    ):
        with pytest.raises(SettingsError):
            group(**change)


def test_every_option_of_a_job_is_in_one_group_and_says_what_it_is() -> None:
    for definition in definitions(JobSettings):
        assert definition.opt.help.endswith("."), definition.name
        assert definition.key in (f"{definition.group.name}.{definition.name}", definition.name)
    own = {each.name for each in definitions(JobSettings) if not each.group.name}
    assert own == {"input", "output", "selection", "profile", "ledger", "weights_folders", "weights_cache"}


def test_fingerprint_rules() -> None:
    parts = fingerprint_parts(Coffee(cup_size=1, sugar=2.0), {})
    assert parts == {"strength": 3}
    assert fingerprint_parts(Coffee(cup_size=1, milk=0.5), {}) == {"strength": 3, "milk": 0.5}
    legacy = {"strength": lambda value: {"power": value * 2}}
    assert fingerprint_parts(Coffee(cup_size=1, strength=4), legacy) == {"power": 8}


def test_what_a_remote_machine_is_told() -> None:
    assert sent_names(Coffee, "always") == {"strength", "milk", "sugar", "bean"}
    assert sent_names(Coffee, "if-given") == {"cups"}
    assert sent_names(JobSettings, "if-given") == {"device", "batch", "tile", "workers"}
    kept = {
        "input", "output", "ledger", "weights_folders", "weights_cache", "model", "face_model", "face_strength",
        "sidecars", "copy_others",
        "archive_output", "keep_original_on_failure", "pdf_dpi", "max_members", "max_unpacked", "max_ratio",
        "overwrite", "retry_failed", "max_failures", "selection", "profile", "right_to_left", "max_volume_size",
        "replace_sources",
    }  # fmt: skip
    assert sent_names(JobSettings, "never") == kept


def test_some_options_for_another_command() -> None:
    picked = pick(JobSettings, "input", "size.scale", "format", help={"format": "F.", "size.scale": "S."})
    assert [each.name for each in picked] == ["input", "size", "format"]
    assert [part.name for part in picked[1].parts] == ["scale"]
    assert (picked[0].is_required, picked[2].opt.help, picked[1].parts[0].opt.help) == (False, "F.", "S.")
    assert [len(each.parts) for each in pick(JobSettings, "size", "model")] == [10, 0]


def test_no_field_is_defined_twice_in_the_groups() -> None:
    names = [
        field.name for group in (ProcessingSettings, RunSettings, ResourceSettings) for field in fields(group)
    ]
    assert len(names) == len(set(names))
    assert replace(settings(), gate=False).processing.gate is False
