"""The documentation pages are there, or not there at all."""

import re

import httpx
import pytest
from fastapi import FastAPI

from app.transport.http.pages import install_pages

PATHS = ["/docs", "/redoc", "/openapi.json"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("enabled", [True, False])
async def test_pages_are_on_or_off(path: str, *, enabled: bool) -> None:
    app = FastAPI(openapi_url=None)
    install_pages(app, enabled=enabled)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server"
    ) as client:
        answer = await client.get(path)
    assert answer.status_code == (200 if enabled else 404)


def test_the_document_exists_without_the_pages() -> None:
    app = FastAPI(openapi_url=None)
    install_pages(app, enabled=False)
    assert "Problem" in app.openapi()["components"]["schemas"]


@pytest.mark.parametrize(("page", "assets"), [("/docs", 2), ("/redoc", 1)])
async def test_pages_load_nothing_from_elsewhere(page: str, assets: int) -> None:
    app = FastAPI(openapi_url=None)
    install_pages(app, enabled=True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server"
    ) as client:
        html = (await client.get(page)).text
        loaded = [
            url
            for tag in re.findall(r"<(?:script|link)[^>]*>", html)
            for url in re.findall(r'(?:src|href)="([^"]+)"', tag)
            if url != "data:,"
        ]
        answers = [await client.get(url) for url in loaded]
    assert [answer.status_code for answer in answers] == [200] * assets
    assert all(url.startswith("/docs/assets/") for url in loaded)
