"""Codes on the terminal of whoever runs the server. Never in the log file; refused in production."""

import sys

from app.infra.logging.redaction import escape_controls


class ConsoleSms:
    """Writes to standard output itself: a logger would carry the code into the log file."""

    async def send(self, phone: str, code: str, text: str) -> None:
        """As `SmsSender.send`."""
        sys.stdout.write(f"SMS to {phone}: {escape_controls(text)}\n")
        sys.stdout.flush()

    async def close(self) -> None:
        """Nothing is held."""
