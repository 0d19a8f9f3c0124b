"""The provider that the settings name."""

from typing import assert_never

from app.infra.sms.console import ConsoleSms
from app.infra.sms.file import FileSms
from app.infra.sms.http import HttpSms
from app.infra.sms.port import SmsSender
from app.infra.sms.twilio import TwilioSms
from app.settings import Settings, SettingsError, SmsSettings


def choose_sms(settings: Settings) -> SmsSender:
    """The sender of `SMS_PROVIDER`.

    Raises:
        SettingsError: it lacks what it needs
    """
    sms = settings.sms
    match sms.provider:
        case "console":
            return ConsoleSms()
        case "file":
            return FileSms(settings.server.var_dir / "sms.jsonl")
        case "twilio":
            return _twilio(sms)
        case "http":
            return _http(sms)
        case _:
            assert_never(sms.provider)


def _twilio(sms: SmsSettings) -> TwilioSms:
    token = sms.twilio_auth_token
    if not (sms.twilio_account_sid and token and sms.twilio_from):
        raise SettingsError(
            ["SMS_PROVIDER: twilio needs TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM"]
        )
    return TwilioSms(
        sms.twilio_account_sid,
        token.get_secret_value(),
        sms.twilio_from,
        timeout_seconds=sms.timeout_seconds,
    )


def _http(sms: SmsSettings) -> HttpSms:
    if not sms.http_url:
        raise SettingsError(["SMS_PROVIDER: http needs SMS_HTTP_URL"])
    authorization = sms.http_authorization
    return HttpSms(
        sms.http_url,
        method=sms.http_method,
        headers={"Authorization": authorization.get_secret_value()} if authorization else {},
        body=sms.http_body,
        timeout_seconds=sms.timeout_seconds,
    )
