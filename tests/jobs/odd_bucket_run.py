"""A run into a bucket whose machine goes off in the middle of a page: after some pages, without another word."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from comic_upscale.jobs.run import run_job
from comic_upscale.ledger import bucket_copy
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine


def main(source: str, output: str, ledger: str, pages: int) -> None:
    bucket_copy.SAVE_SECONDS = 0.2
    bucket_copy.SIGN_SECONDS = 0.2
    count = itertools.count(1)

    def go_off(_: object) -> None:
        if next(count) > pages:
            os._exit(9)

    settings = JobSettings(
        input=Path(source), output=Path(output), ledger=Path(ledger), model=sys.argv[5], scale=2.0, workers=2
    )
    run_job(settings, open_engines=lambda *_: [NearestEngine(go_off)])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
