"""What signing in adds to the server."""

from app.features.auth.codes import CodeHasher
from app.features.auth.jobs import JOBS
from app.features.auth.routes import router
from app.infra.cipher.keyring import Keyring
from app.infra.hashing import SlowHasher
from app.kernel.rules import Rules
from app.transport.feature import Feature

FEATURE = Feature(name="auth", routers=(router,), jobs=JOBS)


def register_auth(rules: Rules, keyring: Keyring, *, code_hash_rounds: int) -> None:
    """Make what hashes codes; call it once."""
    hasher = SlowHasher(rounds=code_hash_rounds)
    rules.register(CodeHasher, CodeHasher(keyring, hasher))
