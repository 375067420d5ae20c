"""The commands of the page with examples, against a real server and its worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.client.test_client import posix
from tests.conftest import REPOSITORY, draw
from tests.docs.markdown import blocks
from tests.server.running import RunningServer


@posix
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash")
def test_the_examples_with_curl_are_a_whole_job(server: RunningServer, tmp_path: Path) -> None:
    page = draw(tmp_path / "page.png", 5, size=(20, 24))
    with zipfile.ZipFile(tmp_path / "volume.cbz", "w") as archive:
        archive.write(page, "1.png")
    found = blocks(REPOSITORY / "docs" / "server" / "api.md")
    script = "\n".join(["set -euo pipefail", *(block.text for block in found if block.language == "sh")])
    environment = {**os.environ, "SERVER": server.api, "KEY": server.key}
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with Image.open(tmp_path / "result.png") as result:
        assert result.size == (40, 48)
    with server.client() as client:
        (job,) = [job for job in client.get("/api/v1/jobs").json()["jobs"] if job["title"] == "volume.cbz"]
        assert job["params"]["size"] == "scale 1.5"
        server.wait(client, job["job_id"])
        client.delete(f"/api/v1/jobs/{job['job_id']}").raise_for_status()
