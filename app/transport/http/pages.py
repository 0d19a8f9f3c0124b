"""The documentation pages, on or off by `ENABLE_DOCS`, and the OpenAPI document cleaned of what is not ours."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from app.transport.http.answers import ok
from app.transport.http.problems import PROBLEM_SCHEMA, problem_schema

OPENAPI_PATH = "/openapi.json"
_ASSETS_PATH = "/docs/assets"
_NO_ICON = "data:,"
_REDOC_SCRIPT = f"{_ASSETS_PATH}/redoc.standalone.js"
# ReDoc would show its maker's logo from its maker's server.
_FOREIGN_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
# ReDoc puts two <style> elements into the page: an empty one, which it fills by rules, and that of its
# scroll bar. A new version of it may bring another: then the console of a browser names the hash.
_REDOC_STYLES: Final = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"
)
# ReDoc searches in a worker that it makes of a blob.
_PAGE_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "connect-src 'self'; font-src 'self' data:; img-src 'self' data:; worker-src blob:"
)
_NOT_OURS = ("HTTPValidationError", "ValidationError")

OpenApi = dict[str, Any]  # a JSON schema document has no narrower type


def install_pages(app: FastAPI, *, enabled: bool) -> None:
    """`app.openapi()` always works; the pages are served only when enabled.

    Build the app with `openapi_url=None`, so that FastAPI adds no pages of its own.
    """
    document: list[OpenApi] = []

    def openapi() -> OpenApi:
        if not document:
            document.append(build_openapi(app))
        return document[0]

    app.openapi = openapi
    if enabled:
        _add_pages(app)


def build_openapi(app: FastAPI) -> OpenApi:
    """The served document: every refusal is a Problem, and only what is referred to is defined."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _NOT_OURS:
        schemas.pop(name, None)
    schemas[PROBLEM_SCHEMA] = problem_schema()
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    return document


def _without_null(schema: OpenApi) -> OpenApi:
    """A parameter may be left out, but a URL has no way to write null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    return {**choices[0], **rest}


def _add_pages(app: FastAPI) -> None:
    @cache
    def render_openapi() -> bytes:
        return bytes(ok(app.openapi()).body)

    async def serve_openapi(_request: Request) -> Response:
        return Response(render_openapi(), media_type="application/json")

    async def serve_swagger(_request: Request) -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=OPENAPI_PATH,
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{_ASSETS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS_PATH}/swagger-ui.css",
            swagger_favicon_url=_NO_ICON,
        )
        return _with_policy(page)

    async def serve_redoc(_request: Request) -> HTMLResponse:
        page = get_redoc_html(
            openapi_url=OPENAPI_PATH,
            title=f"{app.title} - ReDoc",
            redoc_js_url=_REDOC_SCRIPT,
            redoc_favicon_url=_NO_ICON,
            with_google_fonts=False,
        )
        return _with_policy(page, styles=_REDOC_STYLES)

    redoc_script = files("fastapi_offline").joinpath("static/redoc.standalone.js").read_bytes()
    redoc_script = redoc_script.replace(_FOREIGN_LOGO, _NO_ICON.encode())

    async def serve_redoc_script(_request: Request) -> Response:
        return Response(redoc_script, media_type="text/javascript")

    app.add_route(OPENAPI_PATH, serve_openapi, include_in_schema=False)
    app.add_route("/docs", serve_swagger, include_in_schema=False)
    app.add_route("/redoc", serve_redoc, include_in_schema=False)
    app.add_route(_REDOC_SCRIPT, serve_redoc_script, include_in_schema=False)
    # From here and not from a CDN: the pages work offline and tell nobody who reads them.
    app.mount(_ASSETS_PATH, StaticFiles(packages=[("fastapi_offline", "static")]))


def _with_policy(page: HTMLResponse, *, styles: str = "") -> HTMLResponse:
    """What is written into the page is named by its hash; anything else inline runs nowhere."""
    hashes: dict[str, list[str]] = {"script": [], "style": [styles]}
    for kind, content in _INLINE.findall(bytes(page.body).decode()):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    sources = [f"{kind}-src 'self' {' '.join(hashes[kind])}".strip() for kind in hashes]
    page.headers["Content-Security-Policy"] = "; ".join((_PAGE_POLICY, *sources))
    return page
