"""The gap logic of one scope on one worker, without I/O: what arrived goes in, what to hand out comes out.

However announcements are lost, doubled or reordered on their way, updates come out in the order of
the log, each once. The log itself is asked only where something is missing.
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
    """`deliver` in this order, now. `reset_to`: the log no longer holds what came before it."""

    deliver: list[Announcement] = field(default_factory=list[Announcement])
    ask: Ask = Ask.NOTHING
    reset_to: int | None = None


_IDLE = Step()


class Feed:
    """`last` is the newest number that was handed out; None until the log has told where it stands."""

    __slots__ = ("_ahead", "_asked", "_known", "last")

    def __init__(self) -> None:
        self.last: int | None = None
        self._known = 0
        self._ahead: dict[int, Announcement] | None = None
        self._asked = Ask.NOTHING

    @property
    def gap(self) -> tuple[int, int] | None:
        """(after, upto): what is known to exist and was not handed out."""
        if self.last is None or self._known <= self.last:
            return None
        return self.last, self._known

    def begin(self, seq: int) -> Step:
        """The log stands at `seq`: everything up to it is history here."""
        if self.last is not None:
            return _IDLE
        self.last = seq
        return self._go_on([])

    def announce(self, update: Announcement) -> Step:
        """An announcement arrived, from this worker or another, perhaps late or for the second time."""
        seq = update.seq
        if self.last is not None and seq <= self.last:
            return _IDLE
        self._known = max(self._known, seq)
        if update.frame is not None:
            if self.last is not None and seq == self.last + 1:
                self.last = seq
                return self._go_on([update])
            self._keep(update)
        elif self.last is not None and self._asked is not Ask.LOG:
            # It comes without content, and waiting brings none.
            self._asked = Ask.LOG
            return Step(ask=Ask.LOG)
        return _IDLE if self.last is None else self._go_on([])

    def stand(self, seq: int) -> Step:
        """The log was seen at `seq`: a safety check against lost announcements."""
        if self.last is None:
            return _IDLE
        self._known = max(self._known, seq)
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

    def fill(self, after: int, updates: Sequence[Announcement]) -> Step:
        """What the log held behind `after`, the beginning of the gap when it was read.

        Args:
            after: that beginning; the feed may have gone on since.
            updates: rows of the log with frames, by number; at least one, unless they are pruned.
        """
        self._asked = Ask.NOTHING
        if self.last is None:
            return _IDLE
        if self.last == after and (not updates or updates[0].seq != after + 1):
            self.last = self._known
            self._ahead = None
            return Step(reset_to=self.last)
        deliver: list[Announcement] = []
        for update in updates:
            if update.seq == self.last + 1:
                self.last = update.seq
                deliver.append(update)
        step = self._go_on(deliver)
        if step.ask is Ask.PATIENCE:
            # A long gap is read in pages; between them there is nothing to wait for.
            self._asked = Ask.LOG
            return Step(step.deliver, Ask.LOG)
        return step

    def fail_to_fill(self) -> Step:
        """The log could not be read: try again after a moment."""
        self._asked = Ask.NOTHING
        return self._go_on([])

    def _go_on(self, deliver: list[Announcement]) -> Step:
        ahead = self._ahead
        if ahead is not None and self.last is not None:
            while (update := ahead.pop(self.last + 1, None)) is not None:
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
