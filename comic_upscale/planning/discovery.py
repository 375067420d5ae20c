"""Which pages a job has."""

from __future__ import annotations

from comic_upscale.errors import InputError
from comic_upscale.imaging.formats import output_extension
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import SourceStore


def find_pages(settings: JobSettings, store: SourceStore | None = None) -> Discovery:
    """Discover the pages of a job.

    Args:
        settings: of the job.
        store: where the input is; None for a folder or a file of this machine.

    Raises:
        InputError: the input is not there, or holds no page; the message says what it does hold.
    """
    discovery = discover(
        settings.input if store is None else store.root,
        extension=output_extension(settings.format),
        exclude=[settings.output],
        rules=settings.volume_rules,
        archive_output=settings.archive_output,
        store=store,
    )
    if not discovery.pages and not discovery.volumes:
        passed_over = ", ".join(f"{count} {reason}" for reason, count in discovery.passed_over.items())
        raise InputError(
            f"{settings.input} holds no image"
            + (f" (passed over: {passed_over})" if passed_over else "")
            + ": give a folder of PNG, JPEG, WebP or other images or of CBZ and other volumes, or one of these"
        )
    return discovery
