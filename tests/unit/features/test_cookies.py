"""Cookies are for HTTPS alone in production, however the request came; elsewhere where it came over HTTPS."""

from types import SimpleNamespace
from typing import cast

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from app.features.sessions.cookies import set_csrf_cookie
from app.infra.services import Services
from app.transport.http.scheme import note_scheme


@pytest.mark.parametrize(
    ("is_production", "scheme", "is_strict"),
    [(True, "http", True), (True, "https", True), (False, "https", True), (False, "http", False)],
)
def test_what_production_sets_no_line_in_the_clear_carries(
    is_production: bool, scheme: str, is_strict: bool
) -> None:
    settings = SimpleNamespace(
        is_production=is_production, tokens=SimpleNamespace(refresh_idle_days=30)
    )
    services = cast("Services", SimpleNamespace(settings=settings))
    scope: Scope = {"type": "http", "scheme": scheme, "client": None, "headers": []}
    note_scheme(scope, ())
    connection = HTTPConnection(scope)
    answer = Response()
    set_csrf_cookie(services, connection, answer, "token")
    [cookie] = answer.headers.getlist("set-cookie")
    assert cookie.startswith("__Host-csrf_token=token;" if is_strict else "csrf_token=token;")
    assert ("; Secure" in cookie) is is_strict
    assert "; Path=/;" in f"{cookie};"
    assert "Domain" not in cookie
