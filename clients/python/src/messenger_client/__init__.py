"""The reference client of Telegram Clone Backend: everything that a client author must get right, once."""

from messenger_client.changes import Change, Forgotten, Position, Reset, Update, Voided
from messenger_client.client import Client
from messenger_client.options import Options
from messenger_client.problems import (
    ClientError,
    PasswordRequired,
    Problem,
    SessionEnded,
    Unreachable,
)
from messenger_client.store import MemoryStore, Outgoing, SqliteStore, Store, Tokens
from messenger_client.sync import (
    Action,
    Apply,
    FetchDifference,
    Reconnect,
    SendFrame,
    Signal,
    Sync,
)

__all__ = [
    "Action",
    "Apply",
    "Change",
    "Client",
    "ClientError",
    "FetchDifference",
    "Forgotten",
    "MemoryStore",
    "Options",
    "Outgoing",
    "PasswordRequired",
    "Position",
    "Problem",
    "Reconnect",
    "Reset",
    "SendFrame",
    "SessionEnded",
    "Signal",
    "SqliteStore",
    "Store",
    "Sync",
    "Tokens",
    "Unreachable",
    "Update",
    "Voided",
]
