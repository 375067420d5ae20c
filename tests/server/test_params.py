"""What a request may ask about e-readers, and what it may not."""

from __future__ import annotations

import pytest

from comic_upscale.server.params import FieldError, processing_settings, read_params
from comic_upscale.settings.screens import Screen


def test_a_request_may_ask_for_pages_of_an_e_reader() -> None:
    fields = {
        "fit_device": "Kobo Libra 2", "spreads": "both", "archive_output": "kepub", "crop_margins": "true",
        "right_to_left": "true", "max_volume_size": "200M",
    }  # fmt: skip
    settings = processing_settings(read_params(fields))
    assert settings.size == Screen("kobo-libra-2", 1264, 1680, 16, 1.0, "both")
    assert (settings.archive_output, settings.crop_margins, settings.right_to_left) == ("kepub", True, True)
    assert settings.max_volume_size == 200 << 20
    # The text of the size asks for the same.
    assert processing_settings(read_params({"size": str(settings.size)})).size == settings.size


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"fit_device": "kobo libre 2"}, "fit_device", "did you mean kobo-libra-2"),
        ({"spreads": "split"}, "spreads", "spreads needs fit_device"),
        ({"fit_device": "kobo-nia", "factor": "2x"}, "factor", "exclude each other"),
        ({"archive_output": "epub", "format": "avif"}, "archive_output", "png or jpeg or webp"),
        ({"max_volume_size": "200M"}, "max_volume_size", "archive_output epub"),
        ({"replace": "true"}, "replace", "a server replaces no originals"),
        ({"replace_sources": "true"}, "replace_sources", "a server replaces no originals"),
    ],
)
def test_what_a_request_may_not_ask(fields: dict[str, str], field: str, message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        read_params(fields)
    assert caught.value.field == field


def test_an_unknown_model_is_not_answered_with_the_advice_to_name_a_path() -> None:
    for name in ("nix", "/models/mine.pth"):
        with pytest.raises(FieldError, match=r"The models are: .*comic-best") as caught:
            read_params({"model": name})
        assert "path" not in str(caught.value) and "safetensors" not in str(caught.value)
