"""Background work: uploads that have expired, and complete ones that nobody makes a file of."""

from datetime import timedelta

from app.features.files.resumable.finish import finish_uploads
from app.features.files.resumable.terminate import end_expired_uploads
from app.transport.feature import Job

JOBS = (
    Job("finish_uploads", timedelta(seconds=1), finish_uploads),
    Job("end_expired_uploads", timedelta(seconds=10), end_expired_uploads),
)
