"""What requests may choose from: the presets and the models of this server, its own ones included.

Functions take the connection of a transaction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.models.catalogue import CATALOGUE, NAMES
from comic_upscale.server.database.schema import models, now_ms, presets
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.option_json import to_json
from comic_upscale.settings.processing import AUTO_MODEL, ProcessingSettings
from comic_upscale.settings.profiles import built_in, built_in_names

PHOTO_DENOISE_MODEL = "realesr-general-x4v3"
"""The model for photographs that has a denoise strength."""

NAME = r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}"
"""Names of presets and models of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named options of a request."""

    description: str
    options: Mapping[str, Any]
    """Processing options, as JSON."""
    is_own: bool = False
    """Whether an administrator made it."""


def _built_in(description: str, **options: Any) -> Preset:
    return Preset(description=description, options=MappingProxyType(options))


def _of_profile(name: str) -> Preset:
    """Return the preset of a profile of the command line. The server decides where outputs go."""
    profile = built_in(name)
    options = ProcessingSettings(**profile.values, rules=profile.rules)
    return Preset(
        description=profile.description,
        options=MappingProxyType(to_json(options, {*profile.values, *(("rules",) if profile.rules else ())})),
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "standard": _built_in("The defaults of the server."),
        "art": _built_in("Drawn pages in colour, quickly.", model="realesr-animevideov3"),
        "photo": _built_in(
            "Photographs: moderate denoising, gray stays as stored.",
            model=PHOTO_DENOISE_MODEL,
            denoise=0.5,
            gray="keep",
        ),
        "face": _built_in(
            "Portraits: light denoising, gray stays as stored.",
            model=PHOTO_DENOISE_MODEL,
            denoise=0.25,
            gray="keep",
        ),
        **{name: _of_profile(name) for name in built_in_names()},
    }
)
"""The presets that the server comes with, the profiles of the package among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model that an administrator registered or judged."""

    name: str
    sha256: str
    storage_key: str | None
    """Its weights in the storage; None for a model of the catalogue."""
    is_default: bool = False
    is_demoted: bool = False
    """Whether requests may no longer choose it."""
    note: str = ""
    """What administrators say about it, for whoever chooses a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Everything that requests may choose from, at one moment."""

    presets: Mapping[str, Preset] = field(default_factory=lambda: PRESETS)
    models: Mapping[str, RegisteredModel] = field(default_factory=dict)
    refines_faces: bool = False
    """Whether a request may ask for ``refine_faces``."""
    engines: frozenset[str] = frozenset()
    """The engines besides the server's own: ``flux``, ``imagen``."""

    def on(self, settings: ServerSettings) -> Offered:
        """Return the same on a server with these settings."""
        options = {"flux": settings.flux_options, "imagen": settings.imagen_options}
        engines = frozenset(name for name, given in options.items() if given)
        return replace(self, refines_faces=settings.face_model is not None, engines=engines)

    @property
    def default_model(self) -> str:
        """The model of requests that name none."""
        return next((name for name, model in self.models.items() if model.is_default), AUTO_MODEL)

    def is_demoted(self, name: str) -> bool:
        """Return whether requests may no longer choose a model."""
        model = self.models.get(name)
        return model is not None and model.is_demoted


BUILT_IN = Offered()


def read_offered(connection: Connection) -> Offered:
    """Return what requests may choose from now."""
    own = {
        row["name"]: Preset(description=row["description"], options=row["options"], is_own=True)
        for row in connection.execute(sa.select(presets).order_by(presets.c.name)).mappings()
    }
    registered = {
        row["name"]: RegisteredModel(
            name=row["name"], sha256=row["sha256"], storage_key=row["storage_key"], is_default=row["is_default"],
            is_demoted=row["demoted_at"] is not None, note=row["note"] or "",
        )
        for row in connection.execute(sa.select(models).order_by(models.c.name)).mappings()
    }  # fmt: skip
    return Offered(presets={**PRESETS, **own}, models=registered)


def set_preset(connection: Connection, name: str, description: str, options: Mapping[str, Any]) -> bool:
    """Create or replace a preset of this server, and return whether it is new.

    Raises:
        SettingsError: the name is not allowed, or that of a built-in preset.
    """
    _check_name(name, "preset")
    if name in PRESETS:
        raise SettingsError(
            f"the preset {name} comes with the server and cannot be changed: choose another name"
        )
    values = {"description": description, "options": dict(options), "updated_at": now_ms()}
    if connection.execute(sa.update(presets).where(presets.c.name == name).values(**values)).rowcount:
        return False
    connection.execute(sa.insert(presets).values(name=name, **values))
    return True


def delete_preset(connection: Connection, name: str) -> bool:
    """Delete a preset of this server, and return whether there was one."""
    return bool(connection.execute(sa.delete(presets).where(presets.c.name == name)).rowcount)


def check_new_model(connection: Connection, name: str) -> None:
    """Check the name of a model that is to be registered.

    Raises:
        SettingsError: it is not allowed, or taken.
    """
    _check_name(name, "model")
    taken = {each.lower() for each in (*NAMES, AUTO_MODEL, *connection.scalars(sa.select(models.c.name)))}
    if name.lower() in taken:
        raise SettingsError(f"there is already a model named {name}: choose another name, such as {name}-2")


def register_model(connection: Connection, name: str, sha256: str, storage_key: str) -> None:
    """Register weights that are in the storage; errors as in `check_new_model`."""
    check_new_model(connection, name)
    connection.execute(
        sa.insert(models).values(name=name, sha256=sha256, storage_key=storage_key, created_at=now_ms())
    )


def make_default(connection: Connection, name: str) -> bool:
    """Make a model the default of requests that name none, and return whether there is such a model.

    ``auto`` returns to the choice by device.

    Raises:
        SettingsError: the model is demoted.
    """
    if name != AUTO_MODEL:
        found = _ensure(connection, name)
        if found is None:
            return False
        if found.demoted_at is not None:
            raise SettingsError(f"the model {name} is demoted: promote it first")
    connection.execute(sa.update(models).values(is_default=models.c.name == name))
    return True


def demote(connection: Connection, name: str, *, is_demoted: bool) -> bool:
    """Withdraw a model from requests, or allow it again; return whether there is such a model.

    A model that was the default is no longer so.
    """
    if _ensure(connection, name) is None:
        return False
    values: dict[str, Any] = {"demoted_at": now_ms() if is_demoted else None}
    if is_demoted:
        values["is_default"] = False
    connection.execute(sa.update(models).where(models.c.name == name).values(**values))
    return True


def set_note(connection: Connection, name: str, note: str) -> bool:
    """Set what is said about a model where one is chosen, and return whether there is such a model.

    An empty text removes it.
    """
    if _ensure(connection, name) is None:
        return False
    connection.execute(sa.update(models).where(models.c.name == name).values(note=note.strip() or None))
    return True


def delete_model(connection: Connection, name: str) -> str | None:
    """Forget a registered model, and return the key of its weights; None if there is none.

    Jobs that name it and have not begun fail with a reason.
    """
    registered = models.c.name == name, models.c.storage_key.is_not(None)
    return connection.scalar(sa.delete(models).where(*registered).returning(models.c.storage_key))


def _ensure(connection: Connection, name: str) -> Any:
    """Return the row of a model; one of the catalogue gets a row. None if there is no such model."""
    row = connection.execute(sa.select(models).where(models.c.name == name)).first()
    if row is None and name in CATALOGUE:
        sha256 = CATALOGUE[name].weights.sha256
        connection.execute(sa.insert(models).values(name=name, sha256=sha256, created_at=now_ms()))
        row = connection.execute(sa.select(models).where(models.c.name == name)).first()
    return row


def _check_name(name: str, what: str) -> None:
    if not re.fullmatch(NAME, name):
        raise SettingsError(
            f"the name {name[:64]!r} of a {what} is not allowed: use up to 64 letters, digits and . _ -"
        )
