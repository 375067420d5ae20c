"""Turning values into HTML: the templates, and the words in which they show sizes, times and states."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from comic_upscale.server.api.access import root_of
from comic_upscale.server.jobs import iso
from comic_upscale.server.library import may_use
from comic_upscale.server.pages.access import Viewer, page_address
from comic_upscale.server.pages.assets import assets
from comic_upscale.server.params import ALLOWED
from comic_upscale.server.quotas import Quota
from comic_upscale.server.words import as_sentence
from comic_upscale.settings.option_json import to_json
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.screens import read_devices
from comic_upscale.version import __version__

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""What a browser lets a page do: nothing comes from another host, and no script or style is in the HTML itself."""

NOTICES: Mapping[str, str] = {
    "backed-up": "The database is saved in the newest file below. Uploads and results are not part of it.",
    "blocked": "The user is blocked, and the sessions have ended.",
    "canceled": "The job is canceled. Pages in progress may still finish.",
    "changed": "The change is saved.",
    "created": "The user is created.",
    "deleted": "The job is deleted.",
    "drained": "The worker takes no new job. It ends after those that it runs.",
    "ended": "The session has ended.",
    "expired": "Your session has ended. Sign in again.",
    "factor": "The second factor is on. Each sign-in now needs a code of the app.",
    "factor-ended": "The second factor is off.",
    "password": "The password is changed. All other sessions have ended.",
    "queued": "The job is queued.",
    "queue": "The queue is changed.",
    "registered": "The model is registered. Uploads may choose it.",
    "revoked": "The key is revoked.",
    "signed-out": "You have signed out.",
    "unchanged": "Nothing was changed.",
    "user-deleted": "The user is deleted, with all jobs, results, keys and sessions.",
    "undrained": "The worker is no longer drained.",
    "unwatched": "The folder is no longer watched. Its jobs and results stay.",
    "watched": "The folder is watched. What is in it now is upscaled, and later what is new or changed.",
    "watch-paused": "The watched folder is paused.",
    "watch-resumed": "The folder is watched again.",
}
"""What a page says after a change, by the word in its address. So no address makes a page say anything else."""


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """Return a page.

    Args:
        request: that the page answers.
        template: a file of the folder ``templates``.
        status: of the HTTP response.
        headers: of the HTTP response.
        values: for the template.
    """
    root, settings = root_of(request), request.app.state.services.settings
    viewer: Viewer | None = getattr(request.state, "viewer", None)
    text = _environment().get_template(template).render(
        {
            "viewer": viewer,
            "csrf_token": "" if viewer is None else viewer.csrf_token,
            "root": root,
            "here": page_address(request),
            "notice": NOTICES.get(request.query_params.get("notice", "")),
            "version": __version__,
            "has_library": viewer is not None and may_use(settings, viewer.account),
            "public": settings.public,
            "asset": lambda name: f"{root}/static/{name}?v={assets()[name].digest}",
            **values,
        }
    )  # fmt: skip
    own = {
        "Content-Security-Policy": POLICY,
        # With no-referrer, browsers would hide from the check of a form where it comes from.
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(text, status, {**own, **(headers or {})})


def wants_part(request: Request) -> bool:
    """Return whether a script asks for a part of a page, to put it in place of an older one."""
    return "hx-request" in request.headers


def go_to(request: Request, path: str, notice: str | None = None) -> RedirectResponse:
    """Return a redirect to a page, which then says what was done.

    Args:
        request: that is answered.
        path: of the page, below the root of the server.
        notice: a key of `NOTICES`.
    """
    mark = "" if notice is None else f"{'&' if '?' in path else '?'}notice={notice}"
    # The middleware of the server adds the path under which a proxy shows it.
    return RedirectResponse(f"{path}{mark}", 303)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("comic_upscale.server.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=size_text,
        seconds=seconds_text,
        about_seconds=about_seconds,
        number=number_text,
        count=count_text,
        sentence=as_sentence,
        browser=browser_name,
        quota=quota_text,
        iso=iso,
        options=options_text,
        detail=detail_text,
        scopes=scopes_text,
        shorten=shorten,
    )
    return environment


def size_text(size: float | None) -> str:
    """Return bytes as people read them: ``12.3 MB``."""
    if size is None:
        return "-"
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"


def seconds_text(seconds: float | None) -> str:
    """Return a time as people read it: ``2 min 5 s``."""
    if seconds is None:
        return "-"
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{round(whole / 86400)} days"


def about_seconds(seconds: float) -> str:
    """Return an estimated time: ``about 2 min 5 s``, or ``less than a second``."""
    return "less than a second" if seconds < 1 else f"about {seconds_text(seconds)}"


def number_text(number: float | None) -> str:
    """Return a number with separators between thousands."""
    return "-" if number is None else f"{number:,}"


def count_text(number: float | None, noun: str) -> str:
    """Return a number with what it counts: ``1 page``, ``2,000 pages``."""
    return f"{number_text(number)} {noun}{'' if number == 1 else 's'}"


def quota_text(quota: Quota) -> str:
    """Return how much of a limit is used: ``3 of 50 pages``."""
    if quota.kind == "bytes":
        return f"{size_text(quota.used)} of {size_text(quota.most)}"
    return f"{number_text(quota.used)} of {count_text(quota.most, quota.kind.removesuffix('s'))}"


_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS = (
    ("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iPadOS"), ("Windows", "Windows"), ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)  # fmt: skip
"""Marks in what a browser says about itself. Most of them claim to be several: the first that fits is right."""


def browser_name(agent: str | None) -> str:
    """Return a browser and its system as people call them: ``Firefox on Windows``; else the text itself."""
    if not agent:
        return "unknown"
    browser = next((name for mark, name in _BROWSERS if f"{mark}/" in agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in agent), None)
    return f"{browser} on {system}" if browser and system else agent


def options_text(params: Mapping[str, Any]) -> str:
    """Return the size, the model and the format of a job, and the options that are not as usual, in a line."""
    order = ("size", "model", "format")
    if tried := params.get("try_models"):
        return ", ".join(
            filter(None, (_value_text(params.get("size") or ""), f"trial of {', '.join(map(str, tried))}"))
        )
    named = [_value_text(params[name]) for name in order if params.get(name) not in (None, "auto", "")]
    usual = _defaults()
    rest = [
        _option_text(name, value)
        for name, value in params.items()
        if name not in order and value != usual.get(name) and value is not None
    ]
    return ", ".join([*named, *rest]) or "defaults"


def _value_text(value: Any) -> str:
    """Return ``2`` and a multiplication sign for a scale, the title of an e-reader; other values as they are."""
    kind, _, rest = str(value).partition(" ")
    if kind == "screen" and (device := read_devices().get(rest.partition(" ")[0])) is not None:
        return device.title
    return f"{rest}\N{MULTIPLICATION SIGN}" if kind == "scale" and rest else str(value)


_OPTION_WORDS = {
    "archive_output": "volumes as", "gray": "gray pages:", "icc": "colour profile:", "levels": "black and white:",
    "gate": "quality gate", "png_level": "PNG level", "pdf_dpi": "dots per inch of PDFs:",
    "skip_larger_than": "without pages above", "animated": "animations:", "tta": "several passes a page",
}  # fmt: skip
"""What the names of options do not say by themselves."""


def _option_text(name: str, value: Any) -> str:
    """Return an option and its value as people read them: ``neutral paper``, ``volumes as EPUB``."""
    words = _OPTION_WORDS.get(name, name.replace("_", " "))
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if name == "rules":
        return count_text(len(value), "rule")
    if name == "levels" and value == "auto":
        return "ink black, paper white"
    if name == "archive_output" and value != "folder":
        return f"{words} {str(value).upper()}"
    return f"{words} {detail_text(value)}"


def detail_text(value: Any) -> str:
    """Return a value of JSON as people read it: ``jobs:read, jobs:write``, ``yes``, ``none``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {detail_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(detail_text, value)) or "none"
    return str(value)


_SCOPE_WORDS = {
    "jobs:read": "see jobs",
    "jobs:write": "upload and change jobs",
    "admin": "administer the server",
}


def scopes_text(scopes: str) -> str:
    """Return what a key may do, by its permissions with spaces between them."""
    return ", ".join(_SCOPE_WORDS.get(scope, scope) for scope in scopes.split())


@cache
def _defaults() -> Mapping[str, Any]:
    return to_json(ProcessingSettings(), ALLOWED)


def shorten(text: str, most: int = 64) -> str:
    """Return a text with its middle left out if it is long: names of files differ at their ends."""
    return text if len(text) <= most else f"{text[: most - 21]}…{text[-20:]}"
