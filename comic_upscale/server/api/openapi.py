"""The description of the interface: security, errors and examples of every route; and a viewer without another host."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.routing import APIRoute

from comic_upscale.server.api.access import find_account
from comic_upscale.server.api.errors import ErrorBody, described_error, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.version import __version__

SCHEMES: dict[str, dict[str, str]] = {
    "APIKeyHeader": {
        "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key: cu_...",
    },
    "HTTPBearer": {"type": "http", "scheme": "bearer", "description": "An API key: cu_..."},
    "HTTPBasic": {
        "type": "http", "scheme": "basic", "description": "Any name, and an API key as the password.",
    },
    "Session": {
        "type": "apiKey", "in": "cookie", "name": "__Host-comic-upscale",
        "description": "The session of a login. Requests that change something also need its token in the header "
        "X-CSRF-Token. Over plain HTTP, the cookie is named comic-upscale-session.",
    },
}  # fmt: skip

EXAMPLES = Path(__file__).with_name("examples.json")
"""Answers of a real server, recorded by ``scripts/api_examples.py``."""

_SECURED = {
    "401": "no valid key or session", "403": "not allowed", "429": "too many requests", "503": "try again later",
}  # fmt: skip
_BY_SESSION = frozenset(
    (
        "/api/v1/auth/logout",
        "/api/v1/auth/session",
        "/api/v1/auth/password",
        "/api/v1/auth/totp",
        "/api/v1/auth/totp/confirm",
    )
)
"""Routes that look at the session themselves."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>comic-upscale: REST interface</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<script src="docs/swagger-ui-bundle.js" defer></script>
<script src="docs/start.js" defer></script>
</head>
<body><div id="viewer"></div></body>
</html>
"""
_START = """window.addEventListener("DOMContentLoaded", () => {
  window.ui = SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#viewer",
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

router = api_router(include_in_schema=False)


@router.get("/docs")
async def show_docs() -> HTMLResponse:
    """Return the viewer."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
async def start_docs() -> Response:
    """Return the script that starts the viewer."""
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{name}")
async def send_viewer(name: str) -> FileResponse:
    """Return a file of Swagger UI."""
    if name not in _FILES:
        raise not_found("file")
    headers = {"Cache-Control": "public, max-age=86400"}
    return FileResponse(_viewer() / name, media_type=_FILES[name], headers=headers)


@cache
def _viewer() -> Path:
    """Return the folder with Swagger UI. The package that ships it is not imported."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "static"


def describe(app: FastAPI) -> None:
    """Let an app describe itself completely."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=__version__, description=app.description, routes=app.routes,
        license_info=app.license_info,
    )  # fmt: skip
    components = schema.setdefault("components", {})
    components["securitySchemes"] = SCHEMES
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    errors = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**errors.pop("$defs"), "ErrorBody": errors}
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    with_account = {
        route.path_format
        for route in app.routes
        if isinstance(route, APIRoute) and _needs_account(route.dependant)
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            is_secured = path in with_account or "security" in operation
            operation["security"] = _ways_in(path, needs_account=is_secured)
            _add_errors(operation)
            _add_example(operation, examples.get(f"{method.upper()} {path}"))
    return schema


def _needs_account(dependant: Dependant) -> bool:
    return any(each.call is find_account or _needs_account(each) for each in dependant.dependencies)


def _ways_in(path: str, *, needs_account: bool) -> list[dict[str, list[str]]]:
    """Return the ways to log in; none for a route that is open to all.

    FastAPI would find them by itself if its security classes were dependencies, but would then call them for each
    request.
    """
    if path in _BY_SESSION:
        return [{"Session": []}]
    return [{name: []} for name in SCHEMES] if needs_account else []


def _add_errors(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    # Requests that cannot be read get 400 in the form of all errors, not the framework's own.
    if responses.get("422", {}).get("description") == "Validation Error":
        del responses["422"]
        responses.setdefault("400", described_error("the request is not valid"))
    if operation["security"]:
        for status, words in _SECURED.items():
            responses.setdefault(status, described_error(words))
    if "requestBody" in operation:
        responses.setdefault("400", described_error("the request is not valid"))
        responses.setdefault("413", described_error("the request is too large"))
    operation["responses"] = dict(sorted(responses.items()))


def _add_example(operation: dict[str, Any], example: Any) -> None:
    """Add a recorded answer. Each error has its own example in the schema of errors."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"].endswith("_id"):
            parameter.setdefault("example", "019a2b3c-4d5e-7f60-8123-456789abcdef")
    for status in ("200", "201", "202"):
        content = operation["responses"].get(status, {}).get("content", {}).get("application/json")
        if content is not None and example is not None:
            content["example"] = example
