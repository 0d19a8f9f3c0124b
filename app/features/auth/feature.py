"""What signing in adds to the server."""

from app.features.auth.codes import CodeHasher
from app.features.auth.jobs import JOBS
from app.features.auth.passwords import HASHING_THREADS, MAX_WAITING, PasswordHasher
from app.features.auth.personal_data import AuthPersonalData
from app.features.auth.routes import router
from app.features.auth.two_step_routes import router as two_step_router
from app.features.auth.updates import fill_two_step_changed
from app.infra.cipher.keyring import Keyring
from app.infra.hashing import SlowHasher
from app.kernel.rules import Rules
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, Rule, UpdateKind
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="auth",
    routers=(router, two_step_router),
    updates=(UpdateKind("two_step_changed", ScopeKind.USER, fill_two_step_changed),),
    jobs=JOBS,
    rules=(Rule(PersonalData, AuthPersonalData()),),
)


def register_auth(
    rules: Rules, keyring: Keyring, *, code_hash_rounds: int, password_hash_rounds: int
) -> None:
    """Make what hashes codes and passwords; call it once."""
    hasher = SlowHasher(rounds=code_hash_rounds)
    rules.register(CodeHasher, CodeHasher(keyring, hasher))
    # Threads of its own: whoever floods second passwords keeps nobody from signing in.
    passwords = SlowHasher(
        rounds=password_hash_rounds, threads=HASHING_THREADS, max_waiting=MAX_WAITING
    )
    rules.register(PasswordHasher, PasswordHasher(passwords))
