"""The gap logic of one scope on one worker, without I/O: what arrived goes in, what to hand out comes out.

However announcements are lost, doubled or reordered on their way, updates come out in the order of
the log, each once. The log itself is asked only where something is missing.

Missing may be an update, or a removal that no update of the scope tells of: every announcement carries the
scope's removal revision, and one with a newer revision than the feed has checked waits, as behind a gap,
until the removal is heard of or the memberships of the followers have been read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from app.kernel.announcements import Announcement

# What waits ahead of a gap; beyond it the log is read anyway.
_MAX_AHEAD = 256


class Ask(Enum):
    """What the feed wants: nothing, a look after a moment of patience, or a read of the log."""

    NOTHING = 0
    PATIENCE = 1
    LOG = 2


@dataclass(frozen=True, slots=True)
class Step:
    """`deliver` in this order, now; before that, `reset_to`: what is missing up to there cannot be had."""

    deliver: list[Announcement] = field(default_factory=list[Announcement])
    ask: Ask = Ask.NOTHING
    reset_to: int | None = None


_IDLE = Step()


class Feed:
    """`last` is the newest number that was handed out; None until the log has told where it stands.

    `checked` is the newest removal revision up to which nobody who was removed is among the followers.
    """

    __slots__ = ("_ahead", "_asked", "_ended_ahead", "_known", "_revision", "checked", "last")

    def __init__(self) -> None:
        self.last: int | None = None
        self.checked = 0
        self._known = 0
        # The newest revision that is known to exist, and those above `checked` that were dealt with.
        self._revision = 0
        self._ended_ahead: set[int] | None = None
        self._ahead: dict[int, Announcement] | None = None
        self._asked = Ask.NOTHING

    @property
    def gap(self) -> tuple[int, int] | None:
        """(after, upto): what is known to exist and was not handed out.

        Both are the same where only the memberships of the followers are to be read.
        """
        if self.last is None:
            return None
        if self._known <= self.last and self._revision <= self.checked:
            return None
        return self.last, max(self.last, self._known)

    def begin(self, seq: int, revision: int = 0) -> Step:
        """The log stands at `seq`, and at this removal revision: everything up to it is history here."""
        if self.last is not None:
            return _IDLE
        self.last = seq
        self.checked = revision
        return self._go_on([])

    def announce(self, update: Announcement) -> Step:
        """An announcement arrived, from this worker or another, perhaps late or for the second time."""
        seq = update.seq
        self._revision = max(self._revision, update.removals)
        if self.last is not None and seq <= self.last:
            return _IDLE if update.removals <= self.checked else self._go_on([])
        self._known = max(self._known, seq)
        if update.frame is not None:
            if self.last is not None and seq == self.last + 1 and update.removals <= self.checked:
                self.last = seq
                return self._go_on([update])
            self._keep(update)
        elif self.last is not None and self._asked is not Ask.LOG:
            # It comes without content, and waiting brings none.
            self._asked = Ask.LOG
            return Step(ask=Ask.LOG)
        return _IDLE if self.last is None else self._go_on([])

    def stand(self, seq: int, revision: int = 0) -> Step:
        """The log was seen at `seq`: a safety check against lost announcements."""
        if self.last is None:
            return _IDLE
        self._known = max(self._known, seq)
        self._revision = max(self._revision, revision)
        return self._go_on([])

    def run_out_of_patience(self) -> Step:
        """The moment is over that an announcement on its way was given."""
        if self._asked is not Ask.PATIENCE:
            return _IDLE
        if self.gap is None:
            self._asked = Ask.NOTHING
            return _IDLE
        self._asked = Ask.LOG
        return Step(ask=Ask.LOG)

    def fill(self, after: int, updates: Sequence[Announcement], *, upto: int | None = None) -> Step:
        """What the log held behind `after`, the beginning of the gap when it was read.

        Args:
            after: that beginning; the feed may have gone on since.
            updates: rows of the log with frames, by number; at least one, unless they are pruned.
            upto: the end of the gap when it was read; where it is `after` there was none to read.
        """
        self._asked = Ask.NOTHING
        if self.last is None:
            return _IDLE
        if self.last < after:
            # It was read for an earlier feed of this scope, which had come further.
            return self._go_on([])
        reset_to = self._find_hole(after, updates, upto)
        if reset_to is not None:
            self.last = reset_to
        deliver: list[Announcement] = []
        for update in updates:
            if update.seq == self.last + 1 and update.removals <= self.checked:
                self.last = update.seq
                deliver.append(update)
        step = self._go_on(deliver)
        ask = step.ask
        if ask is Ask.PATIENCE and self._revision <= self.checked:
            # A long gap is read in pages; between them there is nothing to wait for.
            self._asked = ask = Ask.LOG
        return Step(step.deliver, ask, reset_to)

    def _find_hole(
        self, after: int, updates: Sequence[Announcement], upto: int | None
    ) -> int | None:
        """Up to which number the log does not hold (any more) what is missing."""
        if self.last is None:
            return None
        if updates:
            return updates[0].seq - 1 if self.last < updates[0].seq - 1 else None
        if self.last == after and upto != after:
            return self._known if upto is None else upto
        return None

    def fail_to_fill(self) -> Step:
        """The log could not be read: try again after a moment."""
        self._asked = Ask.NOTHING
        return self._go_on([])

    def pause(self) -> None:
        """The log was read in vain: ask for nothing until somebody reads it again."""
        if self.last is not None:
            self._asked = Ask.LOG

    def reset(self, upto: int) -> Step:
        """What is missing up to this number cannot be had: go on behind it."""
        self._asked = Ask.NOTHING
        if self.last is None or upto <= self.last:
            return self.fail_to_fill()
        self.last = upto
        if self._ahead is not None:
            self._ahead = {seq: kept for seq, kept in self._ahead.items() if seq > upto} or None
        if self.gap is not None:
            self._asked = Ask.LOG
        return Step(ask=self._asked, reset_to=upto)

    # Removals that no update of the scope tells of.

    def end(self, revision: int) -> Step:
        """The removal with this revision was heard of, and whom it concerned follows no more."""
        if self.last is None or revision <= self.checked:
            # Whoever is being brought up has yet to be read.
            return _IDLE
        self._revision = max(self._revision, revision)
        if self._ended_ahead is None:
            self._ended_ahead = set()
        if len(self._ended_ahead) < _MAX_AHEAD:
            self._ended_ahead.add(revision)
        self._advance()
        return self._go_on([])

    def check(self, revision: int) -> None:
        """The followers were read, and all that were removed up to this revision follow no more."""
        self.checked = max(self.checked, revision)
        self._revision = max(self._revision, revision)
        self._advance()

    def admit(self, revision: int) -> Step:
        """Somebody follows from now on whose membership was read at this revision.

        What was checked for the others above it was not checked for them.
        """
        if self._ended_ahead is not None:
            self._ended_ahead = {it for it in self._ended_ahead if it <= revision} or None
        if revision < self.checked:
            self._revision = max(self._revision, self.checked)
            self.checked = revision
        return self._go_on([]) if self.last is not None else _IDLE

    def _advance(self) -> None:
        ahead = self._ended_ahead
        if ahead is None:
            return
        while self.checked + 1 in ahead:
            self.checked += 1
        self._ended_ahead = {it for it in ahead if it > self.checked} or None

    def _go_on(self, deliver: list[Announcement]) -> Step:
        ahead = self._ahead
        if ahead is not None and self.last is not None:
            while (update := ahead.get(self.last + 1)) and update.removals <= self.checked:
                self.last = update.seq
                deliver.append(update)
            self._ahead = {seq: kept for seq, kept in ahead.items() if seq > self.last} or None
        if self.gap is None or self._asked is not Ask.NOTHING:
            return Step(deliver) if deliver else _IDLE
        self._asked = Ask.PATIENCE
        return Step(deliver, Ask.PATIENCE)

    def _keep(self, update: Announcement) -> None:
        if self._ahead is None:
            self._ahead = {}
        if len(self._ahead) < _MAX_AHEAD:
            self._ahead[update.seq] = update
