"""Turns at what is scarce: a few at once, the others wait in order. No I/O."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Place(NamedTuple, Generic[T]):
    owner: Hashable
    subject: T
    begin: Callable[[], None]
    give_up: Callable[[], None]


class Turns(Generic[T]):
    """First come, first served. Who wants more than one turn asks again behind each: nobody starves others.

    `T`: what a turn is asked for.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._asked = 0
        # By the number of the asking, so in order.
        self._waiting: OrderedDict[int, _Place[T]] = OrderedDict()
        self._numbers: dict[Hashable, set[int]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(
        self,
        owner: Hashable,
        subject: T,
        begin: Callable[[], None],
        give_up: Callable[[], None],
    ) -> int:
        """`begin` is called when it is the owner's turn, perhaps at once; `end` must follow.

        `give_up` is called instead if the owner leaves before; neither if somebody takes it along.

        Returns:
            The place, for `withdraw`.
        """
        self._asked += 1
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting[self._asked] = _Place(owner, subject, begin, give_up)
            self._numbers.setdefault(owner, set()).add(self._asked)
        return self._asked

    def end(self) -> None:
        """A turn is over: the next one begins."""
        number = next(iter(self._waiting), None)
        if number is None:
            self._free += 1
        else:
            self._take(number).begin()

    def take_along(self, accepts: Callable[[T], bool]) -> list[T]:
        """Those who wait for what the one whose turn it is can do for them as well, in order.

        They need no turn of their own any more.
        """
        numbers = [number for number, it in self._waiting.items() if accepts(it.subject)]
        return [self._take(number).subject for number in numbers]

    def withdraw(self, number: int) -> None:
        """Free a place without a word, if its turn has not begun."""
        if number in self._waiting:
            self._take(number)

    def leave(self, owner: Hashable) -> None:
        """Free the places of one that has gone."""
        for number in sorted(self._numbers.get(owner, ())):
            self._take(number).give_up()

    def _take(self, number: int) -> _Place[T]:
        place = self._waiting.pop(number)
        numbers = self._numbers[place.owner]
        numbers.discard(number)
        if not numbers:
            del self._numbers[place.owner]
        return place
