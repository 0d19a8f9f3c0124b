"""The first schema: people, sessions, chats, messages, the log of updates, keys.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kek_version", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", "version", name=op.f("pk_keys")),
    )
    op.create_table(
        "phone_verifications",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("phone", sa.LargeBinary(), nullable=False),
        sa.Column("phone_index", sa.LargeBinary(), nullable=False),
        sa.Column("address_index", sa.LargeBinary(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("replaced_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_phone_verifications")),
        sa.UniqueConstraint("public_id", name=op.f("uq_phone_verifications_public_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_phone_verifications_address",
        "phone_verifications",
        ["address_index", "created_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_phone_verifications_created_at"),
        "phone_verifications",
        ["created_at"],
        unique=False,
    )
    op.create_index(
        "ix_phone_verifications_phone",
        "phone_verifications",
        ["phone_index", "created_at"],
        unique=False,
    )
    op.create_index(
        "ix_phone_verifications_prefix",
        "phone_verifications",
        ["prefix", "created_at"],
        unique=False,
    )
    op.create_table(
        "scopes",
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_scopes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "server_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_server_state")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("device_name", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=False),
        sa.Column("idle_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_sessions_idle_expires_at"), "sessions", ["idle_expires_at"], unique=False
    )
    op.create_index(
        "ix_sessions_live",
        "sessions",
        ["user_id", "id"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "updates",
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("scope_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=True),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "scope_id", "seq", name=op.f("pk_updates")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("phone", sa.LargeBinary(), nullable=True),
        sa.Column("phone_index", sa.LargeBinary(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("first_name", sa.LargeBinary(), nullable=False),
        sa.Column("last_name", sa.LargeBinary(), nullable=True),
        sa.Column("bio", sa.LargeBinary(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("privacy", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("phone_index", name=op.f("uq_users_phone_index")),
    )
    op.create_table(
        "blocks",
        sa.Column("owner_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_blocks_owner_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_blocks_user_id")),
        sa.PrimaryKeyConstraint("owner_id", "user_id", name=op.f("pk_blocks")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_blocks_owner_id_created_at_user_id"),
        "blocks",
        ["owner_id", "created_at", "user_id"],
        unique=False,
    )
    op.create_index(op.f("ix_blocks_user_id"), "blocks", ["user_id"], unique=False)
    op.create_table(
        "chats",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("title", sa.LargeBinary(), nullable=True),
        sa.Column("description", sa.LargeBinary(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("permissions", sa.Integer(), nullable=False),
        sa.Column("history_visible", sa.Boolean(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=True),
        sa.Column("pair_key", sa.Text(), nullable=True),
        sa.Column("members_count", sa.Integer(), nullable=False),
        sa.Column("count_told_at", sa.BigInteger(), nullable=True),
        sa.Column("last_message_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_message_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_chats_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chats")),
        sa.UniqueConstraint("pair_key", name=op.f("uq_chats_pair_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "contacts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("first_name", sa.LargeBinary(), nullable=False),
        sa.Column("last_name", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_contacts_owner_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_contacts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contacts")),
        sa.UniqueConstraint("owner_id", "user_id", name=op.f("uq_contacts_owner_id_user_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_contacts_owner_id_id"), "contacts", ["owner_id", "id"], unique=False)
    op.create_index(op.f("ix_contacts_user_id"), "contacts", ["user_id"], unique=False)
    op.create_table(
        "phone_lookups",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("phone_index", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_phone_lookups_user_id")),
        sa.PrimaryKeyConstraint("user_id", "day", "phone_index", name=op.f("pk_phone_lookups")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("parent_hash", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("successor", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_refresh_tokens_session_id")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_refresh_tokens")),
    )
    op.create_index(
        op.f("ix_refresh_tokens_expires_at"), "refresh_tokens", ["expires_at"], unique=False
    )
    op.create_index(
        op.f("ix_refresh_tokens_session_id"), "refresh_tokens", ["session_id"], unique=False
    )
    op.create_table(
        "revocations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_revocations_session_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revocations")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_revocations_revoked_at"), "revocations", ["revoked_at"], unique=False)
    op.create_table(
        "user_name_tokens",
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_user_name_tokens_user_id")
        ),
        sa.PrimaryKeyConstraint("token", "user_id", name=op.f("pk_user_name_tokens")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_user_name_tokens_user_id"), "user_name_tokens", ["user_id"], unique=False
    )
    op.create_table(
        "usernames",
        sa.Column(
            "name_key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("chat_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(user_id IS NULL) <> (chat_id IS NULL)", name=op.f("ck_usernames_one_holder")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_usernames_user_id")),
        sa.PrimaryKeyConstraint("name_key", name=op.f("pk_usernames")),
        sa.UniqueConstraint("chat_id", name=op.f("uq_usernames_chat_id")),
        sa.UniqueConstraint("user_id", name=op.f("uq_usernames_user_id")),
    )
    op.create_table(
        "ws_tickets",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_ws_tickets_session_id")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_ws_tickets")),
    )
    op.create_index(op.f("ix_ws_tickets_expires_at"), "ws_tickets", ["expires_at"], unique=False)
    op.create_index(op.f("ix_ws_tickets_session_id"), "ws_tickets", ["session_id"], unique=False)
    op.create_table(
        "chat_invites",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("max_uses", sa.Integer(), nullable=True),
        sa.Column("uses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_chat_invites_chat_id")),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["users.id"], name=op.f("fk_chat_invites_creator_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_invites")),
        sa.UniqueConstraint("code", name=op.f("uq_chat_invites_code")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_chat_invites_chat_id_id"), "chat_invites", ["chat_id", "id"], unique=False
    )
    op.create_table(
        "chat_participants",
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("permissions", sa.Integer(), nullable=True),
        sa.Column("restricted_until", sa.BigInteger(), nullable=True),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.Column("joined_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_visible_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cleared_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("closed_id", sa.BigInteger(), nullable=True),
        sa.Column("last_read_message_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("is_pinned", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("pin_order", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("is_archived", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("muted_until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_chat_participants_chat_id")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_chat_participants_user_id")
        ),
        sa.PrimaryKeyConstraint("chat_id", "user_id", name=op.f("pk_chat_participants")),
    )
    op.create_index(
        "ix_chat_participants_admins",
        "chat_participants",
        ["chat_id"],
        unique=False,
        sqlite_where=sa.text("role IN ('owner', 'admin')"),
        postgresql_where=sa.text("role IN ('owner', 'admin')"),
    )
    op.create_index(
        op.f("ix_chat_participants_user_id_chat_id"),
        "chat_participants",
        ["user_id", "chat_id"],
        unique=False,
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("sender_id", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("reply_to_id", sa.BigInteger(), nullable=True),
        sa.Column("forward", sa.Text(), nullable=True),
        sa.Column("service", sa.Text(), nullable=True),
        sa.Column("client_message_id", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("silent", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("edited_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_messages_chat_id")),
        sa.ForeignKeyConstraint(["sender_id"], ["users.id"], name=op.f("fk_messages_sender_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("chat_id", "seq", name=op.f("uq_messages_chat_id_seq")),
        sa.UniqueConstraint(
            "sender_id", "client_message_id", name=op.f("uq_messages_sender_id_client_message_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_messages_countable",
        "messages",
        ["chat_id", "id", "sender_id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL AND type <> 'service'"),
        postgresql_where=sa.text("deleted_at IS NULL AND type <> 'service'"),
    )
    op.create_index(
        "ix_messages_history",
        "messages",
        ["chat_id", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "hidden_messages",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_hidden_messages_chat_id")),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.id"], name=op.f("fk_hidden_messages_message_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_hidden_messages_user_id")),
        sa.PrimaryKeyConstraint(
            "user_id", "chat_id", "message_id", name=op.f("pk_hidden_messages")
        ),
    )
    op.create_index(
        op.f("ix_hidden_messages_message_id"), "hidden_messages", ["message_id"], unique=False
    )
    op.create_table(
        "message_mentions",
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_message_mentions_chat_id")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.id"], name=op.f("fk_message_mentions_message_id")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_message_mentions_user_id")
        ),
        sa.PrimaryKeyConstraint(
            "chat_id", "user_id", "message_id", name=op.f("pk_message_mentions")
        ),
    )
    op.create_index(
        op.f("ix_message_mentions_message_id"), "message_mentions", ["message_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_message_mentions_message_id"), table_name="message_mentions")
    op.drop_table("message_mentions")
    op.drop_index(op.f("ix_hidden_messages_message_id"), table_name="hidden_messages")
    op.drop_table("hidden_messages")
    op.drop_index(
        "ix_messages_history",
        table_name="messages",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        "ix_messages_countable",
        table_name="messages",
        sqlite_where=sa.text("deleted_at IS NULL AND type <> 'service'"),
        postgresql_where=sa.text("deleted_at IS NULL AND type <> 'service'"),
    )
    op.drop_table("messages")
    op.drop_index(op.f("ix_chat_participants_user_id_chat_id"), table_name="chat_participants")
    op.drop_index(
        "ix_chat_participants_admins",
        table_name="chat_participants",
        sqlite_where=sa.text("role IN ('owner', 'admin')"),
        postgresql_where=sa.text("role IN ('owner', 'admin')"),
    )
    op.drop_table("chat_participants")
    op.drop_index(op.f("ix_chat_invites_chat_id_id"), table_name="chat_invites")
    op.drop_table("chat_invites")
    op.drop_index(op.f("ix_ws_tickets_session_id"), table_name="ws_tickets")
    op.drop_index(op.f("ix_ws_tickets_expires_at"), table_name="ws_tickets")
    op.drop_table("ws_tickets")
    op.drop_table("usernames")
    op.drop_index(op.f("ix_user_name_tokens_user_id"), table_name="user_name_tokens")
    op.drop_table("user_name_tokens")
    op.drop_index(op.f("ix_revocations_revoked_at"), table_name="revocations")
    op.drop_table("revocations")
    op.drop_index(op.f("ix_refresh_tokens_session_id"), table_name="refresh_tokens")
    op.drop_index(op.f("ix_refresh_tokens_expires_at"), table_name="refresh_tokens")
    op.drop_table("refresh_tokens")
    op.drop_table("phone_lookups")
    op.drop_index(op.f("ix_contacts_user_id"), table_name="contacts")
    op.drop_index(op.f("ix_contacts_owner_id_id"), table_name="contacts")
    op.drop_table("contacts")
    op.drop_table("chats")
    op.drop_index(op.f("ix_blocks_user_id"), table_name="blocks")
    op.drop_index(op.f("ix_blocks_owner_id_created_at_user_id"), table_name="blocks")
    op.drop_table("blocks")
    op.drop_table("users")
    op.drop_table("updates")
    op.drop_index(
        "ix_sessions_live",
        table_name="sessions",
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.drop_index(op.f("ix_sessions_idle_expires_at"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("server_state")
    op.drop_table("scopes")
    op.drop_index("ix_phone_verifications_prefix", table_name="phone_verifications")
    op.drop_index("ix_phone_verifications_phone", table_name="phone_verifications")
    op.drop_index(op.f("ix_phone_verifications_created_at"), table_name="phone_verifications")
    op.drop_index("ix_phone_verifications_address", table_name="phone_verifications")
    op.drop_table("phone_verifications")
    op.drop_table("keys")
