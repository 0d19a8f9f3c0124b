"""How slow an upload may be, by the settings."""

from app.infra.services import Services
from app.transport.http.streams import Pace


def upload_pace(services: Services) -> Pace:
    files = services.settings.files
    return Pace(files.upload_min_rate, files.upload_grace_seconds)
