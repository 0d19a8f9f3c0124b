"""What the log of updates adds to the server by itself."""

from app.features.updates.jobs import JOBS
from app.features.updates.personal_data import UpdatesPersonalData
from app.transport.feature import Feature, Rule
from app.transport.personal_data import PersonalData

FEATURE = Feature(name="updates", jobs=JOBS, rules=(Rule(PersonalData, UpdatesPersonalData()),))
