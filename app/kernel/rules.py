"""Rules: what a lower slice asks and higher slices answer, so that imports only go down."""

from typing import TypeVar, cast

T = TypeVar("T")


class Rules:
    """A register of rule objects by the Protocol that the asking slice declares. Filled once, at start."""

    def __init__(self) -> None:
        self._by_kind: dict[object, list[object]] = {}

    def register(self, kind: type[T], rule: T) -> None:
        self._by_kind.setdefault(kind, []).append(rule)

    def all(self, kind: type[T]) -> tuple[T, ...]:
        """Every registered rule of this kind, in the order of the catalog."""
        return tuple(cast("list[T]", self._by_kind.get(kind, [])))

    def one(self, kind: type[T]) -> T:
        """The only rule of this kind.

        Raises:
            LookupError: none or several are registered; the composition is wrong.
        """
        rules = self.all(kind)
        if len(rules) != 1:
            msg = f"{kind.__name__}: expected one rule, found {len(rules)}"
            raise LookupError(msg)
        return rules[0]
