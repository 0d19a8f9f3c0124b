"""What the record of security events adds to the server."""

from app.features.audit.jobs import JOBS
from app.features.audit.personal_data import AuditPersonalData
from app.features.audit.sink import AuditSink
from app.features.audit.watch import Watch
from app.kernel.clock import Clock
from app.kernel.rules import Rules
from app.transport.feature import Feature, Rule
from app.transport.personal_data import PersonalData

FEATURE = Feature(name="audit", jobs=JOBS, rules=(Rule(PersonalData, AuditPersonalData()),))


def register_audit(rules: Rules, clock: Clock) -> AuditSink:
    """Make this worker's sink of refusals and its detectors; call it once."""
    sink = AuditSink(clock)
    rules.register(AuditSink, sink)
    rules.register(Watch, Watch())
    return sink
