"""Profiles: options of a job by their names, and rules for single pages, in a TOML file.

::

    description = "Our scans."
    base = "manga"
    scale = 2

    [[rule]]
    gray = false
    model = "comic-best"

The definitions of the options give the names, the bounds and the checks. An option of the command line wins over the
profile, for every page: rules no longer set it.
"""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import GROUPS, JobSettings
from comic_upscale.settings.option_json import values_from_json
from comic_upscale.settings.options import Definition, definitions
from comic_upscale.settings.processing import BOOK_FORMATS
from comic_upscale.settings.rules import Rule, read_rules

NONE = "none"
"""Names no profile."""

DEFAULT = "default"
"""The profile of a user that counts where no other does."""

PROJECT_FILE = "comic-upscale.toml"
"""A profile that counts because of its place: beside the input, or in the current folder."""

NOT_WHERE_FOUND = (
    "backend", "engine_options", "overwrite", "replace_sources", "max_pixels", "max_members", "max_unpacked",
    "max_ratio",
)  # fmt: skip
"""Options that only a profile that the user named may set. They run programs, replace files or lift limits, and a
folder with a profile in it may come from a stranger."""

MOST_BASES = 8
"""The most profiles that build on each other."""

_OWN = ("description", "base", "rule")
_DEPENDENT: Mapping[str, tuple[str, ...]] = {
    "format": ("quality", "png_level"),
    "model": ("denoise",),
    "backend": ("model", "denoise", "engine_options"),
    "gate": ("strict",),
}
"""Options that mean something only together with another one, and do not outlive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile, together with those that it builds on."""

    name: str
    """The name by which a job records it."""
    origin: str
    """``built-in``, or the path of its file."""
    description: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Options of a job by name, with the values that `JobSettings` takes."""
    rules: tuple[Rule, ...] = ()
    """Those of its base first."""


FindBase = Callable[[str, tuple[str, ...]], Profile]
"""Returns the profile with a name, given the names of the profiles that build on it."""


def built_in_names() -> tuple[str, ...]:
    """Return the names of the profiles of this package, sorted."""
    files = importlib.resources.files("comic_upscale.settings") / "profile_files"
    return tuple(sorted(each.name.removesuffix(".toml") for each in files.iterdir()))


@cache
def built_in(name: str) -> Profile:
    """Return a profile of this package.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in built_in_names():
        raise KeyError(name)
    file = importlib.resources.files("comic_upscale.settings") / "profile_files" / f"{name}.toml"

    def find(base: str, _users: tuple[str, ...]) -> Profile:
        return built_in(base)

    return read_profile(file.read_text(encoding="utf-8"), name=name, origin="built-in", find_base=find)


def read_profile(
    text: str,
    *,
    name: str,
    origin: str,
    find_base: FindBase,
    users: tuple[str, ...] = (),
    locate: Callable[[str], str] = str,
    was_named: bool = True,
) -> Profile:
    """Read a profile.

    Args:
        text: the TOML file.
        name: as in `Profile`.
        origin: as in `Profile`.
        find_base: finds the profile that it builds on.
        users: names of the profiles that build on this one.
        locate: returns the name or the path of a model as a run finds it: paths are relative to the file.
        was_named: whether the user named the profile, or it was found beside the input.

    Raises:
        SettingsError: it is no profile. The message names the file and the option.
    """
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the profile {origin} is not TOML: {error}") from None
    try:
        return _read(record, name, origin, find_base, users, locate, was_named=was_named)
    except SettingsError as error:
        where = origin if origin != "built-in" else name
        text = re.sub(r"\b(?:processing|run|resources)\.", "", str(error))
        raise SettingsError(
            text if text.startswith("the profile ") else f"the profile {where}: {text}"
        ) from None


def _read(
    record: Mapping[str, Any],
    name: str,
    origin: str,
    find_base: FindBase,
    users: tuple[str, ...],
    locate: Callable[[str], str],
    *,
    was_named: bool,
) -> Profile:
    for key in ("description", "base"):
        if not isinstance(record.get(key, ""), str):
            raise SettingsError(f"{key} must be text, not {record[key]!r}")
    base = Profile(name="", origin="")
    if "base" in record:
        users = (*users, name)
        if len(users) > MOST_BASES:
            raise SettingsError(f"more than {MOST_BASES} profiles build on each other: {', '.join(users)}")
        base = find_base(record["base"], users)
    own = _values({key: value for key, value in record.items() if key not in _OWN})
    for option in NOT_WHERE_FOUND:
        if option in own and not was_named:
            raise SettingsError(
                f"{_written(option)} may run programs, replace files or lift limits, so it counts only in a profile "
                f"that you name: --profile {origin}"
            )
    rules = read_rules(record.get("rule", ()), JobSettings)
    if isinstance(own.get("model"), str):
        own["model"] = locate(own["model"])
    if isinstance(own.get("face_model"), Path):
        own["face_model"] = Path(locate(str(own["face_model"])))
    rules = tuple(
        rule.changed(model=locate(rule.changes["model"])) if "model" in rule.changes else rule
        for rule in rules
    )
    kept, of_base = _without(base.values, base.rules, own)
    return Profile(
        name=name,
        origin=origin,
        description=record.get("description", base.description),
        values={**kept, **own},
        rules=(*of_base, *rules),
    )


def with_profile(profile: Profile, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job: those of a profile, and those given beside it, which win.

    A profile's option that means nothing without another one, such as the quality of its format, does not count where
    that other one is given. Its format does not count where a book is asked for that does not take it, and its folder
    in place of a volume not where originals are replaced.

    Args:
        profile: the profile.
        given: options by name.
    """
    values, rules = _without(profile.values, profile.rules, given)
    return {**values, **({"rules": rules} if rules else {}), **given, "profile": profile.name}


def _without(
    values: Mapping[str, Any], rules: Sequence[Rule], given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Rule, ...]]:
    """Return the options and rules that still count beside others that win."""
    out = {
        *given,
        *(name for each in given for name in _DEPENDENT.get(each, ())),
        *_excluded(values, given),
    }
    kept = (rule.without(tuple(out)) for rule in rules)
    return (
        {name: value for name, value in values.items() if name not in out},
        tuple(rule for rule in kept if rule is not None),
    )


def _excluded(values: Mapping[str, Any], given: Mapping[str, Any]) -> set[str]:
    """Return the options of a profile that the given ones exclude, and whose defaults serve as well."""
    out: set[str] = set()
    formats = BOOK_FORMATS.get(given.get("archive_output", ""))
    if formats is not None and values.get("format", "auto") not in (*formats, "auto"):
        out.update(("format", *_DEPENDENT["format"]))
    if given.get("replace_sources") and values.get("archive_output") == "folder":
        out.add("archive_output")
    return out


@cache
def _known() -> Mapping[str, tuple[Definition, Definition | None]]:
    """Return, by each name of an option in a profile, the option, and its part if the name is that of a part."""
    found: dict[str, tuple[Definition, Definition | None]] = {}
    for option in definitions(JobSettings):
        if option.group.name in GROUPS and option.name != "rules":
            for part in option.parts:
                found[_plain(part.flag)] = (option, part)
                found.setdefault(part.name, (option, part))
            found[option.name] = (option, None)
            found.setdefault(_plain(option.flag), (option, None))
    return found


def _written(name: str) -> str:
    """Return the name of an option as the author of a profile writes it."""
    option, _ = _known()[name]
    return _plain(option.flag)


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of options by name.

    Raises:
        SettingsError: an option is unknown or given twice, or a value is not allowed.
    """
    values: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in record.items():
        if _plain(key) not in _known():
            raise SettingsError(f"there is no option {key!r}{_hint(key)}")
        option, part = _known()[_plain(key)]
        if part is not None:
            parts.setdefault(option.name, {})[part.name] = value
        elif option.name in values:
            raise SettingsError(f"{key} is given twice")
        else:
            values |= values_from_json(JobSettings, {option.name: value})
    for name, given in parts.items():
        if name in values:
            raise SettingsError(f"{name} and {next(iter(given))} exclude each other: give one of them")
        option = next(each for each, _ in _known().values() if each.name == name)
        assert option.opt.parts is not None and option.opt.join is not None
        values[name] = option.opt.join(values_from_json(option.opt.parts, given))
    return values


def _hint(key: str) -> str:
    import difflib

    if _plain(key) in ("rules", "input", "output", "ledger", "profile"):
        what = "[[rule]] has rules" if _plain(key) == "rules" else "it belongs on the command line"
        return f" in a profile: {what}"
    found = difflib.get_close_matches(_plain(key), [*_known(), *_OWN], 1)
    return f": did you mean {found[0]!r}?" if found else ": `comic-upscale run --help` lists the options"
