"""The upload page: sizes, cost and limits before anything is sent."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server.database.schema import jobs
from comic_upscale.server.offered import set_preset
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_uploads import PNG, send


def ask_sizes(services: Services, sizes: Any, **fields: str) -> Any:
    add_person(services, "ann")
    with pages_of(services) as client:
        sign_in(client, "ann")
        headers = {"X-CSRF-Token": csrf_of(client.get("/"))}
        asked = {"sizes": sizes, "fields": fields}
        assert client.post("/upload/sizes", json=asked).status_code == 403
        return client.post("/upload/sizes", json=asked, headers=headers).json()


@pytest.mark.parametrize(
    ("fields", "sizes", "error"),
    [
        ({"factor": "2"}, [[1000, 1600], [20, 40]], None),
        ({"width": "1500"}, [[1500, 2400], None], "150.0 times"),
        ({"paper": "170x260mm", "dpi": "150"}, [[959, 1535], None], "76.8 times"),
        ({"factor": "99"}, None, "at most 8"),
        ({"paper": "A4"}, None, "mm"),
    ],
)
def test_sizes_are_those_of_the_job(
    services: Services, fields: dict[str, str], sizes: Any, error: str | None
) -> None:
    found = ask_sizes(services, [[500, 800], [10, 20]], **fields)
    if error is None:
        assert found == {"sizes": sizes, "error": None}
    elif sizes is None:
        assert error in found["error"] and "sizes" not in found
    else:
        assert found["sizes"] == sizes and error in found["error"]


def test_presets_say_what_the_form_can_do(services: Services) -> None:
    options = {"size": "width 1600"}
    services.database.write(lambda c: set_preset(c, "wide", "Of one width.", options))
    add_person(services, "ann")
    with pages_of(services) as client:
        page = sign_in(client, "ann").get("/").text
    for name, size in (("standard", ""), ("webtoon", "2"), ("wide", "other")):
        assert f'<option value="{name}" data-own-size="{size}">' in page
    # The screen is chosen in the form, so no text names an option of the command line.
    assert '<option value="kobo-libra-2">Kobo Libra 2</option>' in page
    assert not re.search(r"\s--[a-z]", re.sub(r"<[^>]*>", " ", page))


def test_the_cost_is_said_only_where_there_is_a_price(open_server: OpenServices) -> None:
    services = open_server(public=True)
    with client_of(services, make_key(services, "boss", "admin")) as boss, pages_of(services) as page:
        send(boss, content=PNG * 100)
        assert "No estimate yet" in page.get("/upload/estimate?bytes=1000").text
        size = len(PNG) * 100
        done = sa.update(jobs).values(status="completed", seconds=36.0, pixels=1_000_000)
        services.database.write(lambda c: c.execute(done))
        free = page.get(f"/upload/estimate?bytes={size}").text
        assert "36 s" in free and "$" not in free
        estimate = {"pages": [{"width": 500, "height": 500}], "options": {"factor": "2"}}
        assert boss.post("/api/v1/estimates", json=estimate).json()["cost"] is None
        boss.post("/api/v1/admin/settings", json={"price": 2.5}).raise_for_status()
        priced = page.get(f"/upload/estimate?bytes={size}").text
        assert "<strong>about $0.025</strong> at $2.50 an hour" in priced
        assert boss.post("/api/v1/estimates", json=estimate).json()["cost"] == 0.025


def test_limits_are_on_the_page_before_they_are_hit(open_server: OpenServices) -> None:
    services = open_server(public=True, max_upload_size=5_000_000, max_files=7, accepted_types=("png", "cbz"))
    with pages_of(services) as client:
        text = client.get("/").text
    assert "Up to 5.0 MB and 7 files at once" in text and "at most 89 million pixels" in text
    assert "This server takes png, cbz." in text and 'data-max-bytes="5000000"' in text
