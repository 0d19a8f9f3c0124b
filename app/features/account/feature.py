"""What accounts as a whole add to the server."""

from app.features.account.erase import JOBS
from app.features.account.routes import router
from app.transport.feature import Feature

FEATURE = Feature(name="account", routers=(router,), jobs=JOBS)
