"""What files refuse."""

from app.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
)


class FileNotFound(NotFound):
    """Also where it exists and the caller may not see it: nothing tells the two apart."""

    code = "file_not_found"
    title = "There is no such file"


class FileEmpty(Invalid):
    code = "file_empty"
    title = "The file is empty"


class FileTooLarge(TooLarge):
    """Its member `max_bytes` says how large a file may be."""

    code = "file_too_large"
    title = "The file is larger than this server takes"


class FileInfected(Invalid):
    """What was found is not told to who sent it; nothing was kept."""

    code = "file_infected"
    title = "The file holds something that is known as harmful"


class QuotaExceeded(TooLarge):
    """Its members `quota_bytes` and `used_bytes` say what there is."""

    code = "quota_exceeded"
    title = "Your files take all the room that they may"


class TooManyUploads(Conflict):
    code = "too_many_uploads"
    title = "Too many of your uploads are under way"


class PhotoInvalid(Invalid):
    code = "photo_invalid"
    title = "This is not a photo that can be shown"


class VoiceInvalid(Invalid):
    code = "voice_invalid"
    title = "This is not a voice recording"


class FileInUse(Conflict):
    code = "file_in_use"
    title = "Something still shows this file"


class UploadRefused(Forbidden):
    """The account ended while the upload was under way."""

    code = "upload_refused"
    title = "This upload is not taken any more"


class FileUnreadable(Unavailable):
    code = "file_unreadable"
    title = "The file is damaged"


class TooManyDownloads(RateLimited):
    """Read some of them to their end, then go on with the others."""

    code = "too_many_downloads"
    title = "Too many of your downloads are under way"


class DownloadsBusy(Unavailable):
    code = "downloads_busy"
    title = "Too many downloads at this moment, try again"
