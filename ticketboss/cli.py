"""The commands of `ticketboss`: migrate, verify, watch, check instances, look after events, keys.

`flask --app ticketboss` has the same, and `flask --app wsgi` in a checkout.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import click
from flask import Flask
from flask.cli import AppGroup, ScriptInfo, with_appcontext

from ticketboss.check import history
from ticketboss.check.clients import Check, CheckError
from ticketboss.check.judge import judge
from ticketboss.data import archive
from ticketboss.data.database import Conflict, ConnectionLost, Rejected
from ticketboss.data.verify import Replay, replay_ledgers
from ticketboss.logs import RELEASE
from ticketboss.rules import limits
from ticketboss.rules.changes import Allot, Archive, Edit, IfMatch, Release
from ticketboss.rules.errors import (
    EventExists,
    EventNotFound,
    KeyNotFound,
    NotOver,
    PreconditionFailed,
    TicketBossError,
)
from ticketboss.rules.keys import KEY_ID, Kind, new
from ticketboss.rules.model import COMMAND, Event, LedgerEntry, Now
from ticketboss.serving import startup
from ticketboss.web import reads, schemas
from ticketboss.web.current import ids, store, write_path
from ticketboss.web.current import keys as known_keys

# What `watch` begins with, how often it looks for more, and how wide its bar is.
RECENT_CHANGES = 10
WATCH_SECONDS = 1.0
BAR = 20
# More differences of an event than this are not listed one by one.
SHOWN = 10
# How often a replay that takes long says how far it is.
PROGRESS_SECONDS = 2


def register(app: Flask) -> None:
    """Add the commands to the application's own."""
    for command in main.commands.values():
        app.cli.add_command(command)


@click.group()
@click.version_option(RELEASE, prog_name="ticketboss")
@click.pass_context
def main(context: click.Context):
    """Look after TicketBoss, on the database and with the settings of the environment.

    \b
    Examples:
      ticketboss events list
      ticketboss watch node-meetup-2025
      ticketboss keys create abc-corp
      DATABASE_URL=postgresql://ticketboss@db/ticketboss ticketboss verify
    """
    context.obj = ScriptInfo(create_app=_create_app)


def _create_app() -> Flask:
    from ticketboss import create_app  # which imports this module

    return create_app()


class Refusals(click.Command):
    """A command that ends with one line where the service would answer with an error."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except TicketBossError as fact:
            details = schemas.public(fact.members)
            details.pop("fields", None)
            text = ", ".join(f"{name} {value}" for name, value in details.items())
            raise click.ClickException(f"{fact}{text and f' ({text})'}") from None
        except (Conflict, ConnectionLost, Rejected) as error:
            raise click.ClickException(f"the database failed: {error}") from None
        except archive.ArchiveError as error:
            raise click.ClickException(str(error)) from None


@main.command()
def migrate():
    """Bring the database's schema up to date, and do nothing else.

    \b
    Example:
      DATABASE_URL=postgresql://owner@db/ticketboss ticketboss migrate
    """
    startup.migrate()


FILE = click.Path(path_type=Path, dir_okay=False)


@main.command(cls=Refusals)
@click.argument("event_id", metavar="[EVENT]", required=False)
@click.option("--file", type=FILE, metavar="FILE", help="Replay an archived event's file.")
@click.option("--quiet", is_flag=True, help="Say nothing of what agrees, nor of how far it is.")
@with_appcontext
def verify(event_id: str | None, file: Path | None, quiet: bool):
    """Replay the ledger of every event, or of one; exit 1 if anything disagrees.

    \b
    Examples:
      ticketboss verify node-meetup-2025
      ticketboss verify --quiet || mail -s 'The ledger disagrees' operator
      ticketboss verify --file gala.archive.jsonl
    """
    if event_id and file:
        raise click.UsageError("name an event or a --file")
    progress = Progress(quiet)
    found = disagrees = False
    replays: Iterable[Replay] = replay_ledgers(store.database, event_id, progress.advance)
    if file:
        replays = [archive.replayed(store.database, archive.load(file), progress.advance)]
    for replay in replays:
        found = True
        progress.events += 1
        differences = replay.differences
        if quiet and not differences:
            continue
        disagrees = disagrees or bool(differences)
        older = f", {replay.unsealed} without a checksum" if replay.unsealed else ""
        result = f"{len(differences)} differences" if differences else "ok"
        click.echo(f"{replay.event_id}: {replay.found.version} changes{older}, {result}")
        for difference in differences[:SHOWN]:
            click.echo(f"  {difference}")
    if event_id and not found:
        raise EventNotFound
    if disagrees:
        raise SystemExit(1)


class Progress:
    """Tells on standard error how far a replay is, where that takes long."""

    def __init__(self, quiet: bool):
        self.events = 0
        self.changes = 0
        self._next = float("inf") if quiet else time.monotonic() + PROGRESS_SECONDS

    def advance(self, changes: int) -> None:
        self.changes += changes
        if time.monotonic() > self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            click.echo(f"{self.events} events, {self.changes} changes so far", err=True)


@main.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--key-file", type=FILE, metavar="FILE", help="Where an admin key is.")
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True)
@click.option("--clients", type=click.IntRange(1, 256), default=12, show_default=True)
@click.option("--failover", is_flag=True, help="A standby may replace the database meanwhile.")
@click.option("--save", "saved", type=FILE, metavar="FILE", help="Keep what was asked and told.")
@click.option("--history", "kept", type=FILE, metavar="FILE", help="Judge that, and call nobody.")
def check(
    urls: tuple[str, ...],
    key_file: Path | None,
    seconds: float,
    clients: int,
    failover: bool,
    saved: Path | None,
    kept: Path | None,
):
    """Sell seats of events of its own on running instances, and judge every answer.

    Exits 1 if a promise was broken, with a line for each time, and 2 if nobody can tell.

    \b
    Example:
      ticketboss check http://127.0.0.1:8080 --key-file admin-key --seconds 60
    """
    left_out: list[str] = []
    try:
        if kept and not urls:
            records = history.load(kept)
        elif urls and key_file and not kept:
            run = Check(list(urls), key_file.read_text("utf-8").strip(), seconds, clients)
            records, left_out = run.run(), run.left_out
        else:
            raise click.UsageError("name instances and a --key-file, or a --history")
        if saved:
            history.save(records, saved)
    except (CheckError, OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    verdict = judge(records, failover)
    for violation in verdict.violations:
        click.echo(violation)
    for name in left_out:
        click.echo(f"left out, for it is not offered: {name}")
    numbers = {**history.summary(records).shown(), "violations": f"{len(verdict.violations):,}"}
    if failover:
        numbers["reads lost or passed"] = f"{verdict.vanished:,}"
    for name, number in numbers.items():
        click.echo(f"{name:22}  {number:>10}")
    if verdict.violations:
        raise SystemExit(1)


@main.command(cls=Refusals)
@click.argument("event_id", metavar="EVENT")
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="VERSION",
    help=f"Begin after this version, not with the last {RECENT_CHANGES} changes.",
)
@with_appcontext
def watch(event_id: str, after: int | None):
    """Show an event's changes as they come, one a line, until Ctrl-C.

    \b
    Examples:
      ticketboss watch node-meetup-2025
      ticketboss watch node-meetup-2025 --after 0 | grep cancelled
    """
    event = reads.event(event_id)
    total = event.total_seats
    seen = max(0, event.version - RECENT_CHANGES) if after is None else after

    def read(_: bool):
        return store.list_changes(event_id, None, seen, limits.FEED_MAXIMUM)

    with suppress(KeyboardInterrupt):
        while True:
            try:
                page = reads.page(event_id, read).items
            except reads.NOT_NOW as fact:
                click.echo(f"{fact}; asking again", err=True)
                page = []
            for change in page:
                total = change.seats if change.type == "event_updated" else total
                seen = change.version
                click.echo(_change(change, total))
            if len(page) < limits.FEED_MAXIMUM:
                time.sleep(WATCH_SECONDS)


def _change(change: LedgerEntry, total: int) -> str:
    """Return a change as one line; at a terminal with the seats left as a bar."""
    bar = ""
    if sys.stdout.isatty():
        left = round(BAR * change.available_seats / (total or 1))
        bar = f"  {'█' * min(left, BAR):░<{BAR}}"
    return (
        f"{_moment(change.at)}  {change.version:>7}  {change.type:13}  {change.seats:>5} seats"
        f"  {change.available_seats:>8} left{bar}  {change.partner_id or ''}"
    ).rstrip()


@main.group(cls=AppGroup)
def events():
    """Create, list, show and edit events.

    \b
    Example:
      ticketboss events show node-meetup-2025
    """


def _options(function):
    for option in (
        click.option("--sales-close-at", metavar="TIME", help="RFC 3339, or empty for never."),
        click.option("--sales-open-at", metavar="TIME", help="RFC 3339, or empty for at once."),
        click.option("--max-held-seats-per-partner", type=int, help="Of those, on hold."),
        click.option("--max-seats-per-partner", type=int, help="Seats that one partner may have."),
        click.option("--total-seats", type=int),
        click.option("--name"),
    ):
        function = option(function)
    return function


@events.command(cls=Refusals)
@click.argument("event_id")
@_options
def create(event_id: str, **options):
    """Create an event.

    \b
    Example:
      ticketboss events create gala --name 'Winter gala' --total-seats 800
    """
    members = schemas.CreateEventRequest().read(_given({"event_id": event_id, **options}))
    if not store.create_event(**members, actor=COMMAND):
        raise EventExists
    _show([reads.event(event_id)])


@events.command("list", cls=Refusals)
def index():
    """List all events.

    \b
    Example:
      ticketboss events list
    """
    found, after = [], ""
    while page := store.list_events(after, limit=100):
        found += reads.settle_all(page)
        after = page[-1].event_id
    _show(found)


@events.command(cls=Refusals)
@click.argument("event_id")
def show(event_id: str):
    """Show one event.

    \b
    Example:
      ticketboss events show gala
    """
    _show([reads.event(event_id)])


@events.command(cls=Refusals)
@click.argument("event_id")
@_options
def edit(event_id: str, **options):
    """Change an event's name, size or sales window.

    \b
    Examples:
      ticketboss events edit gala --total-seats 900
      ticketboss events edit gala --sales-close-at 2026-12-24T18:00:00Z
    """
    members = schemas.EditEventRequest().read(_given(options))
    if not members:
        raise click.UsageError("name at least one thing to change; see --help")
    _show([write_path.submit(event_id, Edit(members, actor=COMMAND))])


FOLDER = click.Path(path_type=Path, file_okay=False)


@events.command("archive", cls=Refusals)
@click.argument("event_id", required=False)
@click.option("--closed-before", metavar="TIME", help="All whose sales closed before: RFC 3339.")
@click.option("--to", "folder", type=FOLDER, default=".", help="Where the files go.")
def archive_events(event_id: str | None, closed_before: str | None, folder: Path):
    """Write an event that is over to a file, and remove it from the database.

    From then on there is no such event, and its id stays taken. What ends on the way
    is finished by the same command. Removing takes a role that may delete.

    \b
    Examples:
      ticketboss events archive gala --to /var/archives
      ticketboss events archive --closed-before 2026-01-01T00:00:00Z --to /var/archives
    """
    if event_id is not None and closed_before is None:
        _archive(event_id, folder)
        return
    refused = False
    for each in _named(event_id, closed_before):
        try:
            _archive(each, folder)
        except NotOver as fact:
            refused = True
            click.echo(f"{each}: {fact}", err=True)
    if refused:
        raise SystemExit(1)


def _archive(event_id: str, folder: Path) -> None:
    """Archive an event, or finish that. Raises NotOver, EventNotFound and ArchiveError."""
    found = archive.find(store.database, event_id)
    if found is None:
        raise EventNotFound
    if not found.event.archived:
        _close(event_id)
        found = archive.find(store.database, event_id)
    assert found is not None
    path = folder / f"{event_id}.archive.jsonl"
    file = archive.keep(store.database, found, path)
    archive.remove(store.database, event_id, Progress(quiet=False).advance)
    click.echo(f"{event_id}: {file.version} changes in {path}")


def _close(event_id: str) -> None:
    """Let an event be archived from a version on at which nothing of it was on hold."""
    for replay in replay_ledgers(store.database, event_id):
        if replay.differences:
            raise archive.ArchiveError(f"{event_id} does not replay: {replay.differences[0]}")
    for _ in range(reads.TRIES):
        held = reads.page(
            event_id,
            lambda _: store.list_reservations(event_id, None, "held", after=0, limit=1),
        )
        allotted = reads.page(
            event_id, lambda _: store.list_allotments(event_id, None, after="", limit=1)
        )
        if held.items or allotted.items:
            raise NotOver
        if held.event_version == allotted.event_version:
            with suppress(PreconditionFailed):
                seen = IfMatch(frozenset({str(held.event_version)}))
                write_path.submit(event_id, Archive(seen, actor=COMMAND))
                return
    raise archive.ArchiveError(f"{event_id} does not come to rest: try again")


def _named(event_id: str | None, closed_before: str | None) -> list[str]:
    """Return the event that is named, or those whose sales closed before a time."""
    if (event_id is None) == (closed_before is None):
        raise click.UsageError("name either an EVENT or --closed-before")
    if event_id is not None:
        return [event_id]
    time = schemas.EditEventRequest().read(_given({"sales_close_at": closed_before}))[
        "sales_close_at"
    ]
    found, after = [], ""
    while page := store.list_events(after, limit=100):
        found += [e.event_id for e in page if e.sales_close_at and e.sales_close_at < time]
        after = page[-1].event_id
    return found


@events.command(cls=Refusals)
@click.argument("event_id", required=False)
@click.option("--closed-before", metavar="TIME", help="All whose sales closed before: RFC 3339.")
def forget_keys(event_id: str | None, closed_before: str | None):
    """Drop the idempotency keys of an event whose sales are closed: the ledger keeps them.

    \b
    Example:
      ticketboss events forget-keys --closed-before 2026-01-01T00:00:00Z
    """
    for each in _named(event_id, closed_before):
        event = reads.event(each)
        if event.sales_close_at is None or event.read_at < event.sales_close_at:
            raise NotOver
        click.echo(f"{each}: {archive.forget_keys(store.database, each)} keys dropped")


@events.command("restore", cls=Refusals)
@click.argument("file", type=FILE)
def restore_event(file: Path):
    """Put an archived event back from its file, as it was, and let it live again.

    \b
    Example:
      ticketboss events restore /var/archives/gala.archive.jsonl
    """
    kept = archive.load(file)
    if differences := archive.replayed(store.database, kept).differences:
        raise archive.ArchiveError(f"{file} does not replay: {differences[0]}")
    archive.restore(store, kept)
    _show([reads.event(kept.event_id)])


@main.group(cls=AppGroup)
def keys():
    """Create, list and revoke keys.

    \b
    Example:
      ticketboss keys list --partner abc-corp
    """


@keys.command("create", cls=Refusals)
@click.argument("partner_id", required=False)
@click.option("--admin", is_flag=True, help="A key that may do everything.")
@click.option("--metrics", is_flag=True, help="A key that is good for /metrics alone.")
def create_key(partner_id: str | None, admin: bool, metrics: bool):
    """Create a key for a partner, an admin, or metrics.

    It is printed once, and alone, so that it can be piped to where it is kept.

    \b
    Examples:
      ticketboss keys create abc-corp
      ticketboss keys create --admin >admin.key
    """
    if (partner_id is not None) + admin + metrics != 1:
        raise click.UsageError("name a partner, or give --admin or --metrics")
    kind: Kind = "admin" if admin else "metrics" if metrics else "partner"
    if partner_id is not None:
        members = schemas.CreateKeyRequest().read(_given({"partner_id": partner_id}))
        partner_id = members["partner_id"]
    key_id, text = new()
    known_keys.create(key_id, text, kind, partner_id)
    click.echo(f"key {key_id} for {partner_id or kind}; it is not shown again", err=True)
    click.echo(text)


@keys.command("list", cls=Refusals)
@click.option("--partner", "partner_id", metavar="PARTNER_ID", help="Only those of this partner.")
def list_keys(partner_id: str | None):
    """List keys, newest last, by their public ids.

    \b
    Example:
      ticketboss keys list --partner abc-corp
    """
    partner_id = schemas.KeysQuery().read(_given({"partner_id": partner_id}))["partner_id"]
    rows, after = [], None
    while page := known_keys.list(partner_id, after, limit=100):
        rows += [
            (
                key.key_id,
                key.partner_id or f"({key.kind})",
                _moment(key.created_at),
                str(key.last_used_on or "never"),
                _moment(key.revoked_at, otherwise="no"),
            )
            for key in page
        ]
        after = page[-1].key_id
    _table(("KEY", "PARTNER", "CREATED", "LAST USED", "REVOKED"), rows)


@keys.command("revoke", cls=Refusals)
@click.argument("key_id")
def revoke_key(key_id: str):
    """End a key by its public id, everywhere within half a minute.

    \b
    Example:
      ticketboss keys revoke 4gz0dwkqf1tn
    """
    if not KEY_ID.match(key_id) or not known_keys.revoke(key_id):
        raise KeyNotFound


@events.command(cls=Refusals)
@click.argument("event_id")
@click.argument("partner_id")
@click.argument("seats", type=int, required=False)
@click.option("--release-at", metavar="TIME", help="RFC 3339: when it releases itself.")
@click.option("--release", is_flag=True, help="Give what is left of it back to the pool.")
def allot(event_id: str, partner_id: str, seats: int | None, release_at: str | None, release: bool):
    """Set seats of an event aside for one partner.

    SEATS is what is granted in all, live draws included: a repetition changes nothing.

    \b
    Examples:
      ticketboss events allot gala abc-corp 100 --release-at 2026-12-01T12:00:00Z
      ticketboss events allot gala abc-corp --release
    """
    if release == (seats is not None):
        raise click.UsageError("give either SEATS or --release")
    if release:
        partner = schemas.ReleaseQuery().read(_given({"partner_id": partner_id}))["partner_id"]
        write_path.submit(event_id, Release(partner, actor=COMMAND))
    else:
        given = {"partner_id": partner_id, "seats": seats, "release_at": release_at}
        members = schemas.AllotRequest().read(_given(given))
        write_path.submit(event_id, Allot(ids.new(event_id), event_id, **members, actor=COMMAND))
    _show([reads.event(event_id)])


def _given(options: dict) -> dict:
    """Return the options that were given, as the API's members; an empty time is none."""
    return {
        schemas.camel_case(name): (value or None) if name.startswith("sales_") else value
        for name, value in options.items()
        if value is not None
    }


def _show(found: list[Event]) -> None:
    head = ("EVENT", "NAME", "SEATS", "AVAILABLE", "RESERVATIONS", "VERSION", "SALES")
    rows = [
        (
            event.event_id,
            event.name,
            str(event.total_seats),
            str(event.available_seats),
            str(event.reservation_count),
            str(event.version),
            _window(event),
        )
        for event in found
    ]
    _table(head, rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(cell.isdigit() for cell in column[1:]) for column in columns]
    for row in (head, *rows):
        cells = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def _window(event: Event) -> str:
    if event.sales_open_at is None and event.sales_close_at is None:
        return "always"
    opens, closes = _moment(event.sales_open_at, "now"), _moment(event.sales_close_at, "sold out")
    return f"{opens} to {closes}"


def _moment(at: datetime | Now | None, otherwise: str = "") -> str:
    return schemas.timestamp(at)[:19] + "Z" if isinstance(at, datetime) else otherwise
