"""The command ``comic-upscale devices``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from comic_upscale.errors import SettingsError
from comic_upscale.settings.screens import read_devices


def devices(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORDS]", help="Only devices with these words in their names.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the sources of the figures.")
    ] = False,
) -> None:
    """List the e-readers that --fit-device knows."""
    wanted = " ".join(words or ()).casefold().split()
    found = [
        device
        for device in read_devices().values()
        if all(word in f"{device.name} {device.title}".casefold() for word in wanted)
    ]
    if as_json:
        rows = [
            {
                "name": each.name, "title": each.title, "width": each.screen.width, "height": each.screen.height,
                "grays": each.screen.levels, "color": each.screen.levels is None, "gamma": each.screen.gamma,
                "source": each.source,
            }
            for each in found
        ]  # fmt: skip
        typer.echo(json.dumps(rows))
        return
    if not found:
        raise SettingsError(
            f"no known e-reader has {' '.join(wanted)!r} in its name: leave it out to see all of them"
        )
    width = max(len(each.name) for each in found)
    for each in found:
        screen = each.screen
        shown = "colour" if screen.levels is None else f"{screen.levels} grays"
        typer.echo(f"{each.name:{width}}  {screen.width:4} x {screen.height:<4}  {shown:8}  {each.title}")
