"""Signed links: valid for one purpose, for some minutes, under each of the secrets."""

from __future__ import annotations

import pytest

from comic_upscale.server import links
from comic_upscale.server.links import Link, LinkError, LinkExpiredError, Links

OLD, NEW = "the old long secret", "the new long secret"
LINK = Link("file", "some-file")


def test_secrets_rotate() -> None:
    before, during, after = Links([OLD]), Links([OLD, NEW]), Links([NEW])
    assert during.verify("file", before.sign(LINK)) == LINK
    assert after.verify("file", during.sign(LINK)) == LINK
    with pytest.raises(LinkError):
        after.verify("file", before.sign(LINK))


def test_a_link_is_valid_for_its_purpose_alone() -> None:
    token = Links([OLD]).sign(LINK)
    for purpose, text in (("results", token), ("file", token[:-1]), ("file", token[1:]), ("file", "")):
        with pytest.raises(LinkError):
            Links([OLD]).verify(purpose, text)  # type: ignore[arg-type]


def test_a_link_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    token = Links([OLD]).sign(LINK)
    monkeypatch.setattr(links, "LIFETIME_SECONDS", -1)
    with pytest.raises(LinkExpiredError):
        Links([OLD]).verify("file", token)
