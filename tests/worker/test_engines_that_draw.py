"""Imagen, FLUX and faces, from the request to the result, by a worker in this process."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.registry import _is_installed
from comic_upscale.execution.stop import StopRequest
from comic_upscale.worker.run import WorkerOptions, work
from tests.engines.conftest import flux, one_thread, tiny_restorer  # noqa: F401 - the same fixtures
from tests.engines.fake_imagen import MODEL, serve
from tests.server.conftest import OpenServices, client_of, make_key

skimage = pytest.importorskip("skimage", reason="scikit-image has the photograph")
LACKING = [name for name in ("diffusers", "google.auth") if not _is_installed(name)]
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def test_a_request_for_each_engine_becomes_a_page(
    open_server: OpenServices, flux: tuple[Path, Path], tiny_restorer: Path, tiny_weights: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as image, serve() as fake:
        photo = io.BytesIO()
        image.convert("RGB").crop((80, 0, 400, 256)).save(photo, "PNG")
        file = photo.getvalue()
        services = open_server(
            worker_idle_timeout=0.1,
            imagen_options=(
                "project=my-project", "price_per_image=0.06", f"endpoint={fake.address}",
                f"credentials={fake.key_file(tmp_path / 'key.json')}",
            ),
            flux_options=(
                f"pipeline={flux[0]}", f"embeddings={flux[1]}", f"first_pass={tiny_weights}", "tile=320", "steps=4",
            ),
            face_model=tiny_restorer,
        )  # fmt: skip
        with client_of(services, make_key(services, "me")) as client:
            jobs = {}
            for engine in ("imagen", "flux"):
                sent = client.post(
                    f"/api/upscale/{engine}", files={"image": ("a.png", file)}, data={"upscale_factor": "2"}
                )
                assert sent.status_code == 202, sent.text
                jobs[engine] = sent.json()["jobId"]
            for name, refines in (("face", "true"), ("plain", "false")):
                fields = {
                    "preset": "face", "scale": "2", "model": "comic-fast", "gate": "false", "refine_faces": refines
                }  # fmt: skip
                sent = client.post("/api/v1/uploads", files=[("file", ("a.png", file))], data=fields)
                jobs[name] = sent.json()["job_id"]
            options = WorkerOptions(worker_id="w", defaults={"workers": 1, "device": "cpu"})
            work(services.settings, options, StopRequest())
            made = {}
            for name, job_id in jobs.items():
                result = client.get(f"/api/v1/jobs/{job_id}/result", follow_redirects=True)
                assert result.status_code == 200, client.get(f"/api/v1/jobs/{job_id}").text
                with Image.open(io.BytesIO(result.content)) as page:
                    made[name] = np.asarray(page.convert("RGB")).astype(int)
            models = {
                name: client.get(f"/api/v1/jobs/{job_id}").json()["model"] for name, job_id in jobs.items()
            }
        assert {page.shape for page in made.values()} == {(512, 640, 3)}
        assert (models["imagen"], models["flux"]) == (MODEL, "tiny-flux")
        assert fake.billed == len(fake.calls) == 1
        for name in ("imagen", "flux"):
            assert np.abs(made[name] - made["plain"]).mean() > 1
        # Random weights draw another tone, which the run balances in the whole page. Other detail is in the face alone.
        changed = np.abs(made["face"] - made["plain"]).max(axis=2) > 40
        rows, columns = np.nonzero(changed)
        assert rows.size and rows.max() < 480 and 20 < columns.min() < columns.max() < 540
