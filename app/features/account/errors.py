"""What the account as a whole refuses."""

from app.kernel.problems import RateLimited


class ExportsExhausted(RateLimited):
    code = "exports_exhausted"
    title = "The account was exported as often as it may be in a day"
