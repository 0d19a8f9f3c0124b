"""The SMS port: one small interface, chosen by SMS_PROVIDER."""

from typing import Protocol

from app.kernel.problems import Unavailable


class SmsUnavailable(Unavailable):
    code = "sms_unavailable"
    title = "The code could not be sent, try again later"


class SmsSender(Protocol):
    """Sends one text to one phone."""

    async def send(self, phone: str, code: str, text: str) -> None:
        """Send `text`, which contains `code`, to an E.164 number.

        Raises:
            SmsUnavailable: the provider failed or did not answer within SMS_TIMEOUT.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
