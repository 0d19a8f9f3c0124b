"""Codes through any gateway that takes a JSON body over HTTP."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Final

import httpx
import structlog

from app.infra.sms.port import SmsUnavailable

_PLACEHOLDERS: Final = re.compile(r"\{(phone|code|text)\}")
_SUCCESS: Final = range(200, 300)

log = structlog.stdlib.get_logger("app.sms")


class HttpSms:
    """Fills `{phone}`, `{code}` and `{text}` into a body template; any 2xx means that it was taken over."""

    def __init__(
        self,
        url: str,
        *,
        method: str,
        headers: Mapping[str, str],
        body: str,
        timeout_seconds: float,
    ) -> None:
        self._url = url
        self._method = method
        self._body = body
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json", **headers},
            timeout=timeout_seconds,
            follow_redirects=False,
        )

    async def send(self, phone: str, code: str, text: str) -> None:
        """As `SmsSender.send`."""
        body = fill_template(self._body, phone=phone, code=code, text=text)
        await post(
            self._client,
            self._method,
            self._url,
            content=body,
            timeout_seconds=self._timeout_seconds,
        )

    async def close(self) -> None:
        """Close the connections that are kept open."""
        await self._client.aclose()


def fill_template(template: str, *, phone: str, code: str, text: str) -> bytes:
    """The template with its words replaced, each escaped as the inside of a JSON string."""
    values = {"phone": phone, "code": code, "text": text}
    return _PLACEHOLDERS.sub(lambda match: json.dumps(values[match[1]])[1:-1], template).encode()


async def post(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    timeout_seconds: float,
    content: bytes | None = None,
    form: Mapping[str, str] | None = None,
) -> None:
    """One call to a gateway within its time, all phases together; httpx's own timeouts count each apart.

    Raises:
        SmsUnavailable: sms_unavailable
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            # Streamed and left unread: nothing in the answer is needed, and it may be endless.
            async with client.stream(method, url, content=content, data=form) as answer:
                status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        log.warning("sms_failed", error=type(error).__name__)
        raise SmsUnavailable from error
    if status not in _SUCCESS:
        log.warning("sms_refused", status=status)
        raise SmsUnavailable
