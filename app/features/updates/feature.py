"""What the log of updates adds to the server by itself."""

from app.features.updates.jobs import JOBS
from app.transport.feature import Feature

FEATURE = Feature(name="updates", jobs=JOBS)
