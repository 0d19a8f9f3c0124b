"""Ten planted bugs: exact replacements in a copy of `app/`, each with the checker that must catch it.

The checkers are only worth what they catch. Workers run from the copy; what the suite itself
imports stays whole. A replacement that does not match exactly once fails: a planted bug that is
not there proves nothing.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("app", "migrations", "alembic.ini")


class PatchMisses(Exception):  # noqa: N818 - says what happened
    """The source has moved on: the planted bug must be written anew."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Put `new` in place of the only `old` in `file`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Bug:
    """`scenario`: what brings it to light, by its name in `scenarios.py`. `caught_by`: the anomaly expected.

    `sql`: what must be taken out of the schema as well.
    """

    name: str
    scenario: str
    caught_by: str
    patches: Sequence[Patch]
    sql: Sequence[str] = ()


BUGS: Sequence[Bug] = (
    Bug(
        name="publish before commit",
        scenario="commits_lost",
        caught_by="g1a",
        patches=(
            Patch(
                "app/infra/database/database.py",
                "        await tx.run_before_commit()\n",
                "        await tx.run_before_commit()\n        self.on_commit(tx.announcements)\n",
            ),
        ),
    ),
    Bug(
        name="ack before commit",
        scenario="commits_lost",
        caught_by="lost-write",
        patches=(
            Patch(
                "app/infra/database/committer.py",
                "            return await self._work(tx, items, may_wait=may_wait)\n",
                "            outcomes = await self._work(tx, items, may_wait=may_wait)\n"
                "            for (_, future), outcome in zip(entries, outcomes, strict=True):\n"
                "                if not isinstance(outcome, Busy) and not future.done():\n"
                "                    _settle(future, outcome)\n"
                "            return outcomes\n",
            ),
        ),
    ),
    Bug(
        name="seq by Redis INCR",
        scenario="commits_lost",
        caught_by="hole",
        patches=(
            Patch(
                "app/features/updates/log.py",
                "        seq = self._seqs[scope] + 1\n",
                "        key = f'seq:{int(scope.kind)}:{scope.id}'\n"
                "        _REDIS.set(key, self._seqs[scope], nx=True)\n"
                "        seq = int(_REDIS.incr(key))\n",
            ),
            Patch(
                "app/features/updates/log.py",
                "_INSERT_UPDATES = insert(UpdateRow)\n",
                "_INSERT_UPDATES = insert(UpdateRow)\n"
                "_REDIS = __import__('redis').Redis.from_url(__import__('os').environ['REDIS_URL'])\n",
            ),
        ),
    ),
    Bug(
        name="no unique client_message_id",
        scenario="retries",
        caught_by="duplicate",
        patches=(
            Patch(
                "app/features/messages/send.py",
                "    send = group.seen.get(key)\n",
                "    send = None\n",
            ),
        ),
        sql=("ALTER TABLE messages DROP CONSTRAINT uq_messages_sender_id_client_message_id",),
    ),
    Bug(
        name="resume off by one",
        scenario="resumes",
        caught_by="poll-skip",
        patches=(
            Patch(
                "app/features/gateway/catchup.py",
                "                span.after = after\n",
                "                span.after = min(after + 1, span.upto)\n",
            ),
        ),
    ),
    Bug(
        name="revocation cache of 5 s",
        scenario="revocations",
        caught_by="late-revocation",
        patches=(
            Patch(
                "app/features/sessions/revocations.py",
                "        if session_id in self._denied:\n            return True\n        now = time.monotonic()\n",
                "        now = time.monotonic()\n"
                "        checked_at = _CHECKED.setdefault(session_id, now)\n"
                "        if now - checked_at < 5.0:\n            return False\n"
                "        if session_id in self._denied:\n            return True\n",
            ),
            Patch(
                "app/features/sessions/revocations.py",
                "Listener = Callable[[Sequence[SessionId]], None]\n",
                "Listener = Callable[[Sequence[SessionId]], None]\n_CHECKED: dict[SessionId, float] = {}\n",
            ),
        ),
    ),
    Bug(
        name="membership read before the lock",
        scenario="removals",
        caught_by="outsider-write",
        patches=(
            Patch(
                "app/features/messages/send.py",
                "    lock = lock_scopes if may_wait else try_lock_scopes\n",
                "    group = await _load_group(tx, items)\n"
                "    lock = lock_scopes if may_wait else try_lock_scopes\n",
            ),
            Patch(
                "app/features/messages/send.py",
                "    group = await _load_group(tx, waiting)\n",
                "",
            ),
        ),
    ),
    Bug(
        name="unbounded queue",
        scenario="slow_reader",
        caught_by="unbounded-queue",
        patches=(
            Patch(
                "app/transport/websocket/connection.py",
                "        if waiting and waiting + len(frame) > self.queue_bytes:\n",
                "        if waiting < 0:\n",
            ),
        ),
    ),
    Bug(
        name="lost-publish check off",
        scenario="publishes_lost",
        caught_by="unseen",
        patches=(
            Patch(
                "app/features/gateway/readers.py",
                "        scopes = list(self._fanout.watched)\n",
                "        scopes = list(self._fanout.watched)[:0]\n",
            ),
        ),
    ),
    Bug(
        name="COMMIT error swallowed",
        scenario="commits_lost",
        caught_by="lost-write",
        patches=(
            Patch(
                "app/infra/database/engines.py",
                'was committed before the lock."""\n'
                "        async with self._connect(self.engine, deadline) as connection, connection.begin():\n"
                "            await _allow_until(connection, deadline)\n"
                "            yield _PostgresConnection(connection)\n",
                'was committed before the lock."""\n'
                "        async with self._connect(self.engine, deadline) as connection:\n"
                "            transaction = await connection.begin()\n"
                "            await _allow_until(connection, deadline)\n"
                "            try:\n"
                "                yield _PostgresConnection(connection)\n"
                "            except BaseException:\n"
                "                await transaction.rollback()\n"
                "                raise\n"
                "            try:\n"
                "                await transaction.commit()\n"
                "            except Exception:\n"
                "                _log.warning('commit_failed')\n",
            ),
        ),
    ),
)


def plant(bug: Bug, directory: Path) -> Path:
    """Copy the server into `directory` with the bug in it; answers what goes first in PYTHONPATH.

    Raises:
        PatchMisses: a replacement does not match exactly once.
    """
    for name in _COPIED:
        source, copy = _ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    for patch in bug.patches:
        path = directory / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            msg = f"{bug.name}: {patch.file} holds {text.count(patch.old)} of {patch.old!r}"
            raise PatchMisses(msg)
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
    return directory
