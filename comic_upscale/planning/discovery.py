"""Find the pages of a job."""

from __future__ import annotations

from comic_upscale.errors import InputError
from comic_upscale.imaging.formats import output_extension
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.library.selector import Selector
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import SourceStore


def find_pages(settings: JobSettings, store: SourceStore | None = None) -> Discovery:
    """Discover the pages of a job.

    Args:
        settings: settings of the job.
        store: the store of the input; None for a folder or file on this machine.

    Raises:
        InputError: the input does not exist, or contains no page. The message says what it contains.
    """
    discovery = discover(
        settings.input if store is None else store.root,
        extension=output_extension(settings.format),
        exclude=[settings.output],
        rules=settings.volume_rules,
        archive_output=settings.archive_output,
        store=store,
        selector=Selector(settings.selection),
    )
    if not discovery.pages and not discovery.volumes:
        if settings.selection is not None and not settings.selection.is_everything:
            raise InputError(
                f"{settings.input} holds no page or volume of the selection ({settings.selection}): check the paths "
                "and patterns"
            )
        passed_over = ", ".join(f"{count} {reason}" for reason, count in discovery.passed_over.items())
        raise InputError(
            f"{settings.input} holds no image"
            + (f" (ignored: {passed_over})" if passed_over else "")
            + ": give a folder of PNG, JPEG, WebP or other images or of CBZ and other volumes, or one of these"
        )
    return discovery
