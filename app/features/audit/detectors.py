"""Patterns that turn events into alerts: pure logic, one line of `RULES` each.

A rule groups events by a source, keeps what they were about for a window, and raises one alert a
source and window when that is enough. A rule that counts different things has a threshold of at most
32: a row names no more. Where a flood has filled the places of single clients the source is a wide
network; where it has filled those too, only rules without a source see what is counted.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from app.features.audit.read import RecordedEvent
from app.kernel.addresses import network_of
from app.kernel.ids import UserId

LONGEST: Final = timedelta(hours=1)
# In the details of a row that stands for more sources than could be told apart.
FROM_MANY: Final = "from_many"
_TEN_MINUTES: Final = timedelta(minutes=10)
# Of one source; beyond it the oldest go, long after the alert was raised.
_MAX_SIGHTINGS: Final = 2_000
_MAX_SOURCES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    """Whose doing it is, or what it is about; one is given, or none where it is everybody's."""

    user_id: UserId | None = None
    network: str | None = None
    phone: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What an event adds: `item` for rules that count different ones, `weight` for sums."""

    at: datetime
    item: str
    weight: int


@dataclass(frozen=True, slots=True)
class Alert:
    """`seen`: how many of what the rule counts."""

    name: str
    source: Source
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`measure` says how much the sightings of a source are; `threshold` is the least for an alert.
    Without `events` it looks at all.
    """

    alert: str
    events: frozenset[str] | None
    window: timedelta
    threshold: int
    sources: Callable[[RecordedEvent], Iterable[Source]]
    items: Callable[[RecordedEvent], Sequence[str]]
    weigh: Callable[[RecordedEvent], int] = field(default=lambda event: event.count)
    measure: Callable[[Sequence[Sighting]], int]


def count_different(sightings: Sequence[Sighting]) -> int:
    return len({sighting.item for sighting in sightings})


def add_up(sightings: Sequence[Sighting]) -> int:
    return sum(sighting.weight for sighting in sightings)


def count_walked(sightings: Sequence[Sighting]) -> int:
    """Different ids of one kind in rising or falling order; in any order they count a third each."""
    return max(count_steps(sightings), count_different(sightings) // _SHUFFLED)


# A list that is out of date asks for some that are gone as well, but not for so many.
_SHUFFLED = 3


def count_steps(sightings: Sequence[Sighting]) -> int:
    """Different ids of one kind asked for in rising (or falling) order, if most of them are."""
    longest = 0
    by_kind: dict[str, list[int]] = {}
    for item in dict.fromkeys(sighting.item for sighting in sightings):
        kind, _, number = item.partition(":")
        if number.isdecimal():
            by_kind.setdefault(kind, []).append(int(number))
    for numbers in by_kind.values():
        rising = sum(first < second for first, second in pairwise(numbers))
        steps = max(rising, len(numbers) - 1 - rising)
        if steps >= _MOSTLY * (len(numbers) - 1):
            longest = max(longest, len(numbers))
    return longest


_MOSTLY = 0.8


def count_wrong(sightings: Sequence[Sighting]) -> int:
    """Wrong codes, if there are many for so many right ones."""
    wrong = sum(sighting.weight for sighting in sightings if sighting.item == "wrong")
    right = sum(sighting.weight for sighting in sightings) - wrong
    return wrong if wrong >= _TYPING_ERRORS * right else 0


# Of those who type a code one in some ten mistypes it.
_TYPING_ERRORS = 0.5


def by_network(event: RecordedEvent) -> list[Source]:
    return [Source(network=network_of(event.address))] if event.address else []


def by_person(event: RecordedEvent) -> list[Source]:
    """The account, or the network of whoever has none."""
    return by_network(event) if event.user_id is None else [Source(user_id=event.user_id)]


def by_phone(event: RecordedEvent) -> list[Source]:
    """The number's index; of many numbers together none is named."""
    if event.details.get(FROM_MANY) is True:
        return []
    return [Source(phone=subject) for subject in event.subjects]


def by_nobody(event: RecordedEvent) -> list[Source]:
    """All together."""
    del event
    return [Source()]


def by_event(event: RecordedEvent) -> list[Source]:
    return [Source(subject=event.name)]


def _subjects(event: RecordedEvent) -> Sequence[str]:
    return event.subjects


def _networks(event: RecordedEvent) -> Sequence[str]:
    return [network_of(event.address)] if event.address else ()


def _once(event: RecordedEvent) -> Sequence[str]:
    return ("",)


def _right_or_wrong(event: RecordedEvent) -> Sequence[str]:
    return ("wrong" if event.name == "sign_in_refused" else "right",)


def _joined(event: RecordedEvent) -> int:
    return 1 if event.details.get(FROM_MANY) is True else 0


def _new_numbers(event: RecordedEvent) -> int:
    """Numbers that were news to the account; all of a day's when the budget is used up."""
    if event.name == "contacts_imported":
        new = event.details.get("new")
        return new if isinstance(new, int) else 0
    return _MASS_IMPORT if event.details.get("code") == "lookups_exhausted" else 0


_MASS_IMPORT = 1_000

RULES: Final = (
    # Wrong codes for many phones from one network.
    Rule(
        alert="alert_code_guessing",
        events=frozenset({"sign_in_refused"}),
        window=LONGEST,
        threshold=10,
        sources=by_network,
        items=_subjects,
        measure=count_different,
    ),
    # One phone that many networks try to sign in to.
    Rule(
        alert="alert_phone_under_attack",
        events=frozenset({"sign_in_refused", "sign_in_code_asked", "sign_in_code_limited"}),
        window=LONGEST,
        threshold=8,
        sources=by_phone,
        items=_networks,
        measure=count_different,
    ),
    # A few wrong codes for each of many phones from each of many networks: nobody's source tells.
    Rule(
        alert="alert_spread_guessing",
        events=frozenset({"sign_in_refused", "signed_in", "second_factor_asked"}),
        window=LONGEST,
        threshold=200,
        sources=by_nobody,
        items=_right_or_wrong,
        measure=count_wrong,
    ),
    Rule(
        alert="alert_id_walking",
        events=frozenset({"not_found"}),
        window=_TEN_MINUTES,
        threshold=30,
        sources=by_person,
        items=_subjects,
        measure=count_walked,
    ),
    Rule(
        alert="alert_probing",
        events=frozenset({"probe_seen"}),
        window=_TEN_MINUTES,
        threshold=3,
        sources=by_network,
        items=_once,
        measure=add_up,
    ),
    Rule(
        alert="alert_mass_import",
        events=frozenset({"contacts_imported", "rate_limited"}),
        window=LONGEST,
        threshold=_MASS_IMPORT,
        sources=by_person,
        items=_once,
        weigh=_new_numbers,
        measure=add_up,
    ),
    Rule(
        alert="alert_token_replay",
        events=frozenset({"refresh_token_replayed"}),
        window=_TEN_MINUTES,
        threshold=1,
        sources=by_person,
        items=_once,
        measure=add_up,
    ),
    # Forged or stolen tokens, tried one after the other.
    Rule(
        alert="alert_token_guessing",
        events=frozenset({"token_refused"}),
        window=_TEN_MINUTES,
        threshold=300,
        sources=by_network,
        items=_once,
        measure=add_up,
    ),
    # Somebody may hide an attack behind a flood: clients of one name are told apart no more.
    Rule(
        alert="alert_record_flooded",
        events=None,
        window=LONGEST,
        threshold=1,
        sources=by_event,
        items=_once,
        weigh=_joined,
        measure=add_up,
    ),
)


class Detectors:
    """What the rules have seen; feed it every event once, in their order."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self._rules = rules
        self._seen: OrderedDict[tuple[str, Source], deque[Sighting]] = OrderedDict()

    def feed(self, event: RecordedEvent) -> list[Alert]:
        """The alerts that this event completes; a source that was told starts anew."""
        alerts: list[Alert] = []
        for rule in self._rules:
            if rule.events is None or event.name in rule.events:
                sources = dict.fromkeys(rule.sources(event))
                found = (self._look(rule, source, event) for source in sources)
                alerts += [alert for alert in found if alert is not None]
        return alerts

    def _look(self, rule: Rule, source: Source, event: RecordedEvent) -> Alert | None:
        weight = rule.weigh(event)
        items = rule.items(event)
        if weight <= 0 or not items:
            return None
        sightings = self._remembered(rule, source)
        sightings.extend(Sighting(event.at, item, weight) for item in items)
        while sightings and sightings[0].at <= event.at - rule.window:
            sightings.popleft()
        seen = rule.measure(sightings)
        if seen < rule.threshold:
            return None
        sightings.clear()
        return Alert(rule.alert, source, seen)

    def _remembered(self, rule: Rule, source: Source) -> deque[Sighting]:
        key = (rule.alert, source)
        sightings = self._seen.setdefault(key, deque(maxlen=_MAX_SIGHTINGS))
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_SOURCES:
            self._seen.popitem(last=False)
        return sightings


def telling_count(event_name: str) -> int:
    """How many of one source may complete an alert, so that they are worth a row before its minute."""
    return _TELLING.get(event_name, _TELLING_ELSE)


_TELLING = {
    name: rule.threshold
    for rule in RULES
    if rule.sources in {by_network, by_person} and rule.alert != "alert_mass_import"
    for name in rule.events or ()
}
_TELLING_ELSE = 32


def window_of(alert: str) -> timedelta:
    """For so long a source is not told of again."""
    return next((rule.window for rule in RULES if rule.alert == alert), LONGEST)
