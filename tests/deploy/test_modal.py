"""The file for Modal: its functions run here by ``.local()``; no account is needed."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("modal", reason="modal is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
PATH = Path(__file__).parents[2] / "deploy" / "modal" / "app.py"


@pytest.fixture(scope="module")
def deployment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("modal_app", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_is_upscaled_goes_on_and_names_what_failed(
    deployment: ModuleType, tiny_weights: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "sub/b.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 60), "gray").save(source / name)
    (source / "broken.png").write_bytes(b"not an image")
    (source / "notes.txt").write_text("no page")
    (source / "gone.png").symlink_to(source / "nowhere.png")
    pages = deployment.Pages(model=str(tiny_weights))
    sent, lost = [], 3

    def call(
        inputs: Iterator[bytes], *, kwargs: dict[str, Any], order_outputs: bool, return_exceptions: bool
    ) -> Iterator[Any]:
        """As ``map`` of a function of Modal, on this machine."""
        assert order_outputs and return_exceptions
        for data in inputs:
            sent.append(data)
            # A page at fault raises nothing: Modal would call again. A lost container does.
            result = pages.page.local(data, **kwargs)
            yield result if lost != len(sent) else RuntimeError("the container was lost")

    failures = deployment.upscale_folder(call, source, target, scale=2.5, suffix=".webp")
    assert sorted(failure.split(": ")[0] for failure in failures) == ["broken.png", "gone.png", "sub/b.jpg"]
    assert not (target / "sub").exists()
    lost = 0
    failures = deployment.upscale_folder(call, source, target, scale=2.5, suffix=".webp")
    assert len(failures) == 2 and any("broken.png: The file is not" in failure for failure in failures), (
        failures
    )
    outputs = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert outputs == ["a.png.webp", "sub/b.jpg.webp"]
    with Image.open(io.BytesIO((target / "a.png.webp").read_bytes())) as made:
        assert (made.size, made.format) == ((100, 150), "WEBP")
    assert len(sent) == 5
    deployment.upscale_folder(call, source, target, scale=2.5, suffix=".webp")
    assert len(sent) == 6, "only the broken page is sent again"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": "nowhere"}, "no folder nowhere"),
        ({"scale": 9.0}, "at most 8"),
        ({"scale": 1.0}, "above 1"),
        ({"suffix": ".gif"}, "must be one of .png"),
    ],
)
def test_mistakes_are_refused_before_anything_is_sent(
    deployment: ModuleType, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    given = {"input": str(tmp_path), "output": str(tmp_path / "out"), **changes}
    with pytest.raises(SystemExit, match=words):
        deployment.main.info.raw_f(**given)
