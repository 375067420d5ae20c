"""What requests may choose from: presets, models, engines; and what a job would take, before anything is sent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.costs.prices import listed_offers, offers_for
from comic_upscale.costs.rates import known_cards
from comic_upscale.server import queue
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.janitor import Janitor
from comic_upscale.server.services import Services
from tests.server.conftest import client_of, make_key
from tests.server.test_admin import actions
from tests.server.test_queue import taken
from tests.server.test_uploads import left_over, send

WEIGHTS = b"not loaded by the server"


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        yield client


@pytest.fixture
def me(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "me")) as client:
        yield client


def params_of(client: httpx.Client, **fields: str) -> dict[str, object]:
    answer = send(client, **fields)
    assert answer.status_code == 202, answer.text
    found: dict[str, object] = client.get(answer.headers["location"]).json()["params"]
    return found


def test_built_in_presets_set_model_denoise_and_gray(me: httpx.Client) -> None:
    assert params_of(me, preset="standard") == params_of(me)
    photo = params_of(me, preset="photo")
    assert (photo["model"], photo["denoise"], photo["gray"]) == ("realesr-general-x4v3", 0.5, "keep")
    # What the request itself says counts more.
    stronger = params_of(me, preset="photo", denoise="high", gray="off")
    assert (stronger["model"], stronger["denoise"], stronger["gray"]) == ("realesr-general-x4v3", 1.0, "off")
    other = params_of(me, preset="photo", model="RealESRGAN_x4plus")
    assert (other["model"], other["denoise"]) == ("RealESRGAN_x4plus", None)


def test_a_strength_without_a_model_is_that_of_the_package(me: httpx.Client) -> None:
    for fields in ({}, {"model": "auto"}, {"preset": "art"}):
        params = params_of(me, denoise="med", **fields)
        assert (params["model"], params["denoise"]) == ("auto", 0.5), fields
    assert params_of(me, denoise="none")["denoise"] is None
    named = params_of(me, denoise="0.3", model="realesr-general-x4v3")
    assert (named["model"], named["denoise"]) == ("realesr-general-x4v3", 0.3)


def test_profiles_are_presets_and_rules_are_an_option(me: httpx.Client) -> None:
    manga = params_of(me, preset="manga")
    assert (manga["levels"], manga["neutral_paper"], manga["format"], manga["quality"]) == (
        "auto",
        True,
        "webp",
        90,
    )
    assert params_of(me, preset="webtoon")["size"] == "scale 2"
    assert params_of(me, preset="manga", levels="off")["levels"] is None
    rules = [{"gray": False, "model": "Comic-Compact-X3", "levels": "20,235"}]
    named = params_of(me, rules=json.dumps(rules))["rules"]
    assert named == [{**rules[0], "model": "comic-compact-x3"}]
    for wrong in (
        "x", "{}", '[{"gray": true}]', '[{"model": "/etc/passwd"}]', '[{"model": "auto"}]',
        '[{"levels": "1"}]', '[{"output": "x", "levels": "auto"}]',
    ):  # fmt: skip
        answer = send(me, rules=wrong)
        assert answer.status_code == 400, wrong
        assert answer.json()["error"]["field"] == "rules", wrong


def test_a_preset_with_a_strength_alone_works_with_every_default_model(
    services: Services, boss: httpx.Client, me: httpx.Client
) -> None:
    boss.put("/api/v1/admin/presets/web", json={"options": {"denoise": "low"}})
    boss.put("/api/v1/admin/presets/none", json={"options": {"denoise": "0"}})
    expected = {
        "auto": ("auto", 0.25), "comic-best-x3": ("comic-best-x3", 0.25), "comic-crisp-x3": ("auto", 0.25),
    }  # fmt: skip
    for default, found in expected.items():
        assert boss.post(f"/api/v1/admin/models/{default}/default").status_code == 200, default
        params = params_of(me, preset="web")
        assert (params["model"], params["denoise"]) == found, default
    # No model needs a strength of 0.
    params = params_of(me, preset="none")
    assert (params["model"], params["denoise"]) == ("comic-crisp-x3", None)
    # The strength of the preset stays with models that have one.
    for model, strength in (("auto", 0.25), ("comic-fast", 0.25), ("realesr-animevideov3", None)):
        params = params_of(me, preset="web", model=model)
        assert (params["model"], params["denoise"]) == (model, strength)


def test_a_strength_for_a_job_again_stays_with_its_model_if_that_has_one(
    services: Services, boss: httpx.Client, me: httpx.Client
) -> None:
    for model, wished, found in (
        ("comic-best", "med", ("comic-best", 0.5)), ("comic-crisp", "med", ("auto", 0.5)),
        ("comic-crisp", "0", ("comic-crisp", None)),
    ):  # fmt: skip
        old = send(me, model=model).json()["job_id"]
        services.database.write(lambda c: c.execute(sa.update(jobs).values(status="completed")))
        answer = boss.post(f"/api/v1/admin/jobs/{old}/requeue", json={"options": {"denoise": wished}})
        assert answer.status_code == 202, answer.text
        params = answer.json()["params"]
        assert (params["model"], params["denoise"]) == found


def test_an_administrator_makes_changes_and_deletes_presets(
    services: Services, boss: httpx.Client, me: httpx.Client
) -> None:
    preset = {"description": "For the web.", "options": {"format": "webp", "quality": "80", "denoise": "low"}}
    assert boss.put("/api/v1/admin/presets/web", json=preset).status_code == 200
    shown = {each["name"]: each for each in me.get("/api/v1/presets").json()["presets"]}
    profiles = ["e-reader", "lora", "manga", "webtoon", "western"]
    assert list(shown) == ["standard", "art", "photo", "face", *profiles, "web"]
    assert shown["web"]["is_own"] and not shown["art"]["is_own"]
    web = params_of(me, preset="web")
    assert (web["format"], web["quality"], web["denoise"]) == ("webp", 80, 0.25)
    boss.put("/api/v1/admin/presets/web", json={"options": {"format": "jpeg"}})
    assert params_of(me, preset="web")["format"] == "jpeg"
    for name, wrong in (
        ("art", {"format": "jpeg"}), ("../x", {}), ("x y", {}), ("new", {"format": "exe"}),
        ("new", {"preset": "art"}), ("new", {"model": "/etc/passwd"}),
    ):  # fmt: skip
        answer = boss.put(f"/api/v1/admin/presets/{name}", json={"options": wrong})
        assert answer.status_code in (400, 404), (name, answer.text)
    assert boss.delete("/api/v1/admin/presets/web").status_code == 204
    assert boss.delete("/api/v1/admin/presets/web").status_code == 404
    assert send(me, preset="web").json()["error"]["field"] == "preset"
    assert actions(services) == ["preset.set", "preset.set", "preset.delete"]


def register(boss: httpx.Client, name: str = "mine", **fields: str) -> httpx.Response:
    form = {"name": name, **fields}
    files = [("file", ("net.safetensors", WEIGHTS))]
    return boss.post("/api/v1/admin/models", files=files, data=form)


def test_a_model_is_registered_with_its_hash_and_chosen_by_name(
    services: Services, boss: httpx.Client, me: httpx.Client
) -> None:
    made = register(boss)
    assert made.status_code == 201
    assert made.json()["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert params_of(me, model="mine")["model"] == "mine"
    stored = len(left_over(services))
    for answer in (
        register(boss),
        register(boss, "MINE"),
        register(boss, "RealESRGAN_x4plus"),
        register(boss, "../x"),
        register(boss, "auto"),
        register(boss, "other", sha256="0" * 64),
        boss.post("/api/v1/admin/models", files=[("file", ("run.py", b"x"))], data={"name": "x"}),
        boss.post("/api/v1/admin/models", data={"name": "x"}, files=[]),
    ):
        assert answer.status_code in (400, 415), answer.text
    assert len(left_over(services)) == stored
    # The janitor keeps the weights, which no upload names.
    for path in left_over(services):
        os.utime(path, (0, 0))
    Janitor(services.database, services.files, services.settings.data / "work").clean()
    assert len(left_over(services)) == stored
    assert boss.delete("/api/v1/admin/models/mine").status_code == 204
    assert boss.delete("/api/v1/admin/models/mine").status_code == 404
    assert boss.delete("/api/v1/admin/models/RealESRGAN_x4plus").status_code == 404
    assert send(me, model="mine").status_code == 400
    assert len(left_over(services)) == stored - 1


def test_a_model_becomes_the_default_and_is_withdrawn(boss: httpx.Client, me: httpx.Client) -> None:
    def act(name: str, action: str) -> int:
        return boss.post(f"/api/v1/admin/models/{name}/{action}").status_code

    assert params_of(me)["model"] == "auto"
    assert act("realesr-animevideov3", "default") == 200
    assert params_of(me)["model"] == me.get("/api/v1/models").json()["default"] == "realesr-animevideov3"
    assert params_of(me, preset="photo")["model"] == "realesr-general-x4v3"
    assert params_of(me, model="auto")["model"] == "auto"
    assert act("realesr-animevideov3", "demote") == 200
    assert params_of(me)["model"] == "auto"
    assert send(me, model="realesr-animevideov3").json()["error"]["field"] == "model"
    assert send(me, preset="art").json()["error"]["field"] == "preset"
    names = [model["name"] for model in me.get("/api/v1/models").json()["models"]]
    assert "realesr-animevideov3" not in names
    assert act("realesr-animevideov3", "default") == 400
    assert act("realesr-animevideov3", "promote") == 200
    assert params_of(me, preset="art")["model"] == "realesr-animevideov3"
    assert act("nothing", "default") == act("nothing", "demote") == 404
    assert act("realesr-animevideov3", "default") == act("auto", "default") == 200
    assert params_of(me)["model"] == "auto"


def test_a_family_is_chosen_by_name_while_none_of_its_networks_is_withdrawn(
    boss: httpx.Client, me: httpx.Client
) -> None:
    assert params_of(me, model="comic-best", factor="2")["model"] == "comic-best"
    assert estimate(me, options={"model": "comic-best"}).json()["quotes"]
    assert boss.post("/api/v1/admin/models/comic-best-x2/demote").status_code == 200
    assert send(me, model="comic-best").json()["error"]["field"] == "model"
    assert params_of(me, model="comic-best-x3")["model"] == "comic-best-x3"


def test_engines_are_listed_with_their_options(me: httpx.Client) -> None:
    answer = me.get("/api/v1/engines").json()
    engines = {engine["name"]: engine for engine in answer["engines"]}
    assert answer["default"] == "torch" and {"torch", "onnx", "command"} <= engines.keys()
    assert engines["torch"]["installed"] and engines["torch"]["options"][0]["name"] == "overlap"


def estimate(client: httpx.Client, **changes: object) -> httpx.Response:
    body = {"pages": [{"width": 512, "height": 768, "count": 36}], **changes}
    return client.post("/api/v1/estimates", json=body)


def test_an_estimate_has_pixels_bytes_and_quotes(services: Services, me: httpx.Client) -> None:
    found = estimate(me, options={"factor": "2", "format": "webp"}, gpus=["RTX 4090"]).json()
    assert (found["pages"], found["skipped"]) == (36, 0)
    assert found["output_pixels"] == 36 * 1024 * 1536
    assert found["params"]["format"] == found["work"]["format"] == "webp"
    assert 0 < found["output_bytes"]["low"] < found["output_bytes"]["high"]
    assert {quote["hardware"] for quote in found["quotes"]} == {"RTX 4090"}
    assert all(quote["dollars"]["likely"] > 0 and quote["seconds"]["likely"] > 0 for quote in found["quotes"])
    assert found["seconds"] is None
    # From then on, this server knows its own pace.
    send(me)
    held = taken(services.database)
    result = queue.Result(
        pages_total=1, pages_done=1, pages_failed=0, model="m", seconds=2.0, pixels=1024 * 1536
    )
    services.database.write(lambda c: queue.complete(c, held, result))
    assert estimate(me, options={"factor": "2"}).json()["seconds"] == pytest.approx(72.0)


def test_an_estimate_without_a_listed_price_asks_for_a_field_of_the_request(me: httpx.Client) -> None:
    card = next(each for each in known_cards() if not offers_for(each, listed_offers(None)))
    error = estimate(me, gpus=[card]).json()["error"]
    assert error["message"] == f"No price is listed for {card}: add price."
    assert estimate(me, gpus=[card], price=0.2).status_code == 200


def test_an_estimate_of_several_sizes_skips_and_shrinks(me: httpx.Client) -> None:
    pages = [{"width": 100, "height": 200}, {"width": 3000, "height": 4000, "count": 5}]
    found = estimate(me, pages=pages, options={"width": "400", "skip_larger_than": "2000x3000"}).json()
    assert (found["pages"], found["skipped"], found["output_pixels"]) == (1, 5, 400 * 800)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"pages": []}, "pages"),
        ({"pages": [{"width": 0, "height": 1}]}, "pages.0.width"),
        ({"pages": [{"width": 10, "height": 10}], "options": {"width": "9000"}}, "pages"),
        ({"options": {"factor": "9"}}, "factor"),
        ({"options": {"model": "/etc/passwd"}}, "model"),
        ({"gpus": ["Voodoo 2"]}, "gpus"),
        ({"price": -1}, "price"),
    ],
)
def test_an_impossible_estimate_names_the_field(
    me: httpx.Client, body: dict[str, object], field: str
) -> None:
    answer = estimate(me, **body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field), answer.text
    assert "--" not in answer.json()["error"]["message"]
