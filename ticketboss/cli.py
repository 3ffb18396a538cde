"""The commands of `ticketboss`: migrate the schema, verify the ledger, look after events.

`flask --app ticketboss` has the same, and `flask --app wsgi` in a checkout.
"""

import sys
from datetime import datetime

import click
from flask import Flask, cli
from flask.cli import AppGroup, with_appcontext

from ticketboss.data.database import Conflict, ConnectionLost, Rejected
from ticketboss.data.verify import SHOWN, replay_ledgers
from ticketboss.rules.changes import Edit
from ticketboss.rules.errors import EventExists, TicketBossError
from ticketboss.rules.model import Event
from ticketboss.serving import startup
from ticketboss.web import reads, schemas
from ticketboss.web.current import store, write_path


def main() -> None:
    """Be `ticketboss`: flask's own command line, for this application."""
    cli.cli.main(["--app", "ticketboss", *sys.argv[1:]], prog_name="ticketboss")


def register(app: Flask) -> None:
    """Add the commands to the application's own."""
    app.cli.add_command(verify)
    app.cli.add_command(events)


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


@click.command()
def migrate():
    """Bring the database's schema up to date, and do nothing else."""
    startup.migrate()


@click.command(cls=Refusals)
@with_appcontext
def verify():
    """Replay the ledger of every event; exit 1 if anything disagrees."""
    disagrees = False
    for event_id, version, differences in replay_ledgers(store.database):
        disagrees = disagrees or bool(differences)
        result = f"{len(differences)} differences" if differences else "ok"
        click.echo(f"{event_id}: {version} changes, {result}")
        for difference in differences[:SHOWN]:
            click.echo(f"  {difference}")
    if disagrees:
        raise SystemExit(1)


events = AppGroup("events", help="Create, list, show and edit events.")


def _options(function):
    for option in (
        click.option("--sales-close-at", metavar="TIME", help="RFC 3339, or empty for never."),
        click.option("--sales-open-at", metavar="TIME", help="RFC 3339, or empty for at once."),
        click.option("--total-seats", type=int),
        click.option("--name"),
    ):
        function = option(function)
    return function


@events.command(cls=Refusals)
@click.argument("event_id")
@_options
def create(event_id: str, **options):
    """Create an event."""
    members = schemas.CreateEventRequest().read(_given({"event_id": event_id, **options}))
    if not store.create_event(**members):
        raise EventExists
    _table([reads.event(event_id)])


@events.command("list", cls=Refusals)
def index():
    """List all events."""
    found, after = [], ""
    while page := store.list_events(after, limit=100):
        found += reads.settle_all(page)
        after = page[-1].event_id
    _table(found)


@events.command(cls=Refusals)
@click.argument("event_id")
def show(event_id: str):
    """Show one event."""
    _table([reads.event(event_id)])


@events.command(cls=Refusals)
@click.argument("event_id")
@_options
def edit(event_id: str, **options):
    """Change an event's name, size or sales window."""
    members = schemas.EditEventRequest().read(_given(options))
    if not members:
        raise click.UsageError("name at least one thing to change; see --help")
    _table([write_path.submit(event_id, Edit(members))])


def _given(options: dict) -> dict:
    """Return the options that were given, as the API's members; an empty time is none."""
    return {
        schemas.camel_case(name): (value or None) if name.startswith("sales_") else value
        for name, value in options.items()
        if value is not None
    }


def _table(found: list[Event]) -> None:
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
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (
            text.rjust(width) if 2 <= place <= 5 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _window(event: Event) -> str:
    def moment(at: datetime | None, otherwise: str) -> str:
        return schemas.timestamp(at)[:19] + "Z" if at else otherwise

    if event.sales_open_at is None and event.sales_close_at is None:
        return "always"
    return f"{moment(event.sales_open_at, 'now')} to {moment(event.sales_close_at, 'sold out')}"
