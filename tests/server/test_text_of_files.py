"""What strangers write into their files is text wherever it is shown: EXIF, profiles, comments, ComicInfo, names."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from comic_upscale.server.services import Services
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.test_queue import taken
from tests.worker.test_live_pictures import runner_of

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
_DESCRIPTION, _ARTIST, _COMMENT = 0x010E, 0x013B, 0x9286


def profile() -> bytes:
    """An sRGB profile whose name is evil. It has room for a longer name than sRGB has."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in (b"sRGB built-in", "sRGB built-in".encode("utf-16-be")):
        evil = EVIL.encode() if b"\0" not in name else EVIL.encode("utf-16-be")
        content = content.replace(name, evil[: len(name)])
    return content


def exif() -> Image.Exif:
    found = Image.Exif()
    found[_DESCRIPTION] = found[_ARTIST] = EVIL
    found.get_ifd(0x8769)[_COMMENT] = b"ASCII\0\0\0" + EVIL.encode()
    return found


def pictures() -> dict[str, bytes]:
    """Pictures of each kind that holds text, and broken ones whose reasons could quote it."""
    image = Image.effect_noise((24, 32), 60).convert("RGB")
    text = PngImagePlugin.PngInfo()
    for name in ("Title", "Comment", "Software"):
        text.add_text(name, EVIL)
        text.add_itxt(name, EVIL)
    options: dict[str, dict[str, object]] = {
        "jpeg": {"comment": EVIL.encode(), "exif": exif(), "icc_profile": profile()},
        "png": {"pnginfo": text, "exif": exif(), "icc_profile": profile()},
        "webp": {"exif": exif(), "icc_profile": profile(), "xmp": EVIL.encode()},
        "tiff": {"description": EVIL, "artist": EVIL, "software": EVIL},
        "gif": {"comment": EVIL.encode()},
    }
    found = {}
    for kind, values in options.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **values)
        found[f"{kind}.{kind}"] = buffer.getvalue()
    found["broken.jpeg"] = found["jpeg.jpeg"][: len(found["jpeg.jpeg"]) // 2]
    found["no picture.png"] = EVIL.encode()
    return found


def comic() -> bytes:
    info = "".join(f"<{name}>{escape(EVIL)}</{name}>" for name in ("Title", "Series", "Summary", "Writer"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = EVIL.encode()
        archive.writestr("ComicInfo.xml", f"<?xml version='1.0'?><ComicInfo>{info}</ComicInfo>")
        for name, content in pictures().items():
            archive.writestr(f"<script>alert(1) {name}", content)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "comics"
    folder.mkdir()
    for name, content in pictures().items():
        (folder / name).write_bytes(content)
    (folder / "book.cbz").write_bytes(comic())
    return folder


def test_text_in_files_is_text(open_server: OpenServices, root: Path, tmp_path: Path) -> None:
    services = open_server(roots=(str(root),))
    shown = show(services, root, tmp_path)
    assert len(shown) > 10
    for address, (kind, text) in shown.items():
        assert "<script>alert" not in text and "<img src=x" not in text, address
        if kind == "text/html" and "/report" not in address:
            check_html(text)
        elif kind != "text/html":
            ET.fromstring(text)


def show(services: Services, root: Path, home: Path) -> dict[str, tuple[str, str]]:
    """Return the type and the text of each answer that shows something of the files."""
    add_person(services, "boss", "admin")
    runner = runner_of(services, home, NearestEngine())
    answers = {}
    with client_of(services, make_key(services, "boss", "admin")) as client, pages_of(services) as browser:
        sign_in(browser, "boss")
        files = [("file", (path.name, path.read_bytes())) for path in sorted(root.iterdir())]
        uploaded = f"/jobs/{client.post('/api/v1/uploads', files=files).json()['job_id']}"
        form = {
            "csrf_token": csrf_of(browser.get("/library")),
            "path": str(root),
            "factor": "2",
            "preset": "standard",
        }
        watched = browser.post("/library", data=form).headers["location"].partition("?")[0]
        for _ in range(2):
            runner.run(taken(services.database))
        job = client.get(f"/api/v1{uploaded}")
        assert (job.json()["status"], job.json()["pages"]["failed"]) == ("completed", 4), job.text
        assert job.headers["content-type"] == "application/json"
        assert job.headers["x-content-type-options"] == "nosniff"
        addresses = ["/jobs", f"/jobs?q={EVIL}", "/library", "/admin", "/admin/jobs", f"{watched}/report"]
        for each in (uploaded, watched):
            addresses += [each, f"{each}/read", f"{each}/log"]
        addresses += [f"{uploaded}/pages/{number}" for number in range(10)]
        for address in addresses:
            answers[address] = browser.get(address)
        opds = "/opds/v1.2"
        for address in (opds, f"{opds}/volumes", f"{opds}/recent"):
            answers[address] = client.get(address)
    return {
        address: (answer.headers["content-type"].partition(";")[0], answer.text)
        for address, answer in answers.items()
        if answer.status_code == 200
    }
