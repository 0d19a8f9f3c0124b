"""Codes through Twilio's Messages resource (https://www.twilio.com/docs/messaging/api/message-resource)."""

from typing import Final
from urllib.parse import quote

import httpx

from app.infra.sms.http import post

API: Final = "https://api.twilio.com"


class TwilioSms:
    """Sends from a number (`+1...`) or from a messaging service (`MG...`)."""

    def __init__(
        self,
        account_sid: str,
        auth_token: str,
        sender: str,
        *,
        timeout_seconds: float,
        api: str = API,
    ) -> None:
        self._url = f"{api}/2010-04-01/Accounts/{quote(account_sid, safe='')}/Messages.json"
        self._sender = {"MessagingServiceSid" if sender.startswith("MG") else "From": sender}
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            auth=(account_sid, auth_token), timeout=timeout_seconds, follow_redirects=False
        )

    async def send(self, phone: str, code: str, text: str) -> None:
        """As `SmsSender.send`."""
        form = {"To": phone, "Body": text, **self._sender}
        await post(
            self._client, "POST", self._url, form=form, timeout_seconds=self._timeout_seconds
        )

    async def close(self) -> None:
        """Close the connections that are kept open."""
        await self._client.aclose()
