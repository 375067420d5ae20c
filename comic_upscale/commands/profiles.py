"""The commands under ``comic-upscale profiles``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from comic_upscale.settings.profiles import Profile

profiles = typer.Typer(no_args_is_help=True, add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@profiles.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List your profiles, and those of the package."""
    from comic_upscale.commands.profile_files import list_profiles, profiles_folder
    from comic_upscale.console.printable import printable
    from comic_upscale.settings.paths import path_text

    listed = list(list_profiles())
    if as_json:
        rows = [
            {
                "name": each.name, "origin": each.origin, "problem": each.problem,
                "description": "" if each.profile is None else each.profile.description,
            }
            for each in listed
        ]  # fmt: skip
        typer.echo(json.dumps(rows))
        return
    width = max(len(each.name) for each in listed)
    for each in listed:
        about = each.problem if each.profile is None else each.profile.description
        own = "" if each.origin == "built-in" else " (yours)"
        typer.echo(printable(f"{each.name:{width}}  {about}{own}"))
    typer.echo()
    typer.echo(printable(f"Your own profiles go into {path_text(profiles_folder())}"))


@profiles.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="A profile. Default: the one that a run in the current folder would use.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the options and rules of a profile, those of its base included, as TOML."""
    from comic_upscale.commands.profile_files import find_profile
    from comic_upscale.console.printable import printable, printable_lines
    from comic_upscale.errors import SettingsError

    profile = find_profile(name, Path("pages") if name is None else None)
    if profile is None:
        raise SettingsError(
            "no profile counts here: name one, or write comic-upscale.toml. `comic-upscale profiles list` shows all"
        )
    options, rules = _as_record(profile)
    if as_json:
        about = {"name": profile.name, "origin": profile.origin, "description": profile.description}
        typer.echo(json.dumps({**about, "options": options, "rules": rules}))
        return
    typer.echo(printable(f"# {profile.name}: {profile.origin}"))
    if profile.description:
        typer.echo(printable_lines(_toml("description", profile.description)))
    for key, value in options.items():
        typer.echo(printable_lines(_toml(key, value)))
    for rule in rules:
        typer.echo("\n[[rule]]")
        for key, value in rule.items():
            typer.echo(printable_lines(_toml(key, value)))


def _as_record(profile: Profile) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the options and the rules of a profile as JSON."""
    from comic_upscale.settings.job import JobSettings
    from comic_upscale.settings.options import as_json_value, definitions
    from comic_upscale.settings.rules import write_rules

    known = {definition.name: definition for definition in definitions(JobSettings)}
    options = {name: as_json_value(known[name], value) for name, value in profile.values.items()}
    return options, write_rules(profile.rules, JobSettings)


def _toml(key: str, value: Any) -> str:
    """Return a line of TOML. The texts and lists of JSON are those of TOML; only null is not."""
    if value is None:
        return f'{key} = "off"'
    if isinstance(value, dict):
        return f"{key} = {{ {', '.join(_toml(*item) for item in value.items())} }}"
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"
