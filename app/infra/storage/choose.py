"""The storage that the settings name, and whether its downloads may be sent on to it."""

from app.infra.storage.address import read_bucket
from app.infra.storage.local import LocalStorage
from app.infra.storage.port import Storage
from app.infra.storage.s3 import S3Storage
from app.settings import FileSettings, Settings


def choose_storage(settings: Settings) -> Storage:
    """The directory VAR_DIR/files, or the bucket of STORAGE_URL.

    Raises:
        SettingsError: STORAGE_URL or its keys are wrong; lists all
    """
    if settings.files.storage_url is None:
        return LocalStorage(settings.files_dir)
    return S3Storage(read_bucket(settings.files))


def find_redirect_seconds(files: FileSettings, *, chunk_size: int) -> int:
    """The life of the signed URL that a download is sent on to; 0: it goes through us.

    `chunk_size` is of the object: only what lies there in plain can be read without us, whatever
    ENCRYPT_FILES says by now. Switched on again, it ends the redirects of older files too.
    """
    if files.storage_url is None or files.encrypt or chunk_size:
        return 0
    return files.redirect_seconds
