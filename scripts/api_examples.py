"""Record an answer of each route for the description of the interface; ``--write`` stores them."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comic_upscale.server.api.openapi import EXAMPLES
from comic_upscale.server.app import create_app
from comic_upscale.server.services import open_services
from comic_upscale.server.settings import ServerSettings
from tests.server.walk import walk


def record(folder: Path) -> dict[str, Any]:
    """Return the answers of a fresh server by method and path, with the paths of this machine replaced."""
    library = folder / "library"
    library.mkdir(parents=True)
    settings = ServerSettings(data=folder / "data", roots=(str(library),))
    if not EXAMPLES.exists():
        EXAMPLES.write_text("{}", encoding="utf-8")
    services = open_services(settings)
    try:
        answers = walk(services, create_app(services).openapi()["paths"]).answers
    finally:
        services.close()
    text = json.dumps(shorten(answers)).replace(str(folder), "/srv")
    text = re.sub(r'"cu_([0-9a-f]+)_[^"]+"', r'"cu_\1_..."', text)
    # Such as a scanner for secrets would report.
    text = re.sub(r'("secret": "|secret=)[A-Z2-7]{32}', r"\1JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", text)
    return dict(sorted(json.loads(text).items()))


def shorten(value: Any) -> Any:
    """Return a value with at most two items in each list."""
    if isinstance(value, list):
        return [shorten(item) for item in value[:2]]
    if isinstance(value, dict):
        return {name: shorten(item) for name, item in value.items()}
    return value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(record(Path(folder)), indent=1, ensure_ascii=False) + "\n"
    if "--write" in sys.argv:
        EXAMPLES.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
