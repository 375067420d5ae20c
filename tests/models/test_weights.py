"""Weights by name and by path: found in order, known by hash, fetched only when they must be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models import weights as weights_module
from comic_upscale.models.catalogue import CATALOGUE, Model, WeightsFile
from comic_upscale.models.weights import locate, resolve_weights, verify, where
from tests.models.misbehaving_server import PAYLOAD, Server

Catalogue = dict[str, Model]


@pytest.fixture
def catalogue(server: Server) -> Catalogue:
    """A model that denoises and one that does not, both to be had from the local server.

    All three files hold the same bytes, as the server has only one.
    """
    general = Model(
        "general-x4", 4, "for tests", "MIT", 1.0, server.file("general-x4.pth"), server.file("wdn.pth")
    )
    plain = Model("plain-x4", 4, "for tests", "MIT", 1.0, server.file("plain-x4.pth"))
    return {"general-x4": general, "plain-x4": plain}


def test_the_official_file_is_found_by_name(animevideo_weights: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "absent", animevideo_weights.parent]
    found = resolve_weights("RealESR-animevideov3.pth", denoise=None, folders=folders, cache=tmp_path)
    entry = CATALOGUE["realesr-animevideov3"]
    assert found.path == animevideo_weights
    assert found.model is entry
    assert found.model_name == entry.name
    assert found.identity == found.sha256 == entry.weights.sha256
    assert found.denoise_path is None


def test_a_file_makes_the_same_pixels_by_name_and_by_path(animevideo_weights: Path, tmp_path: Path) -> None:
    folders = [animevideo_weights.parent]
    by_name = resolve_weights("realesr-animevideov3", denoise=None, folders=folders, cache=tmp_path)
    by_path = resolve_weights(str(animevideo_weights), denoise=None, folders=[], cache=tmp_path)
    assert by_path.identity == by_name.identity
    assert by_path.model is None
    assert by_path.model_name == "realesr-animevideov3.pth"


def test_the_first_folder_wins_and_the_cache_comes_last(catalogue: Catalogue, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("empty", "first", "second")]
    cache = tmp_path / "cache"
    for folder in [*folders[1:], cache]:
        folder.mkdir()
        (folder / "plain-x4.pth").write_bytes(PAYLOAD)

    def path() -> Path:
        found = resolve_weights("plain-x4", denoise=None, folders=folders, cache=cache, catalogue=catalogue)
        return found.path

    assert path() == folders[1] / "plain-x4.pth"
    (folders[1] / "plain-x4.pth").unlink()
    assert path() == folders[2] / "plain-x4.pth"
    (folders[2] / "plain-x4.pth").unlink()
    assert path() == cache / "plain-x4.pth"


def test_a_folder_of_that_name_is_no_file(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "plain-x4.pth").mkdir()
    assert locate(catalogue["plain-x4"].weights, [tmp_path]) is None


def test_what_is_nowhere_is_fetched_into_the_cache(
    server: Server, catalogue: Catalogue, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    events: list[tuple[str, int, int]] = []
    found = resolve_weights(
        "plain-x4",
        denoise=None,
        folders=[tmp_path],
        cache=cache,
        on_progress=lambda *event: events.append(event),
        catalogue=catalogue,
    )
    assert found.path == cache / "plain-x4.pth"
    assert found.path.read_bytes() == PAYLOAD
    assert events[-1] == ("plain-x4.pth", len(PAYLOAD), len(PAYLOAD))


def test_downloading_can_be_off(server: Server, catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights(
            "plain-x4", denoise=None, folders=[], cache=tmp_path, download=False, catalogue=catalogue
        )
    assert catalogue["plain-x4"].weights.url in str(caught.value)
    assert str(tmp_path / "plain-x4.pth") in str(caught.value)
    assert server.ranges == []


def test_what_comes_with_the_package_needs_no_folder_and_is_checked(tmp_path: Path) -> None:
    name = "comic-compact-x3"
    found = resolve_weights(name, denoise=None, folders=[], cache=tmp_path, download=False)
    assert found.path == weights_module.BUNDLED_FOLDERS[1] / f"{name}.safetensors"
    assert found.identity == CATALOGUE[name].weights.sha256
    # A file with this name in another folder may be of another version. It is neither used nor reported.
    (tmp_path / f"{name}.safetensors").write_bytes(b"older")
    assert resolve_weights(name, denoise=None, folders=[tmp_path], cache=tmp_path).path == found.path
    assert [check.state for check in verify(CATALOGUE[name], [tmp_path], tmp_path)] == ["ok"]


def test_a_missing_file_of_the_package_is_not_searched_in_other_folders(tmp_path: Path) -> None:
    file = WeightsFile("absent.safetensors", "", 5, "0" * 64)
    catalogue = {"absent": Model("absent", 3, "for tests", "MIT", 1.0, file)}
    (tmp_path / file.name).write_bytes(b"older")
    with pytest.raises(WeightsError, match=r"absent\.safetensors is missing.*install the package again"):
        resolve_weights("absent", denoise=None, folders=[tmp_path], cache=tmp_path, catalogue=catalogue)
    assert [check.state for check in verify(catalogue["absent"], [tmp_path], tmp_path)] == ["missing"]


def test_a_file_of_the_package_with_other_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "comic-compact-x3.safetensors").write_bytes(b"cut short")
    monkeypatch.setattr(weights_module, "BUNDLED_FOLDERS", (tmp_path,))
    with pytest.raises(WeightsError, match="install the package again") as caught:
        resolve_weights("comic-compact-x3", denoise=None, folders=[], cache=tmp_path)
    assert "fetch" not in str(caught.value)


@pytest.mark.parametrize("content", [b"short", bytes(len(PAYLOAD))], ids=["short", "same size"])
def test_other_bytes_under_an_official_name_are_refused(
    server: Server, catalogue: Catalogue, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "plain-x4.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        resolve_weights(
            "plain-x4", denoise=None, folders=[tmp_path], cache=tmp_path / "cache", catalogue=catalogue
        )
    message = str(caught.value)
    found = resolve_weights(str(path), denoise=None, folders=[], cache=tmp_path).sha256
    assert all(
        part in message for part in (str(path), found, catalogue["plain-x4"].weights.sha256, "--model")
    )
    assert ("bytes, the official file has" in message) == (len(content) != len(PAYLOAD))
    assert server.ranges == []


@pytest.mark.parametrize("denoise", [None, 1, 1.0])
def test_full_strength_is_the_base_weights_alone(
    server: Server, catalogue: Catalogue, tmp_path: Path, denoise: float | None
) -> None:
    found = resolve_weights("general-x4", denoise=denoise, folders=[], cache=tmp_path, catalogue=catalogue)
    assert (found.denoise_path, found.denoise_sha256) == (None, None)
    assert found.identity == found.sha256
    assert len(server.ranges) == 1


@pytest.mark.parametrize("denoise", [0, 0.5, 0.999])
def test_a_lesser_strength_needs_both_files(catalogue: Catalogue, tmp_path: Path, denoise: float) -> None:
    found = resolve_weights("general-x4", denoise=denoise, folders=[], cache=tmp_path, catalogue=catalogue)
    assert found.denoise_path == tmp_path / "wdn.pth"
    assert found.denoise_sha256 == catalogue["general-x4"].files[1].sha256
    assert found.identity != found.sha256


def test_the_strength_is_no_part_of_the_identity(catalogue: Catalogue, tmp_path: Path) -> None:
    identities = {
        resolve_weights(
            "general-x4", denoise=denoise, folders=[], cache=tmp_path, catalogue=catalogue
        ).identity
        for denoise in (0.2, 0.7)
    }
    assert len(identities) == 1


@pytest.mark.parametrize("denoise", [-0.1, 1.1, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(catalogue: Catalogue, tmp_path: Path, denoise: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        resolve_weights("general-x4", denoise=denoise, folders=[], cache=tmp_path, catalogue=catalogue)


def test_a_strength_without_denoise_weights_is_refused(
    server: Server, catalogue: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="use general-x4"):
        resolve_weights("plain-x4", denoise=0.5, folders=[], cache=tmp_path, catalogue=catalogue)
    assert server.ranges == []


def test_a_strength_for_a_file_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"realesr-general-x4v3"):
        resolve_weights(str(tiny_weights), denoise=0.5, folders=[], cache=tmp_path)


def test_a_bare_file_name_is_a_path_where_it_exists(
    tmp_path: Path, animevideo_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").write_bytes(b"anything")
    found = resolve_weights("mine.pth", denoise=None, folders=[], cache=tmp_path)
    assert found.path == Path("mine.pth")
    # Not there, so that the catalogue is asked.
    folders = [animevideo_weights.parent]
    found = resolve_weights("realesr-animevideov3.pth", denoise=None, folders=folders, cache=tmp_path)
    assert found.path == animevideo_weights


def test_a_path_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth does not exist"):
        resolve_weights(str(tmp_path / "absent.pth"), denoise=None, folders=[], cache=tmp_path)
    with pytest.raises(WeightsError, match="is a folder"):
        resolve_weights(str(tmp_path), denoise=None, folders=[], cache=tmp_path)


def test_an_unknown_name_gets_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="realesr-animevideov3"):
        resolve_weights("absent.safetensors", denoise=None, folders=[], cache=tmp_path)


def test_verify_tells_right_from_wrong_from_missing(catalogue: Catalogue, tmp_path: Path) -> None:
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    folder.mkdir()
    cache.mkdir()
    general = catalogue["general-x4"]
    (cache / "general-x4.pth").write_bytes(PAYLOAD)
    assert verify(general, [folder], cache) == [
        (general.weights, cache / "general-x4.pth", "ok"),
        (general.denoise_weights, None, "missing"),
    ]
    (folder / "wdn.pth").write_bytes(b"other")
    assert [check.state for check in verify(general, [folder], cache)] == ["ok", "wrong hash"]
    assert where(general, [folder], cache) == [
        (general.weights, cache / "general-x4.pth"),
        (general.denoise_weights, folder / "wdn.pth"),
    ]
