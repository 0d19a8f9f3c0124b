"""What can go wrong with resumable uploads. One of somebody else's, or one that has expired, is `not_found`."""

from app.kernel.problems import (
    BadRequest,
    ChecksumMismatch,
    Conflict,
    PreconditionFailed,
    TooLarge,
)


class TusVersionUnsupported(PreconditionFailed):
    """`Tus-Version` says what is spoken here."""

    code = "tus_version_unsupported"
    title = "Tus-Resumable must be 1.0.0"


class UploadHeaderInvalid(BadRequest):
    code = "upload_header_invalid"
    title = "A header of the upload is missing or malformed"


class OffsetMismatch(Conflict):
    """Also for whoever sent the same bytes later than somebody else: ask for the offset and go on there."""

    code = "offset_mismatch"
    title = "The upload does not stand at this offset"


class UploadBusy(Conflict):
    """Of bodies with `Upload-Checksum` one at a time is taken; try again when it is over."""

    code = "upload_busy"
    title = "Another body with a checksum is on its way to this upload"


class UploadStalled(Conflict):
    """What had come is kept: ask for the offset and go on there. Of a beginning (`POST`) nothing is."""

    code = "upload_stalled"
    title = "The body stopped coming"


class UploadOverrun(TooLarge):
    code = "upload_overrun"
    title = "The body is longer than what is left of the upload"


class TooManyParts(TooLarge):
    code = "too_many_parts"
    title = "The upload came in too many small pieces; begin again with larger ones"


class UploadChecksumMismatch(ChecksumMismatch):
    """With `Upload-Checksum` a body is kept as a whole or not at all."""


class UploadDamaged(Conflict):
    """What was kept of it does not open or is gone. Its end: begin again."""

    code = "upload_damaged"
    title = "The upload was damaged on our side; begin again"
