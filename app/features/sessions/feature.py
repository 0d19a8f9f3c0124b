"""What sessions add to the server."""

from datetime import timedelta

from app.features.sessions.activity import Activity
from app.features.sessions.dependencies import SessionCallerFinder
from app.features.sessions.jobs import JOBS
from app.features.sessions.personal_data import SessionsPersonalData
from app.features.sessions.revocations import RevocationList
from app.features.sessions.routes import router
from app.features.sessions.updates import fill_sessions_changed
from app.infra.bus.port import Bus
from app.kernel.rules import Rules
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, Rule, UpdateKind
from app.transport.http.limits import CallerFinder
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="sessions",
    routers=(router,),
    updates=(UpdateKind("sessions_changed", ScopeKind.USER, fill_sessions_changed),),
    jobs=JOBS,
    rules=(
        Rule(CallerFinder, SessionCallerFinder()),
        Rule(PersonalData, SessionsPersonalData()),
    ),
)


def register_sessions(rules: Rules, bus: Bus, *, access_lifetime: timedelta) -> None:
    """Make this worker's memory of sessions; call it once, before the bus starts."""
    rules.register(RevocationList, RevocationList(bus, keep=access_lifetime * 2))
    rules.register(Activity, Activity())
