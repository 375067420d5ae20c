"""The report of a job over a folder, as ``comic-upscale report`` makes it, in the storage of the server."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

from comic_upscale.reporting.report import as_html, make_report
from comic_upscale.server.files import FileStore, StoredFile, store_file
from comic_upscale.settings.paths import default_ledger

LOOK_AT, SHOW = 60, 12
"""Pages without scores that are compared, and pages of each kind that are shown."""
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def store_report(store: FileStore, key: str, output: Path) -> tuple[str, StoredFile]:
    """Make the report of a job, store it, and return the hash of its script (SHA-256 in base64) and the file.

    Args:
        store: of the server.
        key: of the file.
        output: the output folder, with a ledger.

    Raises:
        ComicUpscaleError: the ledger cannot be read, or the storage cannot be written.
    """
    html = as_html(make_report(default_ledger(output), output, look_at=LOOK_AT, show=SHOW, workers=1))
    found = _SCRIPT.search(html)
    script = "" if found is None else found[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return digest, store_file(store, key, io.BytesIO(html.encode()))
