"""Every column of bytes is declared: as ciphertext, with its owner, or here as what it is instead."""

from sqlalchemy import LargeBinary

import app.bootstrap  # noqa: F401 - imports every slice, and with it every table
from app.infra.cipher.places import list_places
from app.infra.database.tables import METADATA

# Digests under a key or of a random token, and wrapped keys: nothing to seal.
NOT_CIPHERTEXT = {
    "audit_events.hash",
    "audit_events.mac",
    "audit_phones.phone_index",
    "blobs.content_tag",
    "factor_tries.address_index",
    "keys.wrapped",
    "messages.fingerprint",
    "password_tokens.hash",
    "phone_lookups.phone_index",
    "phone_verifications.address_index",
    "phone_verifications.code_hash",
    "phone_verifications.phone_index",
    "recovery_codes.hash",
    "refresh_tokens.hash",
    "refresh_tokens.parent_hash",
    "spent_lookups.owner_index",
    "user_name_tokens.token",
    "users.phone_index",
    "ws_tickets.hash",
}


def test_every_column_of_bytes_is_declared() -> None:
    columns = {
        str(column)
        for table in METADATA.sorted_tables
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    sealed = {str(place.column) for place in list_places()}
    assert columns - sealed == NOT_CIPHERTEXT
    assert sealed <= columns


def test_the_owner_of_every_value_can_be_named() -> None:
    for place in list_places():
        if place.sealed.brief:
            continue
        row = {column.name: 5 for column in place.owner_columns}
        assert place.owner_of(row) in {"user:5", "chat:5", "blob:5", "upload:5", "server"}
