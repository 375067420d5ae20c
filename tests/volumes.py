"""Read volumes as a run does: list them, then read every member."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.library.discover import Discovery
from comic_upscale.library.volume import Contents
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules

RULES = VolumeRules()


def contents(path: Path, rules: VolumeRules = RULES) -> Contents:
    return list_volume(path, rules, extension="png")


def read_all(path: Path) -> dict[str, bytes]:
    """Return the members of a volume by their names."""
    listed = contents(path)
    with closing(open_container(path, RULES)) as container:
        return {member.name: container.read(member.index) for member in listed.members}


def read_pages(found: Discovery) -> dict[str, bytes]:
    """Return the pages of all volumes of an input by their sources."""
    with closing(VolumeCache(found.volumes, RULES)) as cache:
        return {
            page.source: cache.read(page.member.volume, page.member.index)
            for page in found.pages
            if page.member is not None
        }
