"""Rules: settings of single pages, by what a page is. A profile writes them as ``[[rule]]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from comic_upscale.errors import SettingsError
from comic_upscale.settings.option_json import in_program_words, to_json, values_from_json
from comic_upscale.settings.options import Group, Opt, Options, as_json_value, check, definitions, require

SETTABLE = ("model", "denoise", "levels", "neutral_paper", "quality", "format")
"""The processing options that a rule may set."""

MOST_RULES = 64
"""The most rules of a job: each of them is checked for every page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The conditions of a rule. A page must meet all that are given."""

    GROUP: ClassVar[Group] = Group("", "always")

    gray: Annotated[
        bool | None,
        Opt("Whether the page has no colour. With --neutral-paper, the colour of the paper does not count."),
    ] = None
    min_width: Annotated[int | None, Ge(1), Opt("Pixels that the page is wide, at least.")] = None
    max_width: Annotated[int | None, Ge(1), Opt("Pixels that the page is wide, at most.")] = None
    min_height: Annotated[int | None, Ge(1), Opt("Pixels that the page is high, at least.")] = None
    max_height: Annotated[int | None, Ge(1), Opt("Pixels that the page is high, at most.")] = None
    min_jpeg_quality: Annotated[
        int | None, Ge(1), Le(100), Opt("The page is a JPEG of this quality or a better one.")
    ] = None
    max_jpeg_quality: Annotated[
        int | None, Ge(1), Le(100), Opt("The page is a JPEG of this quality or a worse one.")
    ] = None
    path: Annotated[
        tuple[str, ...] | None,
        Opt("Patterns as in .gitignore for the path of the page in the input, that of its volume included."),
    ] = None

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        for least, most in (
            ("min_width", "max_width"),
            ("min_height", "max_height"),
            ("min_jpeg_quality", "max_jpeg_quality"),
        ):
            low, high = getattr(self, least), getattr(self, most)
            require(low is None or high is None or low <= high, f"{least} {low} is above {most} {high}")
        require(
            self.path is None or (bool(self.path) and all(each.strip() for each in self.path)),
            "path must be patterns that are not empty",
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for the pages that meet all conditions."""

    when: Conditions
    then: tuple[tuple[str, Any], ...]
    """(option, value) pairs, sorted by option; options of `SETTABLE`, at least one."""

    @property
    def changes(self) -> dict[str, Any]:
        """The options by name."""
        return dict(self.then)

    def changed(self, **changes: Any) -> Rule:
        """Return the rule with other values of some of its options."""
        return replace(self, then=tuple(sorted({**self.changes, **changes}.items())))

    def without(self, names: Sequence[str]) -> Rule | None:
        """Return the rule without some options; None if nothing is left."""
        then = tuple((name, value) for name, value in self.then if name not in names)
        return replace(self, then=then) if then else None

    def __str__(self) -> str:
        """Return the rule for display: ``gray, min_height 1200: levels auto``."""
        when = [
            name if value is True else f"not {name}" if value is False else f"{name} {_shown(value)}"
            for name, value in to_json(self.when).items()
            if value is not None
        ]
        then = [f"{name} {_shown(value)}" for name, value in self.then]
        return f"{', '.join(when) or 'every page'}: {', '.join(then)}"


def _shown(value: object) -> str:
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def write_rules(rules: Sequence[Rule], options: type[Options]) -> list[dict[str, Any]]:
    """Return rules as JSON: an object for each, with its conditions and its options together.

    Args:
        rules: the rules.
        options: `ProcessingSettings`, whose options the rules set.
    """
    known = {definition.name: definition for definition in definitions(options)}
    return [
        {
            **{name: value for name, value in to_json(rule.when).items() if value is not None},
            **{name: as_json_value(known[name], value) for name, value in rule.then},
        }
        for rule in rules
    ]


def read_rules(value: object, options: type[Options]) -> tuple[Rule, ...]:
    """Read JSON that `write_rules` wrote, or the ``[[rule]]`` tables of a profile.

    Raises:
        SettingsError: it is something else. The message has the number of the rule.
    """
    if isinstance(value, tuple) and all(isinstance(each, Rule) for each in value):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, Mapping) for each in value):
        raise SettingsError("rules must be a list of tables, each with conditions and options by name")
    require(len(value) <= MOST_RULES, f"there are {len(value)} rules, more than {MOST_RULES}")
    return tuple(
        _numbered(number, partial(_read_rule, each, options)) for number, each in enumerate(value, start=1)
    )


def check_rules(rules: object, check_page: Callable[[Mapping[str, Any]], object]) -> None:
    """Check that the settings of each rule go with those of the job.

    Args:
        rules: of the job.
        check_page: makes the settings of a page from the options that a rule changes, and raises if it cannot.

    Raises:
        SettingsError: a rule has an impossible value.
    """
    if not isinstance(rules, tuple) or not all(isinstance(rule, Rule) for rule in rules):
        raise SettingsError("rules must be a tuple of rules")
    for number, rule in enumerate(rules, start=1):
        _numbered(number, partial(_check_format, rule))
        _numbered(number, partial(check_page, rule.changes))


def _numbered(number: int, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except SettingsError as error:
        raise SettingsError(f"rule {number}: {error}") from None


def _read_rule(record: Mapping[str, Any], options: type[Options]) -> Rule:
    known = {definition.name for definition in definitions(Conditions)}
    record = {str(name).replace("-", "_"): value for name, value in record.items()}
    for name in record:
        require(name in known or name in SETTABLE, f"a rule has no {name!r}{_near(name, known)}")
    when = {name: value for name, value in record.items() if name in known}
    if isinstance(when.get("path"), str):
        when["path"] = [when["path"]]
    then = {name: value for name, value in record.items() if name in SETTABLE}
    require(bool(then), f"it sets nothing: give it one of {', '.join(SETTABLE)}")
    values = values_from_json(options, then)
    try:
        conditions = Conditions(**values_from_json(Conditions, when))
    except SettingsError as error:
        raise SettingsError(in_program_words(str(error), Conditions)) from None
    rule = Rule(conditions, tuple(sorted(values.items())))
    _check_format(rule)
    return rule


def _check_format(rule: Rule) -> None:
    others = {name for name, value in to_json(rule.when).items() if value is not None} - {"path"}
    require(
        "format" not in rule.changes or not others,
        "a rule with a format can only have a path: the format decides the name of an output, before a page is read",
    )


def _near(name: str, known: set[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, [*known, *SETTABLE], 1)
    hint = f": did you mean {found[0]!r}?" if found else f": it has {', '.join(sorted(known))}"
    return f"{hint} and sets {', '.join(SETTABLE)}" if not found else hint
