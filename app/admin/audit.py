"""`python -m app.admin audit`: read, search and verify the record of security events.

Whatever stands in a row, it is printed as one line of ASCII: no event can forge a line or drive a
terminal.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from app.admin.opened import faults_told, open_for_admin, open_keys, record_act
from app.features.audit.read import (
    Filter,
    RecordedEvent,
    Total,
    count_by_name,
    count_refusals_by_user,
    list_newest,
)
from app.features.audit.verify import Verdict, verify_chain
from app.features.audit.write import ALERT_PREFIX
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import SCAN_SECONDS, Database
from app.infra.secrets import load_secrets
from app.kernel.addresses import network_of, wide_network_of
from app.kernel.clock import SystemClock, format_time, parse_time
from app.kernel.phones import PhoneInvalid, parse_phone
from app.settings import Settings, load_settings

_SCANNED = 500
_FOLLOW_SECONDS = 1.0
_TOP = 10

cli = typer.Typer(no_args_is_help=True, help="The record of security events.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]
ShowPersonal = Annotated[
    bool,
    typer.Option("--show-personal", help="Addresses, devices and the like; recorded itself."),
]
Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000)]


@cli.command("tail")
def tail(
    *,
    lines: Lines = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    as_json: AsJson = False,
    show_personal: ShowPersonal = False,
) -> None:
    """The newest events."""
    with faults_told():
        asyncio.run(
            _tail(
                load_settings(), lines, follow=follow, as_json=as_json, show_personal=show_personal
            )
        )


@cli.command("search")
def search(
    *,
    name: Annotated[str | None, typer.Option(help="The name or its beginning: alert_")] = None,
    user: Annotated[int | None, typer.Option(help="Id of the person.")] = None,
    session: Annotated[int | None, typer.Option(help="Id of the session.")] = None,
    request_id: Annotated[str | None, typer.Option(help="X-Request-ID of the answer.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339, or 24h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339, or 24h, 7d.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the client; opens every row; recorded itself.")
    ] = None,
    phone: Annotated[
        str | None, typer.Option(help="That sign-in was tried with; recorded itself.")
    ] = None,
    lines: Lines = 100,
    as_json: AsJson = False,
    show_personal: ShowPersonal = False,
) -> None:
    """The newest events that fit all that is given, the oldest of them first."""
    wanted = Filter(
        name=name,
        user_id=user,
        session_id=session,
        request_id=request_id,
        since=_moment(since),
        until=_moment(until),
    )
    with faults_told():
        events = asyncio.run(
            _search(load_settings(), wanted, lines, address, phone, show_personal=show_personal)
        )
    for event in events:
        _print(event, as_json=as_json, show_personal=show_personal)


@cli.command("verify")
def verify(
    *,
    head: Annotated[
        str | None,
        typer.Option(help="A head from the log (audit_head), to find a tail that was cut off."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the chain; status 1 if a row was changed, deleted or put in."""
    with faults_told():
        verdict = asyncio.run(_verify(load_settings(), head))
    _print_verdict(verdict, as_json=as_json)
    if verdict.faults:
        raise typer.Exit(1)


@cli.command("report")
def report(
    *,
    days: Annotated[int, typer.Option(min=1, max=3650)] = 7,
    as_json: AsJson = False,
) -> None:
    """How many events of each name, the newest alerts, and who was refused most."""
    with faults_told():
        totals, alerts, users = asyncio.run(_report(load_settings(), days))
    if as_json:
        document = {
            "totals": {total.name: total.count for total in totals},
            "alerts": [_document(alert, show_personal=False) for alert in alerts],
            "refused_most": [{"user_id": user_id, "count": count} for user_id, count in users],
        }
        typer.echo(json.dumps(document))
        return
    for total in totals:
        typer.echo(f"{total.count:>10}  {_plain(total.name)}  ({total.rows} rows)")
    typer.echo("\nAlerts, the newest last:" if alerts else "\nNo alerts.")
    for alert in alerts:
        _print(alert, as_json=False, show_personal=False)
    if users:
        typer.echo("\nRefused most:")
    for user_id, count in users:
        typer.echo(f"{count:>10}  user {user_id}")


async def _tail(
    settings: Settings, lines: int, *, follow: bool, as_json: bool, show_personal: bool
) -> None:
    async with open_for_admin(settings) as db:
        keyring = await _open_personal(settings, db, "audit_tail") if show_personal else None
        wanted = Filter()
        while True:
            events = await _list(db, keyring, wanted, lines)
            for event in events:
                _print(event, as_json=as_json, show_personal=show_personal)
            if not follow:
                return
            wanted = Filter(after_id=events[-1].id if events else wanted.after_id or 0)
            lines = 10_000
            await asyncio.sleep(_FOLLOW_SECONDS)


async def _search(
    settings: Settings,
    wanted: Filter,
    lines: int,
    address: str | None,
    phone: str | None,
    *,
    show_personal: bool,
) -> Sequence[RecordedEvent]:
    async with open_for_admin(settings) as db:
        if address is None and phone is None and not show_personal:
            return await _list(db, None, wanted, lines)
        keyring = await _open_personal(settings, db, "audit_search")
        if address is None and phone is None:
            return await _list(db, keyring, wanted, lines)
        subject = None if phone is None else _phone_index(settings, phone)
        found: list[RecordedEvent] = []
        # Addresses are in no index: every row is opened, page by page, the newest first.
        while len(found) < lines:
            page = await _list(db, keyring, wanted, _SCANNED)
            if not page:
                break
            found[:0] = [event for event in page if _fits(event, address, subject)]
            wanted = _before(wanted, page[0].id)
        return found[-lines:]


async def _verify(settings: Settings, head: str | None) -> Verdict:
    async with open_for_admin(settings) as db:
        return await verify_chain(db, await open_keys(settings, db), kept_head=head)


async def _report(
    settings: Settings, days: int
) -> tuple[Sequence[Total], Sequence[RecordedEvent], Sequence[tuple[int, int]]]:
    since = SystemClock().now() - timedelta(days=days)
    async with open_for_admin(settings) as db:
        totals = await db.read(
            lambda tx: count_by_name(tx, since=since), timeout_seconds=SCAN_SECONDS
        )
        users = await db.read(
            lambda tx: count_refusals_by_user(tx, since=since, limit=_TOP),
            timeout_seconds=SCAN_SECONDS,
        )
        alerts = await _list(db, None, Filter(name=ALERT_PREFIX, since=since), 2 * _TOP)
        return totals, alerts, users


async def _open_personal(settings: Settings, db: Database, command: str) -> Keyring:
    """The keys, once it is on record that somebody looks at what they open."""
    keyring = await open_keys(settings, db)
    await record_act(db, keyring, f"{command}_personal")
    return keyring


async def _list(
    db: Database, keyring: Keyring | None, wanted: Filter, lines: int
) -> list[RecordedEvent]:
    """What is rare is looked for in all there is."""
    return await db.read(
        lambda tx: list_newest(tx, keyring, wanted, limit=lines), timeout_seconds=SCAN_SECONDS
    )


def _fits(event: RecordedEvent, address: str | None, subject: str | None) -> bool:
    if subject is not None and subject not in event.subjects:
        return False
    if address is None:
        return True
    # Of many at once only the wide network may stand there.
    wanted = {network_of(address), wide_network_of(address)}
    return event.address is not None and network_of(event.address) in wanted


def _before(wanted: Filter, row_id: int) -> Filter:
    return Filter(
        name=wanted.name,
        user_id=wanted.user_id,
        session_id=wanted.session_id,
        request_id=wanted.request_id,
        since=wanted.since,
        until=wanted.until,
        before_id=row_id,
    )


def _phone_index(settings: Settings, phone: str) -> str:
    try:
        return BlindIndex(load_secrets(settings).index_key).phone(parse_phone(phone)).hex()
    except PhoneInvalid as error:
        msg = "--phone must be a phone number with its country code"
        raise typer.BadParameter(msg) from error


def _moment(text: str | None) -> datetime | None:
    """`24h`, `7d`: so long ago; else RFC 3339."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and unit in _UNITS and len(number) <= len("100000"):
        return SystemClock().now() - int(number) * _UNITS[unit]
    try:
        return parse_time(text)
    except ValueError as error:
        msg = "a time is 2026-01-31T12:00:00Z, or 30m, 24h, 7d ago"
        raise typer.BadParameter(msg) from error


_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def _document(event: RecordedEvent, *, show_personal: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": event.id,
        "seq": event.seq,
        "at": format_time(event.at),
        "name": event.name,
        "count": event.count,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "request_id": event.request_id,
        "details": dict(event.details),
    }
    if show_personal:
        document["personal"] = dict(event.personal)
    return document


def _print(event: RecordedEvent, *, as_json: bool, show_personal: bool) -> None:
    document = _document(event, show_personal=show_personal)
    if as_json:
        typer.echo(json.dumps(document))
        return
    head = f"{document.pop('at')} {document['seq'] or '-':>8} {_plain(document.pop('name'))}"
    members = {
        **{name: document[name] for name in ("user_id", "session_id", "request_id")},
        "count": event.count if event.count > 1 else None,
        **event.details,
        **(event.personal if show_personal else {}),
    }
    typer.echo(f"{head}  {_render(members)}".rstrip())


def _print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        document = {
            "is_whole": not verdict.faults,
            "checked": verdict.checked,
            "queued": verdict.queued,
            "head": str(verdict.head),
            "checkpoint": str(verdict.checkpoint),
            "faults": verdict.faults,
        }
        typer.echo(json.dumps(document))
        return
    for fault in verdict.faults:
        typer.echo(_plain(fault), err=True)
    state = "NOT WHOLE" if verdict.faults else "whole"
    typer.echo(f"The chain is {state}: {verdict.checked} rows, {verdict.queued} waiting.")
    typer.echo(f"head {verdict.head}")


def _render(members: Mapping[str, Any]) -> str:
    return " ".join(
        f"{_plain(name)}={_plain(value)}" for name, value in members.items() if value is not None
    )


def _plain(value: object) -> str:
    """One word or line of ASCII; what a terminal would obey is an escape."""
    text = value if isinstance(value, str) else json.dumps(value)
    quoted = json.dumps(text)[1:-1].replace("\x7f", "\\u007f")
    return quoted if text.isascii() and text.isprintable() and " " not in text else f'"{quoted}"'
