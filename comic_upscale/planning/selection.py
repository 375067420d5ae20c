"""The selection of a job: a job that continues without a new one keeps what it had."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comic_upscale.errors import InputError, LedgerError, SettingsError
from comic_upscale.ledger.queries import read_job_header
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import is_default_place, path_text
from comic_upscale.settings.selection import Selection, read_selection


def with_recorded_selection(settings: JobSettings) -> JobSettings:
    """Return settings with the selection of the last run over the same folders, unless they have one."""
    if settings.selection is not None:
        return settings
    recorded = _recorded_selection(settings)
    return settings if recorded is None else replace(settings, selection=recorded)


def has_selection_of(settings: JobSettings, job: Mapping[str, Any]) -> bool:
    """Return whether settings have the selection that a job was recorded with.

    Args:
        settings: the settings.
        job: the row of the job in its ledger.
    """
    with contextlib.suppress(SettingsError, ValueError):
        recorded = _selection_in(job) or Selection()
        return recorded == (settings.selection or Selection())
    return False


def _recorded_selection(settings: JobSettings) -> Selection | None:
    # Whoever opens the ledger to write reports its faults.
    with contextlib.suppress(InputError, LedgerError, SettingsError, ValueError):
        job = read_job_header(settings.ledger_path)
        # The output folder may have been moved with the ledger inside.
        same_output = is_default_place(settings.ledger_path) or job["output"] == path_text(settings.output)
        same = same_output and job["input"] == path_text(settings.input)
        return _selection_in(job) if same else None
    return None


def _selection_in(job: Mapping[str, Any]) -> Selection | None:
    record = json.loads(job["settings"])
    if isinstance(record, dict) and record.get("selection") is not None:
        return read_selection(record["selection"])
    return None
