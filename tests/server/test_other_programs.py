"""Programs that know nothing of this server: Suwayomi-Server, clients of the AUTOMATIC1111 web UI, and the requests
of the documents that this server was made from. All over real processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, RunningServer, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the server that jobs may use."""
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("server")
    server = RunningServer(home / "data", home, "--device", "cpu", "--root", library)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return draw(tmp_path / "page.png", 7, size=(24, 32))


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        return image.size


# Suwayomi-Server


def suwayomi_body(name: str, kind: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """The body that OkHttp's MultipartBody makes of `addFormDataPart("image", name, content)`."""
    boundary = "4f0ba9bb-6f5a-4f5c-9d5f-1d3f0a7c2b11"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_suwayomi_gets_the_page_in_the_body(server: RunningServer, page: Path) -> None:
    body, headers = suwayomi_body("001.png", "image/png", page.read_bytes())
    # Suwayomi has a URL and nothing else, so the key is in it.
    with httpx.Client(base_url=server.api, timeout=PATIENCE) as plain:
        url = f"/convert?key={server.key}&factor=2"
        answer = plain.post(url, content=body, headers=headers)
    assert answer.status_code == 200, answer.headers
    assert (answer.headers["x-comic-upscale"], answer.headers["content-type"]) == ("upscaled", "image/png")
    assert size_of(answer.content) == (48, 64)
    # The key is in no log.
    assert server.key not in server.log()


@pytest.mark.parametrize(
    ("query", "name", "reason"),
    [
        ("", "001.jpg", "Send a valid API key"),
        ("?key=cu_wrong", "001.jpg", "Send a valid API key"),
        ("?key={key}&factor=99", "001.jpg", "at most 8"),
        ("?key={key}&model=/etc/passwd", "001.jpg", "no model"),
        ("?key={key}&output=/tmp", "001.jpg", "no option"),
        ("?key={key}", "001.jpg", "cannot be"),
    ],
)
def test_a_refused_page_comes_back_as_it_was_and_never_as_json(
    server: RunningServer, query: str, name: str, reason: str
) -> None:
    broken = b"\xff\xd8\xff\xe0 not really a page" * 100
    body, headers = suwayomi_body(name, "image/jpeg", broken)
    with httpx.Client(base_url=server.api, timeout=PATIENCE) as plain:
        answer = plain.post("/convert" + query.format(key=server.key), content=body, headers=headers)
    assert answer.content == broken
    assert (answer.headers["x-comic-upscale"], answer.headers["content-type"]) == ("original", "image/jpeg")
    assert reason in answer.headers["x-comic-upscale-reason"] or reason == "cannot be"


def test_a_request_without_a_page_is_refused_without_json(server: RunningServer) -> None:
    with httpx.Client(base_url=server.api, timeout=PATIENCE) as plain:
        for content, kind in ((b"{}", "application/json"), (b"--b--\r\n", "multipart/form-data; boundary=b")):
            answer = plain.post("/convert", content=content, headers={"Content-Type": kind})
            assert (answer.status_code, answer.content) == (400, b""), answer.content
            assert answer.headers["x-comic-upscale"] == "error"


# AUTOMATIC1111


def test_webuiapi_upscales_images(server: RunningServer, page: Path) -> None:
    webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed: pip install webuiapi")
    api = webuiapi.WebUIApi(baseurl=f"{server.api}/sdapi/v1", username="me", password=server.key)
    source = Image.open(page)
    single = api.extra_single_image(source, upscaler_1="None", upscaling_resize=2)
    assert single.image.size == (48, 64) and single.info == '["image.png"]'
    fitted = api.extra_single_image(
        source, resize_mode=1, upscaling_resize_w=60, upscaling_resize_h=64, upscaler_1="comic-compact-x3"
    )
    assert fitted.image.size == (48, 64)
    both = api.extra_batch_images([source, source.resize((20, 20))], upscaling_resize=1.5)
    assert [image.size for image in both.images] == [(36, 48), (30, 30)]
    names = [upscaler["name"] for upscaler in api.get_upscalers()]
    assert names[0] == "None" and "RealESRGAN_x4plus" in names
    assert api.get_progress()["progress"] == 0.0
    assert api.get_options()["samples_format"] == "png" and api.get_sd_models() == []
    assert api.interrupt() == {}
    for wrong in ({"upscaler_1": "SwinIR_4x"}, {"upscaling_resize": 12}, {"codeformer_visibility": 1}):
        with pytest.raises(RuntimeError):
            api.extra_single_image(source, **wrong)
    with pytest.raises(RuntimeError, match="401"):
        webuiapi.WebUIApi(baseurl=f"{server.api}/sdapi/v1", username="me", password="no").extra_single_image(
            source
        )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("https://192.0.2.1/page.png", "fetches no URL"),
        ("HTTP://localhost/page.png", "fetches no URL"),
        ("file:///etc/passwd", "fetches no URL"),
        ("!!!", "base64"),
        ("data:image/png;base64,", "empty"),
    ],
)
def test_an_image_that_is_a_url_is_refused(client: httpx.Client, image: str, message: str) -> None:
    answer = client.post("/sdapi/v1/extra-single-image", json={"image": image})
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_a_broken_image_is_an_error_and_no_hang(client: httpx.Client) -> None:
    answer = client.post("/sdapi/v1/extra-single-image", json={"image": "iVBORw0KGgoAAAA="})
    assert answer.status_code == 422, answer.text


def test_a_page_of_another_host_cannot_use_basic_credentials(server: RunningServer, page: Path) -> None:
    with httpx.Client(base_url=server.api, auth=("me", server.key), timeout=PATIENCE) as basic:
        assert basic.get("/api/v1/jobs").status_code == 200
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        answer = basic.post("/sdapi/v1/interrupt", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")


# Neural Image Restore


def test_the_example_of_neural_image_restore(client: httpx.Client, server: RunningServer, page: Path) -> None:
    files = [("files", ("photo.png", page.read_bytes())), ("files", ("second.png", page.read_bytes()))]
    headers = {"X-API-KEY": server.key}
    answer = client.post("/enhance", files=files, data={"face_enhance": "true"}, headers=headers)
    assert answer.status_code == 202 and answer.json()["status"] == "queued"
    assert answer.json()["queue_position"] >= 1 and "Faces are not refined" in answer.json()["notes"][0]
    job_id = answer.json()["job_id"]

    def poll() -> dict[str, object] | None:
        found: dict[str, object] = client.get(f"/status/{job_id}", headers=headers).json()
        assert found["status"] in ("queued", "processing", "completed")
        assert found["status"] == "completed" or found["results"] == []
        return found if found["status"] == "completed" else None

    results = wait_for(poll)["results"]
    assert [each["original_filename"] for each in results] == ["photo.png", "second.png"]
    # By a signed link, not by the file name of the document.
    content = client.get(results[0]["url"], headers={"X-API-KEY": ""}).content
    assert size_of(content) == (96, 128)


# The upscaler API

TEST_API = """
TASK_ID=$(curl -s -X POST $URL/api/upscale/esrgan -H "X-API-Key: $KEY" \
  -F "image=@$PAGE" \
  -F "target_width=2000" \
  -F "target_height=1000" \
  -F "model=4x-UltraSharp" | $JQ task_id)

while true; do
  STATUS=$(curl -s -H "X-API-Key: $KEY" $URL/api/status/$TASK_ID | $JQ status)
  if [ "$STATUS" == "completed" ]; then break
  elif [ "$STATUS" == "failed" ]; then exit 1
  fi
  sleep 0.2
done
curl -s -L -H "X-API-Key: $KEY" $URL/api/results/$TASK_ID.png
"""


def test_the_script_of_the_upscaler_api(server: RunningServer, tmp_path: Path) -> None:
    """`test-api.sh` of the document, with a key. Its model is not free, so the default of the server stands in."""
    page = draw(tmp_path / "sample1.png", 3, size=(300, 150))
    reader = tmp_path / "jq.py"
    reader.write_text("import json, sys; print(json.load(sys.stdin)[sys.argv[1]])")
    environment = {
        **os.environ, "URL": server.api, "KEY": server.key, "PAGE": str(page),
        "JQ": f"{os.sys.executable} {reader}",  # type: ignore[attr-defined]
    }  # fmt: skip
    ended = subprocess.run(["bash", "-c", TEST_API], env=environment, capture_output=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert size_of(ended.stdout) == (2000, 1000)


def test_the_fields_of_the_upscaler_api(client: httpx.Client, page: Path) -> None:
    fields = {
        "upscale_factor": "2", "target_dpi": "150", "tile_size": "512", "use_fp16": "true", "output_format": "tiff",
    }  # fmt: skip
    answer = client.post(
        "/api/upscale/esrgan", files={"file": ("page.png", page.read_bytes())}, data=fields
    ).json()
    assert answer["status"] == "queued" and answer["jobId"] == answer["task_id"]
    assert [note.split()[0] for note in answer["notes"]] == ["tile_size", "use_fp16"]
    params = client.get(f"/api/v1/jobs/{answer['jobId']}").json()["params"]
    assert (params["size"], params["format"]) == ("scale 2", "tiff")
    inches = {"target_width_inches": "2", "target_height_inches": "3", "target_dpi": "300"}
    sized = client.post(
        "/api/upscale/esrgan", files={"file": ("page.png", page.read_bytes())}, data=inches
    ).json()
    assert client.get(f"/api/v1/jobs/{sized['jobId']}").json()["params"]["size"] == "fit 600x900"
    wrong = client.post(
        "/api/upscale/esrgan",
        files={"file": ("page.png", page.read_bytes())},
        data={"target_dpi": "x", "a": "1"},
    )
    assert wrong.status_code == 400


@pytest.mark.parametrize(("engine", "words"), [("flux", "FLUX"), ("imagen", "Google Cloud")])
def test_engines_that_are_not_there_say_so(client: httpx.Client, page: Path, engine: str, words: str) -> None:
    fields = {"target_width": "3000", "target_height": "1500", "gcp_project_id": "my-gcp-project"}
    answer = client.post(
        f"/api/upscale/{engine}", files={"image": ("test.jpg", page.read_bytes())}, data=fields
    )
    assert answer.status_code == 501 and words in answer.json()["error"]["message"]


def test_the_health_of_the_upscaler_api(server: RunningServer) -> None:
    found = httpx.get(f"{server.api}/api/health").json()
    assert set(found) == {
        "status", "gpu_available", "gpu_name", "gpu_memory_free", "models_loaded", "queue_size",
    }  # fmt: skip
    assert found["status"] == "healthy"


# ChibiBooru, and jobs over folders


def test_an_image_of_the_server_is_upscaled_and_deleted(
    server: RunningServer, client: httpx.Client, library: Path
) -> None:
    image = draw(library / "images" / "ab" / "cat.png", 9, size=(20, 30))
    body = {"filepath": "images/ab/cat.png"}
    answer = client.post("/api/upscale", json=body).json()
    assert answer["success"] is True
    job = server.wait(client, answer["job_id"])
    assert (job["status"], job["result_url"]) == ("completed", None), job
    output = Path(answer["upscaled_path"]) / "cat.png"
    assert output == image.parent / "upscaled" / "cat.png" / "cat.png" and size_of(output.read_bytes()) == (
        50,
        75,
    )
    again = client.post("/api/upscale", json=body).json()
    assert (again["success"], again["error"]) == (False, "Already upscaled")
    forced = client.post("/api/upscale", json=body | {"force": True}).json()
    assert server.wait(client, forced["job_id"])["pages"]["done"] == 1
    image.unlink()
    assert client.request("DELETE", "/api/upscale", json=body).json()["success"] is True
    assert not output.exists() and (image.parent / "upscaled").is_dir()
    assert client.request("DELETE", "/api/upscale", json=body).status_code == 404


def test_a_library_is_upscaled_in_place_as_run_does(
    server: RunningServer, client: httpx.Client, library: Path, tmp_path: Path
) -> None:
    books = library / "books"
    draw(books / "loose.png", 1, size=(20, 24))
    with zipfile.ZipFile(books / "Book.cbz", "w") as archive:
        for number in range(2):
            archive.write(draw(tmp_path / f"{number}.png", number, size=(20, 24)), f"{number}.png")
    asked = {"input": "books", "options": {"factor": "2"}}
    created = client.post("/api/v1/admin/jobs", json=asked)
    assert created.status_code == 202, created.text
    job = server.wait(client, created.json()["job_id"])
    assert (job["status"], job["pages"]["done"], job["output"]) == ("completed", 3, str(books / "upscaled"))
    assert client.get(f"/api/v1/jobs/{job['job_id']}/result").status_code == 404
    assert size_of((books / "upscaled" / "loose.png").read_bytes()) == (40, 48)
    status = server.run("status", "--job", books / "upscaled", "--json")
    assert json.loads(status)["done"] == 3
    # The ledger is there, so a second job finds everything done; `run` would, too.
    again = server.wait(client, client.post("/api/v1/admin/jobs", json=asked).json()["job_id"])
    assert (again["status"], again["pages"]["done"]) == ("completed", 3)
    repeated = client.post(f"/api/v1/admin/jobs/{job['job_id']}/requeue", json={})
    assert repeated.json()["input"] == str(books)
    assert server.wait(client, repeated.json()["job_id"])["status"] == "completed"


def test_the_links_of_a_library_may_not_lead_out_of_it(
    server: RunningServer, client: httpx.Client, library: Path, tmp_path: Path
) -> None:
    outside = draw(tmp_path / "secret" / "page.png", 1, size=(20, 24))
    (library / "linked").mkdir()
    (library / "out").symlink_to(outside.parent)
    for path in (
        "out",
        "out/page.png",
        "../",
        str(tmp_path),
        "/etc/passwd",
        "linked/../../x",
        "nothing",
        "a\0b",
    ):
        answer = client.post("/api/v1/admin/jobs", json={"input": path})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "input"), (path, answer.text)
        booru = client.post("/api/upscale", json={"filepath": path})
        assert booru.status_code == 400, (path, booru.text)
    draw(library / "linked" / "good.png", 2, size=(20, 24))
    for output in ("out", "out/new", str(tmp_path / "new"), "linked", ".", "/"):
        answer = client.post("/api/v1/admin/jobs", json={"input": "linked", "output": output})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "output"), (output, answer.text)
    # A link below the input, which only the worker sees.
    (library / "linked" / "deep").mkdir()
    (library / "linked" / "deep" / "page.png").symlink_to(outside)
    created = client.post("/api/v1/admin/jobs", json={"input": "linked"}).json()
    job = server.wait(client, created["job_id"])
    assert job["status"] == "failed" and "not below a folder" in job["error"]["message"]
    assert not (library / "linked" / "upscaled").exists()


def test_folders_of_the_server_are_for_administrators(server: RunningServer, client: httpx.Client) -> None:
    user = server.run("server", "key", "create", "--data", server.data, "--name", "reader").strip()
    with server.client(user) as reader:
        for method, path, body in (
            ("POST", "/api/v1/admin/jobs", {"input": "books"}),
            ("POST", "/api/upscale", {"filepath": "x.png"}),
            ("DELETE", "/api/upscale", {"filepath": "x.png"}),
        ):
            assert reader.request(method, path, json=body).status_code == 403


# Logging in as the roadmap says


def test_the_paths_of_the_roadmap(server: RunningServer, client: httpx.Client, page: Path) -> None:
    with httpx.Client(base_url=server.pages, timeout=PATIENCE) as browser:
        wrong = browser.post("/login", data={"username": "nobody", "password": "wrong"})
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    job = server.wait(client, server.upload(client, page, factor="2"))
    answer = client.get(f"/download/{job['job_id']}")
    assert size_of(answer.content) == (48, 64)


def test_a_default_conversion_keeps_the_format(client: httpx.Client, tmp_path: Path) -> None:
    page = tmp_path / "page.webp"
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(page, lossless=True)
    answer = client.post("/convert", files={"image": ("odd name", page.read_bytes())})
    assert (answer.headers["x-comic-upscale"], answer.headers["content-type"]) == ("upscaled", "image/webp")


def test_options_of_the_web_ui_are_accepted_and_change_nothing(open_server: OpenServices) -> None:
    services = open_server()
    with client_of(services, make_key(services, "me")) as client:
        before = client.get("/sdapi/v1/options").json()
        answer = client.post(
            "/sdapi/v1/options", json={"samples_format": "webp", "CLIP_stop_at_last_layers": 2}
        )
        assert (answer.status_code, answer.json()) == (200, None)
        assert client.get("/sdapi/v1/options").json() == before
        assert client.post("/sdapi/v1/options", json=["no options"]).status_code in (400, 422)
    with client_of(services) as stranger:
        assert stranger.post("/sdapi/v1/options", json={}).status_code == 401
