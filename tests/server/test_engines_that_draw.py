"""Faces, FLUX and Imagen by requests: only on a server that has them, with its own files and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError
from comic_upscale.server.offered import BUILT_IN
from comic_upscale.server.params import FieldError, processing_settings, read_changes, read_params
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import definitions
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.worker.extras import extra_values
from tests.server.conftest import OpenServices, client_of, make_key

FACES = ServerSettings(data=Path("data"), face_model=Path("GFPGANv1.4.pth"))
IMAGEN = ServerSettings(
    data=Path("data"), imagen_options=("project=p", "price_per_image=0.06"), imagen_max_cost=0.5
)


@pytest.mark.parametrize(
    ("fields", "refines"),
    [
        ({}, False),
        ({"refine_faces": "true"}, True),
        ({"preset": "face"}, True),
        ({"preset": "face", "refine_faces": "false"}, False),
        ({"preset": "photo"}, False),
    ],
    ids=str,
)
def test_faces_are_refined_if_a_request_or_the_preset_says_so(fields: dict[str, str], refines: bool) -> None:
    params = read_params(fields, BUILT_IN.on(FACES))
    assert params.get("refine_faces", False) is refines
    assert ("face_model" in extra_values(params, FACES)) is refines
    processing_settings(params)


def test_a_server_without_weights_for_faces_refuses_them_and_keeps_the_preset() -> None:
    offered = BUILT_IN.on(ServerSettings(data=Path("data")))
    with pytest.raises(FieldError, match="cannot refine faces"):
        read_params({"refine_faces": "true"}, offered)
    assert "refine_faces" not in read_params({"preset": "face"}, offered)
    with pytest.raises(FieldError, match="only the preset face"):
        read_changes({"refine_faces": "true"}, BUILT_IN.on(FACES))
    with pytest.raises(SettingsError, match="--face-model"):
        extra_values({"refine_faces": True}, ServerSettings(data=Path("data")))


def test_a_request_names_no_file_and_no_engine_of_the_server() -> None:
    for name in ("face_model", "backend", "engine", "engine_options", "max_cost"):
        with pytest.raises(FieldError, match="may not set it"):
            read_params({name: "x"}, BUILT_IN.on(IMAGEN))


def test_a_worker_takes_the_options_of_an_engine_from_its_own_settings(tmp_path: Path) -> None:
    params = {**read_params({"factor": "2", "denoise": "low"}, BUILT_IN.on(IMAGEN)), "engine": "imagen"}
    processing = processing_settings(params)
    values = {each.name: getattr(processing, each.name) for each in definitions(ProcessingSettings)}
    job = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", **{**values, **extra_values(params, IMAGEN)}
    )
    assert (job.backend, job.model, job.denoise, job.max_cost) == ("imagen", "auto", None, 0.5)
    assert dict(job.engine_options) == {"project": "p", "price_per_image": "0.06"}
    with pytest.raises(SettingsError, match="--flux-option"):
        extra_values({"engine": "flux"}, IMAGEN)


def test_a_call_for_an_engine_is_queued_where_the_server_has_it(open_server: OpenServices) -> None:
    services = open_server(imagen_options=IMAGEN.imagen_options)
    with client_of(services, make_key(services, "me")) as client:
        files = {"image": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(64))}
        fields = {"upscale_factor": "2", "gcp_project_id": "mine", "prompt": "x"}
        answer = client.post("/api/upscale/imagen", files=files, data=fields)
        assert answer.status_code == 202, answer.text
        body = answer.json()
        assert {note.split()[0] for note in body["notes"]} == {"gcp_project_id", "prompt"}
        params = client.get(f"/api/v1/jobs/{body['jobId']}").json()["params"]
        assert (params["engine"], params["size"]) == ("imagen", "scale 2")
        refused = client.post("/api/upscale/flux", files=files)
        assert refused.status_code == 501 and "FLUX" in refused.json()["error"]["message"]
