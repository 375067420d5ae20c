"""An option is defined once, as a field of a frozen dataclass. Everything else is derived from that field.

::

    pdf_dpi: Annotated[int, Ge(36), Le(1200), Opt("Dots per inch for PDF pages.", fingerprint="if-changed")] = 150

The type gives the kind of value: ``bool``, ``int``, ``float``, ``str`` or ``Path``; a ``Literal`` of texts or whole
numbers, which are the choices; or a ``tuple[..., ...]`` of one of these, whose flag can be repeated. Each of them may
also be None, and any other type needs a ``parse`` and a ``write``. ``annotated_types`` give the bounds, and `Opt` gives
the rest. The checks, JSON in both directions, the parts of the fingerprint, the record for a remote machine and
the options of the command line (``commands/options.py``) are derived from it.

A message names an option as its reader knows it: ``--pdf-dpi`` at a terminal, ``processing.pdf_dpi`` for a program
that called `from_json`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, Predicate, Unit

from comic_upscale.errors import SettingsError
from comic_upscale.settings.paths import path_text
from comic_upscale.settings.sizes import as_float

FingerprintRule = Literal["always", "if-changed", "never"]
"""When an option is part of the fingerprint. ``if-changed`` means only where it differs from its default, so that jobs
continue that began before the option existed."""

Sent = Literal["always", "if-given", "never"]
"""When an option is sent to a remote machine. ``if-given`` means only where the user gave it; otherwise the remote
machine uses its own default."""


@dataclass(frozen=True, slots=True)
class Group:
    """Options that belong together; a class of options names its own as ``GROUP``."""

    name: str
    """The name in JSON, such as ``processing``; empty for options outside of the groups."""
    sent: Sent
    """When its options are sent to a remote machine."""


class Options(Protocol):
    """A frozen dataclass whose fields each have an `Opt`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Options)


@dataclass(frozen=True, slots=True)
class Opt:
    """The definition of an option besides its type, bounds and default."""

    help: str
    """One to a few plain sentences, shown on the command line and read in the source."""
    flags: tuple[str, ...] = ()
    """The flags on the command line, such as ``("--scale", "-s")``. Default: the field's name. A bool whose default
    is True or None also gets a ``--no-`` flag."""
    metavar: str | None = None
    """The placeholder for the value in the help. Default: the choices, or the type."""
    default_text: str | None = None
    """The default in words, where the value itself is not readable: ``16G``, ``auto``."""
    panel: str | None = None
    """The heading in the help. Default: the general options."""
    fingerprint: FingerprintRule = "never"
    sent: Sent | None = None
    """When the option is sent to a remote machine. Default: as for the group."""
    parse: Callable[[str], Any] | None = None
    """Reads the value from text, for the command line and JSON; raises `SettingsError`."""
    write: Callable[[Any], Any] | None = None
    """Converts a value that is not JSON itself, mostly to the text that ``parse`` reads."""
    read: Callable[[Any], Any] | None = None
    """Reads the value from JSON that is neither text nor of the option's type; raises `SettingsError`."""
    parts: type | None = None
    """A dataclass of options that together replace this one on the command line."""
    join: Callable[[Mapping[str, Any]], Any] | None = None
    """Makes the value from the given ``parts``, by name."""
    on_command_line: bool = True
    environment: tuple[str, ...] = ()
    """Environment variables that set the option, besides ``COMIC_UPSCALE_`` and the option's name in capitals. Only
    `settings.environment` reads them."""
    secret: bool = False
    """Whether the value must not be shown. Its environment variable may have another beside it, with ``_FILE`` at the
    end, that names a file with the value."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One option, as read from its field."""

    name: str
    kind: Any
    """The type, without ``None`` and metadata."""
    nullable: bool
    """Whether None is allowed."""
    bounds: tuple[Any, ...]
    """Bounds from ``annotated_types``."""
    opt: Opt
    default: Any
    """``dataclasses.MISSING`` for a required option."""
    group: Group
    parts: tuple[Definition, ...] = ()
    """The options that replace it on the command line; empty where none do."""

    @property
    def flag(self) -> str:
        """The name at a terminal: ``--pdf-dpi``."""
        long = next((flag for flag in self.opt.flags if flag.startswith("--")), as_flag(self.name))
        return long.partition("/")[0]

    @property
    def declarations(self) -> tuple[str, ...]:
        """The flags as they are declared: ``("--gate/--no-gate", "-g")``."""
        declared = self.opt.flags or (self.flag,)
        if self.kind is not bool or self.default is False or any("/" in each for each in declared):
            return declared
        return tuple(
            f"{each}/{each.replace('--', '--no-', 1)}" if each.startswith("--") else each for each in declared
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags, those that turn it off included."""
        return tuple(flag for each in self.declarations for flag in each.split("/"))

    @property
    def off_flags(self) -> tuple[str, ...]:
        """The flags that turn it off: ``("--no-gate",)``."""
        return tuple(each.partition("/")[2] for each in self.declarations if "/" in each)

    @property
    def key(self) -> str:
        """The name for a program: ``processing.pdf_dpi``."""
        return f"{self.group.name}.{self.name}" if self.group.name else self.name

    @property
    def range(self) -> str | None:
        """The range of values in words; None if there are no bounds, or only a lower bound of 0 or 1."""
        trivial = all(
            isinstance(bound, Predicate | Unit) or (isinstance(bound, Ge) and bound.ge in (0, 1))
            for bound in self.bounds
        )
        return None if trivial else _in_words(self.bounds)

    @property
    def choices(self) -> tuple[str, ...] | tuple[int, ...]:
        """The allowed values; empty where the type is not a ``Literal``."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def choice_texts(self) -> tuple[str, ...]:
        """The allowed values as text."""
        return tuple(str(choice) for choice in self.choices)

    @property
    def item_kind(self) -> Any:
        """The type of each value of a tuple; None where the option takes one value."""
        return get_args(self.kind)[0] if get_origin(self.kind) is tuple else None

    @property
    def sent(self) -> Sent:
        """When the option is sent to a remote machine."""
        return self.group.sent if self.opt.sent is None else self.opt.sent

    @property
    def is_required(self) -> bool:
        """Whether the option has no default."""
        return self.default is MISSING

    def problem(self, value: Any) -> str | None:
        """Return the problem with a value, such as ``must be at least 1``; None if there is none."""
        if value is None:
            return None if self.nullable else "must be given"
        if self.choices:
            allowed = any(type(value) is type(choice) and value == choice for choice in self.choices)
            return None if allowed else f"must be one of {', '.join(self.choice_texts)}"
        if not _is_of_kind(value, self.kind):
            return f"must be {self._none()}{_kind_in_words(self.kind)}"
        if not _is_finite(value):
            words = _in_words(self.bounds)
            if not words.startswith("a number"):
                words = f"a finite number, {words}".removesuffix(", ")
            return f"must be {self._none()}{words}"
        if all(_holds(bound, value) for bound in self.bounds):
            return None
        return f"must be {self._none()}{_in_words(self.bounds)}"

    def choice(self, text: str) -> Any:
        """Return the choice that a text names, in any case; the text itself if it names none."""
        wanted = text.casefold()
        return next((choice for choice in self.choices if str(choice).casefold() == wanted), text)

    def similar(self, value: Any) -> str:
        """Return a question about the choice that a wrong value is like, for the end of a message; else nothing."""
        if not self.choices or not isinstance(value, str):
            return ""
        import difflib

        found = difflib.get_close_matches(value.casefold(), self.choice_texts, 1)
        return f": did you mean {found[0]}?" if found else ""

    def _none(self) -> str:
        return f"{self.opt.default_text} or " if self.nullable and self.opt.default_text else ""


KIND_WORDS: Mapping[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path",
}  # fmt: skip
SEVERAL_WORDS: Mapping[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}


_SIMPLE = (bool, int, float, str, Path)


def _is_finite(value: Any) -> bool:
    """Return whether a value has no infinite number and no NaN: JSON cannot hold them."""
    return all(
        not isinstance(each, float) or math.isfinite(each)
        for each in (value if isinstance(value, tuple) else (value,))
    )


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Return whether a value has the type of an option. A whole number is a number, and a bool is not a number."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return as_float(value) is not None
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if not isinstance(value, (tuple, list)):
            return False
        return item not in _SIMPLE or all(_is_of_kind(each, item) for each in value)
    return isinstance(value, kind)


def _kind_in_words(kind: Any) -> str:
    if kind in KIND_WORDS:
        return KIND_WORDS[kind]
    if get_origin(kind) is tuple:
        return f"a tuple of {SEVERAL_WORDS.get(get_args(kind)[0], 'values')}"
    return f"a {' or '.join(each.__name__ for each in get_args(kind) or (kind,))}"


def as_flag(name: str) -> str:
    """Return the command-line flag for a name: ``--pdf-dpi`` for ``pdf_dpi``."""
    return f"--{name.replace('_', '-')}"


@cache
def definitions(options: type[Options]) -> tuple[Definition, ...]:
    """Return the options of a dataclass, in the order of its fields.

    Raises:
        TypeError: a field is not an option.
    """
    hints = get_type_hints(options, include_extras=True)
    return tuple(
        _define(field, hints[field.name], _group(options, field.name))
        for field in dataclasses.fields(options)
    )


def pick(
    options: type[Options], *names: str, help: Mapping[str, str] | None = None, without: Collection[str] = ()
) -> tuple[Definition, ...]:
    """Return some options of a dataclass, for a command that shares them. None is required there or has a heading.

    Args:
        options: the dataclass.
        names: names of its options; ``size.scale`` is one part of ``size``.
        help: other help texts, by name, for options whose meaning differs in that command.
        without: names of parts that the command does not need.
    """

    def adapted(definition: Definition, name: str) -> Definition:
        opt = replace(definition.opt, panel=None, help=(help or {}).get(name, definition.opt.help))
        default = None if definition.is_required else definition.default
        return replace(definition, opt=opt, default=default, nullable=definition.nullable or default is None)

    known = {definition.name: definition for definition in definitions(options)}
    picked = []
    for name in names:
        whole, _, only = name.partition(".")
        definition = adapted(known[whole], whole)
        parts = [part for part in definition.parts if only in ("", part.name) and part.name not in without]
        picked.append(
            replace(definition, parts=tuple(adapted(part, f"{whole}.{part.name}") for part in parts))
        )
    return tuple(picked)


def _define(field: dataclasses.Field[Any], hint: Any, group: Group) -> Definition:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{field.name} has no Opt")
    whole, *metadata = get_args(hint)
    opts = [item for item in metadata if isinstance(item, Opt)]
    bounds = tuple(_flat(item for item in metadata if not isinstance(item, Opt)))
    if len(opts) != 1 or field.default_factory is not MISSING:
        raise TypeError(f"{field.name} needs one Opt and a plain default")
    if unknown := [bound for bound in bounds if not isinstance(bound, (Ge, Gt, Le, Lt, Predicate, Unit))]:
        raise TypeError(f"{field.name} has bounds that are not checked: {unknown}")
    alternatives = get_args(whole) if get_origin(whole) in (Union, types.UnionType) else (whole,)
    kinds = [kind for kind in alternatives if kind is not types.NoneType]
    kind = kinds[0] if len(kinds) == 1 else whole
    if not _is_supported(kind, opts[0]):
        raise TypeError(f"{field.name} has a type that needs a parse and a write: {kind}")
    return Definition(
        name=field.name,
        kind=kind,
        nullable=types.NoneType in alternatives,
        bounds=bounds,
        opt=opts[0],
        default=field.default,
        group=group,
        parts=() if opts[0].parts is None else definitions(opts[0].parts),
    )


def _is_supported(kind: Any, opt: Opt) -> bool:
    """Return whether an option of this type works on the command line and in JSON."""
    if kind in _SIMPLE or ((opt.parse or opt.parts) and opt.write):
        return True
    if get_origin(kind) is Literal:
        return {type(choice) for choice in get_args(kind)} in ({str}, {int})
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,) and get_args(kind)[0] in SEVERAL_WORDS


def _flat(metadata: Iterator[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, GroupedMetadata):
            yield from _flat(iter(item))
        else:
            yield item


def _group(options: type[Options], name: str) -> Group:
    """Return the group of the class that defines a field."""
    owner = next(base for base in options.__mro__ if name in inspect.get_annotations(base))
    group = getattr(owner, "GROUP", None)
    return group if isinstance(group, Group) else Group("", "never")


# Checks


def check(options: Options) -> None:
    """Check every option against its bounds and choices, and store each number of a float option as a float.

    Otherwise ``1`` from a program and ``1.0`` from the command line would be two values in JSON, and two fingerprints.

    Raises:
        SettingsError: a value is not allowed. The message names the option as at a terminal.
    """
    for definition, valid_default in _with_valid_defaults(type(options)):
        value = getattr(options, definition.name)
        if value is valid_default:
            continue
        problem = definition.problem(value)
        if problem is not None:
            raise SettingsError(f"{definition.flag} {problem}, not {shown(value)}{definition.similar(value)}")
        if (exact := _as_stored(definition, value)) is not value:
            object.__setattr__(options, definition.name, exact)


@cache
def _with_valid_defaults(options: type[Options]) -> tuple[tuple[Definition, Any], ...]:
    """Return each option with its default, which need not be checked again; with MISSING where that is not allowed."""

    def is_valid(definition: Definition) -> bool:
        default = definition.default
        return definition.problem(default) is None and repr(_as_stored(definition, default)) == repr(default)

    return tuple(
        (definition, definition.default if is_valid(definition) else MISSING)
        for definition in definitions(options)
    )


def _as_stored(definition: Definition, value: Any) -> Any:
    if value is None or float not in (definition.kind, definition.item_kind):
        return value
    return as_float(value) if definition.item_kind is None else tuple(map(as_float, value))


def require(condition: bool, message: str) -> None:
    """Raise a `SettingsError` with this message unless the condition holds."""
    if not condition:
        raise SettingsError(message)


def _holds(bound: Any, value: Any) -> bool:
    match bound:
        case Ge():
            return bool(value >= bound.ge)
        case Gt():
            return bool(value > bound.gt)
        case Le():
            return bool(value <= bound.le)
        case Lt():
            return bool(value < bound.lt)
        case Predicate():
            return bool(bound.func(value))
    return True


def _in_words(bounds: tuple[Any, ...]) -> str:
    """Return all bounds as one phrase: ``between 36 and 1200``."""
    low = next((bound for bound in bounds if isinstance(bound, (Ge, Gt))), None)
    high = next((bound for bound in bounds if isinstance(bound, (Le, Lt))), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"between {low.ge} and {high.le}"
    unit = next((f" of {bound.unit}" for bound in bounds if isinstance(bound, Unit)), "")
    number = f"a number{unit}, " if unit else ""
    words = []
    match low:
        case Ge():
            words.append(f"at least {low.ge}")
        case Gt():
            words.append(f"above {low.gt}")
    match high:
        case Le():
            words.append(f"at most {high.le}")
        case Lt():
            words.append(f"below {high.lt}")
    return (number + " and ".join(words)).removesuffix(", ")


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    return f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


# Fingerprint, groups


def as_json_value(definition: Definition, value: Any) -> Any:
    """Return the value of an option as it is written in JSON."""
    if value is None:
        return None
    if definition.opt.write is not None:
        return definition.opt.write(value)
    if isinstance(value, Path):
        return path_text(value)
    if isinstance(value, (tuple, list)):
        return [path_text(item) if isinstance(item, Path) else item for item in value]
    return value


_WORDS = {
    "true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def value_from_text(definition: Definition, text: str) -> Any:
    """Return the value of an option from text, such as a form field or an environment variable.

    Raises:
        SettingsError: the text is not such a value. The message names the option as at a terminal.
    """
    if definition.opt.parse is not None:
        return definition.opt.parse(text)
    text = text.strip()
    try:
        if definition.kind is bool:
            return _WORDS[text.lower()]
        if definition.kind in (int, float):
            return definition.kind(text)
    except (KeyError, ValueError):
        raise SettingsError(
            f"{definition.flag} must be {KIND_WORDS[definition.kind]}, not {text!r}"
        ) from None
    if definition.choices:
        return definition.choice(text)
    if definition.kind is Path:
        if not text:
            raise SettingsError(f"{definition.flag} must be a path, not empty")
        return Path(text)
    if get_origin(definition.kind) is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    return text


def fingerprint_parts(
    options: Options, legacy: Mapping[str, Callable[[Any], Mapping[str, object]]]
) -> dict[str, object]:
    """Return the parts of the fingerprint that come from options, by the rule of each option.

    Args:
        options: the options of a job.
        legacy: functions by option name, for options whose part differs from their name and JSON.
    """
    parts: dict[str, object] = {}
    for definition in definitions(type(options)):
        value = getattr(options, definition.name)
        if definition.name in legacy:
            parts.update(legacy[definition.name](value))
        elif definition.opt.fingerprint == "always" or (
            definition.opt.fingerprint == "if-changed" and value != definition.default
        ):
            parts[definition.name] = as_json_value(definition, value)
    return parts


def sent_names(options: type[Options], sent: Sent) -> frozenset[str]:
    """Return the names of the options that are sent to a remote machine ``always``, ``if-given`` or ``never``."""
    return frozenset(definition.name for definition in definitions(options) if definition.sent == sent)


def slice_of(options: Options, group: type[T]) -> T:
    """Return one group out of a larger set of options."""
    return group(**{definition.name: getattr(options, definition.name) for definition in definitions(group)})
