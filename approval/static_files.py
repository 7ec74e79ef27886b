"""The stylesheet, our scripts and the vendored player: read once, by name; nothing else of the folder is served."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from approval.showing import not_there

router = APIRouter()
_TYPES: Final[Mapping[str, str]] = {
    "style.css": "text/css",
    "replay.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/asciinema-player.min.js": "text/javascript",
    "vendor/asciinema-player.css": "text/css",
}


@cache
def _read(name: str) -> bytes:
    return resources.files("approval").joinpath("static", *name.split("/")).read_bytes()


@router.get("/static/{name:path}")
async def static(name: str) -> Response:
    if name not in _TYPES:
        raise not_there()
    return Response(_read(name), media_type=_TYPES[name])
