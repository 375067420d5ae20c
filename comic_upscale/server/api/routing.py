"""Routers whose routes have a limit for bodies, unless a route sets its own.

The limit is that of the router itself. Where one router is included in another to get a limit, FastAPI builds each
route twice.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter

MOST_BODY = 1 << 20
"""Bytes of the body of any request of the interface but an upload."""
MOST_FORM = 1 << 16
"""Bytes of the body of any request of the pages but an upload."""

api_router = partial(APIRouter, max_body_size=MOST_BODY)
"""Makes a router of the interface."""
page_router = partial(APIRouter, max_body_size=MOST_FORM)
"""Makes a router of the pages."""
