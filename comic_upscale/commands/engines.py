"""The commands under ``comic-upscale engines``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from comic_upscale.engines.base import EngineFactory

engines = typer.Typer(no_args_is_help=True, add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@engines.command("list")
def list_engines(as_json: AsJson = False) -> None:
    """List every engine, and whether its packages are installed."""
    from comic_upscale.console.printable import printable
    from comic_upscale.engines.registry import find_factory, missing_packages
    from comic_upscale.settings.engines import engine_names

    rows: list[dict[str, object]] = []
    for name in engine_names():
        try:
            factory = find_factory(name)
        except SettingsError as error:
            # A broken third-party package must not hide the other engines.
            rows.append({"name": name, "summary": str(error), "installed": False, "options": []})
            continue
        rows.append(
            {
                "name": name, "summary": factory.summary, "installed": not missing_packages(factory),
                "options": _options_json(factory),
            }
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        note = "" if row["installed"] else " (not installed)"
        typer.echo(printable(f"{row['name']:{width}}  {row['summary']}{note}"))


@engines.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of an engine.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show the options of an engine: purpose, allowed values and default of each."""
    from comic_upscale.engines.options import describe_options
    from comic_upscale.engines.registry import find_factory, missing_packages
    from comic_upscale.settings.engines import engine_names

    if name not in engine_names():
        raise SettingsError(f"there is no engine {name!r}: the engines are {', '.join(engine_names())}")
    factory = find_factory(name)
    missing, options = missing_packages(factory), describe_options(factory.options)
    if as_json:
        content = {
            "name": name,
            "summary": factory.summary,
            "missing": missing,
            "install": factory.install,
            "options": _options_json(factory),
        }
        typer.echo(json.dumps(content))
        return
    for line in _lines(factory, missing):
        typer.echo(line)
    if options:
        typer.echo("\nOptions, each as --engine-option NAME=VALUE:")
    for each in options:
        default = f"default {each.default}" if each.default else "required"
        typer.echo(f"\n  {each.name}: {each.values} ({default})\n    {each.help}")


def _options_json(factory: EngineFactory) -> list[dict[str, str]]:
    from comic_upscale.engines.options import describe_options

    return [
        {"name": each.name, "values": each.values, "default": each.default, "help": each.help}
        for each in describe_options(factory.options)
    ]


def _lines(factory: EngineFactory, missing: list[str]) -> list[str]:
    from comic_upscale.console.printable import printable

    state = f"not installed: {', '.join(missing)}. {factory.install}" if missing else "installed"
    needs = f"needs {', '.join(factory.packages)} ({state})" if factory.packages else "needs nothing more"
    return [printable(f"{factory.name}: {factory.summary}"), printable(needs)]
