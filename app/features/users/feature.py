"""What people add to the server."""

from app.features.files.rules import FileAudience
from app.features.users.jobs import JOBS
from app.features.users.personal_data import UsersPersonalData
from app.features.users.photos import UserPhotos
from app.features.users.routes import router
from app.features.users.updates import (
    fill_blocked_changed,
    fill_contacts_changed,
    fill_privacy_changed,
    fill_profile_updated,
)
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, Rule, UpdateKind
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="users",
    routers=(router,),
    updates=(
        UpdateKind("profile_updated", ScopeKind.USER, fill_profile_updated),
        UpdateKind("privacy_changed", ScopeKind.USER, fill_privacy_changed),
        UpdateKind("contacts_changed", ScopeKind.USER, fill_contacts_changed),
        UpdateKind("blocked_changed", ScopeKind.USER, fill_blocked_changed),
    ),
    jobs=JOBS,
    rules=(Rule(PersonalData, UsersPersonalData()), Rule(FileAudience, UserPhotos())),
)
