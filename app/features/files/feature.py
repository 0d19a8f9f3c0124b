"""What files add to the server."""

from app.features.files.jobs import JOBS
from app.features.files.personal_data import FilesPersonalData
from app.features.files.resumable.jobs import JOBS as RESUMABLE_JOBS
from app.features.files.resumable.personal_data import UploadsPersonalData
from app.features.files.resumable.routes import router as resumable_router
from app.features.files.routes import router
from app.transport.feature import Feature, Rule
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="files",
    # The paths of the first look like names of files, too.
    routers=(resumable_router, router),
    jobs=(*JOBS, *RESUMABLE_JOBS),
    rules=(
        Rule(PersonalData, FilesPersonalData()),
        Rule(PersonalData, UploadsPersonalData()),
    ),
)
