"""Print the tables of the server's settings for docs/server/configuration.md; ``--write`` puts them there."""

from __future__ import annotations

import sys
from pathlib import Path

from comic_upscale.server.other_variables import OTHER_VARIABLES
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import variables_of
from comic_upscale.settings.options import Definition, definitions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "server" / "configuration.md"
BEGIN, END = "<!-- settings -->", "<!-- end of settings -->"
OTHERS_BEGIN, OTHERS_END = "<!-- other variables -->", "<!-- end of other variables -->"


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| Option | Variables | Default | Meaning |", "|---|---|---|---|"]
    for option in definitions(ServerSettings):
        flag = f"`{option.flag}`" if option.opt.on_command_line else ""
        names = "<br>".join(f"`{name}`" for name in variables_of(option))
        lines.append(f"| {flag} | {names} | {_default(option)} | {_meaning(option)} |")
    return "\n".join(lines)


def page_with(text: str, new: str) -> str:
    """Return the text of the page with a new table."""
    others = "\n".join(
        [
            "| Variable | Here |",
            "|---|---|",
            *(f"| `{name}` | {words} |" for name, words in OTHER_VARIABLES.items()),
        ]
    )
    return _replaced(_replaced(text, BEGIN, new, END), OTHERS_BEGIN, others, OTHERS_END)


def _replaced(text: str, begin: str, new: str, end: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"


def _default(option: Definition) -> str:
    if option.opt.default_text is not None:
        return option.opt.default_text
    if option.default in (None, ()):
        return ""
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def _meaning(option: Definition) -> str:
    secret = (
        " A secret: the variables may end in `_FILE` and name a file with it." if option.opt.secret else ""
    )
    return option.opt.help.replace("|", "\\|") + secret


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        sys.stdout.write(table() + "\n")
