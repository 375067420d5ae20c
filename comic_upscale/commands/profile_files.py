"""Where profiles are: files that the user names, this user's folder, the project, and the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from comic_upscale.commands.environment import user_folder
from comic_upscale.errors import SettingsError
from comic_upscale.settings.paths import absolute, expand_user, path_text
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.profiles import (
    DEFAULT,
    NONE,
    PROJECT_FILE,
    Profile,
    built_in,
    built_in_names,
    read_profile,
)

_MODEL_FILES = (".pth", ".pt", ".safetensors", ".onnx")


def profiles_folder() -> Path:
    """Return the folder of this user's profiles; it need not exist."""
    return user_folder("config") / "profiles"


def find_profile(name: str | None, input: Path | None = None) -> Profile | None:
    """Return the profile of a job.

    Args:
        name: a name or the path of a file; None for the profile of the project, or this user's default one.
        input: of the job.

    Returns:
        The profile; None if there is none.

    Raises:
        SettingsError: there is no such profile, or it has a mistake.
    """
    if name is not None:
        return None if name == NONE else _find(name, ())
    beside = () if input is None or is_bucket(input) else (absolute(input).parent,)
    for folder in (*beside, Path.cwd()):
        path = folder / PROJECT_FILE
        if path.is_file():
            return _read(path, path_text(path), (), was_named=False)
    path = profiles_folder() / f"{DEFAULT}.toml"
    return _read(path, DEFAULT, ()) if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Listed:
    """A profile in a list."""

    name: str
    origin: str
    """``built-in``, or the path of its file."""
    profile: Profile | None
    problem: str | None = None
    """Why the profile cannot be used."""


def list_profiles() -> Iterator[Listed]:
    """Yield the profiles that have names: this user's, then those of the package that no other hides."""
    seen = set[str]()
    folder = profiles_folder()
    for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
        seen.add(path.stem)
        yield _listed(path.stem, path_text(path))
    for name in built_in_names():
        if name not in seen:
            yield _listed(name, "built-in")


def profile_names() -> list[str]:
    """Return the names of the profiles, without reading them."""
    folder = profiles_folder()
    own = {path.stem for path in folder.glob("*.toml")} if folder.is_dir() else set()
    return sorted({*own, *built_in_names()})


def _listed(name: str, origin: str) -> Listed:
    try:
        return Listed(name, origin, _find(name, ()))
    except SettingsError as error:
        return Listed(name, origin, None, str(error))


def _find(
    name: str, users: tuple[str, ...], folder: Path | None = None, *, was_named: bool = True
) -> Profile:
    """Return the profile with a name or a path.

    Args:
        name: the name or the path.
        users: names of the profiles that build on it.
        folder: of the profile that builds on it: paths are relative to it; None for the current folder.
        was_named: whether the user named the profile that builds on it, or the profile itself.
    """
    if name.endswith(".toml") or "/" in name or "\\" in name:
        path = (folder or Path()) / expand_user(Path(name))
        if not path.is_file():
            raise SettingsError(f"there is no profile {path_text(path)}: check the path of --profile")
        # One that a file beside the input names is as little trusted as that file.
        return _read(path, path_text(absolute(path)), users, was_named=was_named)
    path = profiles_folder() / f"{name}.toml"
    # A profile that changes a built-in one may have its name.
    if path.is_file() and name not in users:
        return _read(path, name, users)
    if name in built_in_names():
        return built_in(name)
    if name in users:
        raise SettingsError(f"profiles build on each other in a circle: {', '.join(users)}")
    raise SettingsError(_no_profile(name))


def _no_profile(name: str) -> str:
    import difflib

    names = profile_names()
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"there is no profile {name!r}: did you mean {near[0]!r}?"
    return (
        f"there is no profile {name!r}: choose {', '.join(names)}, or give the path of a .toml file. Your own profiles "
        f"go into {path_text(profiles_folder())}"
    )


def _read(path: Path, name: str, users: tuple[str, ...], *, was_named: bool = True) -> Profile:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"the profile {path_text(path)} cannot be read: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"the profile {path_text(path)} is not TOML, which is UTF-8") from None
    return read_profile(
        text,
        name=name,
        origin=path_text(path),
        find_base=partial(_find, folder=path.parent, was_named=was_named),
        users=users,
        locate=partial(_locate, folder=absolute(path).parent),
        was_named=was_named,
    )


def _locate(model: str, folder: Path) -> str:
    """Return a file of weights beside a profile by its whole path; any other name of a model unchanged."""
    is_file_name = model.endswith(_MODEL_FILES) or "/" in model or "\\" in model
    path = folder / expand_user(Path(model))
    return str(path) if is_file_name and path.is_file() else model
