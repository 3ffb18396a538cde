"""Run the statements of `sql/` and turn their rows into what they mean."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from ticketboss import limits
from ticketboss.changes import NOW, Plan, Reserve
from ticketboss.database import Conflict, Database, Rejected, statement
from ticketboss.errors import TicketBossError
from ticketboss.model import Event, LedgerEntry, Reservation


class Page(NamedTuple):
    """Part of a list of one event's things; None stands for no such event."""

    unsettled: bool
    items: list


class Written(NamedTuple):
    """When a batch was written, and the version that it was written on."""

    at: datetime
    seen_version: int


class Store:
    """The data access of one database. Errors are those of Database.read and write."""

    def __init__(self, database: Database):
        self.database = database

    def answers(self) -> bool:
        """Tell whether the database, with its schema, did something in the last second."""
        database = self.database
        if time.monotonic() - database.last_success > limits.HEALTH_FRESHNESS:
            try:
                database.read(statement("read_schema_version"))
            except (TicketBossError, Conflict, Rejected):
                return False
        return not database.silent

    # --- Events ---------------------------------------------------------------

    def create_event(
        self,
        event_id: str,
        name: str,
        total_seats: int,
        sales_open_at: datetime | None = None,
        sales_close_at: datetime | None = None,
    ) -> bool:
        """Create an event; tell whether it was created now (False: it exists)."""
        return bool(
            self.database.read(
                statement("create_event"),
                {
                    "event_id": event_id,
                    "name": name,
                    "total_seats": total_seats,
                    "sales_open_at": sales_open_at,
                    "sales_close_at": sales_close_at,
                },
            )
        )

    def read_event(self, event_id: str) -> Event | None:
        rows = self.database.read(statement("read_event"), {"event_id": event_id})
        return Event(*rows[0]) if rows else None

    def read_event_unsettled(self, event_id: str) -> Event | None:
        rows = self.database.read(statement("read_event_unsettled"), {"event_id": event_id})
        return Event(*rows[0]) if rows else None

    def list_events(self, after: str, limit: int) -> list[Event]:
        rows = self.database.read(statement("list_events"), {"after": after, "limit": limit})
        return [Event(*row) for row in rows]

    # --- Reservations and changes ---------------------------------------------

    def read_reservation(self, reservation_id: UUID) -> Reservation | None:
        rows = self.database.read(
            statement("read_reservation"), {"reservation_id": str(reservation_id)}
        )
        return _reservation(rows[0]) if rows else None

    def list_reservations(
        self,
        event_id: str,
        partner_id: str | None,
        status: str | None,
        after: int,
        limit: int,
        computed: bool = False,
    ) -> Page | None:
        """Return reservations made by a version greater than `after`.

        With `computed`, `status` finds a hold that has expired among the expired ones,
        settled or not.
        """
        rows = self.database.read(
            statement("list_reservations"),
            {
                "event_id": event_id,
                "partner_id": partner_id,
                "status": status,
                "after": after,
                "limit": limit,
                "computed": computed,
            },
        )
        return _page(rows, lambda *row: _reservation(row))

    def list_changes(self, event_id: str, after: int, limit: int) -> Page | None:
        """Return ledger entries."""
        rows = self.database.read(
            statement("list_changes"), {"event_id": event_id, "after": after, "limit": limit}
        )
        return _page(rows, LedgerEntry)

    # --- For the write path ---------------------------------------------------

    def read_for(self, changes: list) -> tuple[list[Reservation], datetime | None]:
        """Return the existing reservations that changes are about, and the time of reading.

        Nothing is read, and the time is None, where no change is about any.
        """
        ids = [
            str(c.reservation_id)
            for c in changes
            if not isinstance(c, Reserve) and hasattr(c, "reservation_id")
        ]
        keys = [
            (c.partner_id, c.idempotency_key)
            for c in changes
            if isinstance(c, Reserve) and c.idempotency_key is not None
        ]
        if not ids and not keys:
            return [], None
        rows = self.database.read(
            statement("read_reservations"),
            {
                "reservation_ids": ids,
                "partner_ids": [partner for partner, _ in keys],
                "idempotency_keys": [key for _, key in keys],
            },
        )
        return [_reservation(row[:-1]) for row in rows], rows[0][-1] if rows else None

    def write(self, plan: Plan, batch_id: UUID) -> Written | None:
        """Write a plan as one transaction, and tell what it was written on.

        None if the event was not as the plan supposes it; nothing was written then.
        """
        entries, seen, event = plan.entries, plan.seen, plan.event
        created = [
            plan.created.get(entry.reservation_id) if entry.type in ("reserved", "held") else None
            for entry in entries
        ]
        changed = plan.changed.values()
        rows = self.database.write(
            statement("write_batch"),
            {
                "event_id": seen.event_id,
                "version": _version(plan),
                "batch_id": str(batch_id),
                "sells": bool(plan.created),
                "needed_seats": seen.available_seats - min(e.available_seats for e in entries),
                "available_change": event.available_seats - seen.available_seats,
                "total_change": event.total_seats - seen.total_seats,
                "count_change": event.reservation_count - seen.reservation_count,
                "edits": any(entry.type == "event_updated" for entry in entries),
                "name": event.name,
                "sales_open_at": event.sales_open_at,
                "sales_close_at": event.sales_close_at,
                "types": [entry.type for entry in entries],
                "reservation_ids": [
                    entry.reservation_id and str(entry.reservation_id) for entry in entries
                ],
                "partner_ids": [entry.partner_id for entry in entries],
                "seats": [entry.seats for entry in entries],
                "available_changes": [e.available_seats - seen.available_seats for e in entries],
                "hold_seconds": [new and new.hold_seconds for new in created],
                "idempotency_keys": [new and new.idempotency_key for new in created],
                "changed_ids": [str(id) for id in plan.changed],
                "changed_from": [plan.read_versions[id] for id in plan.changed],
                "changed_to": [r.version - seen.version for r in changed],
                "changed_statuses": [r.status for r in changed],
                "changed_seats": [r.seats for r in changed],
                "changed_expires_at": [r.expires_at for r in changed],
                "changed_confirms": [r.confirmed_at is NOW for r in changed],
            },
        )
        return Written(*rows[0]) if rows else None

    def settle(self, event: Event) -> None:
        """Settle a bounded number of expired holds, if the event is still as it was read."""
        self.database.write(
            statement("settle_expired_holds"),
            {
                "event_id": event.event_id,
                "version": event.version,
                "batch_id": str(uuid4()),
                "limit": limits.SETTLE_HOLDS,
            },
        )

    def find_batch(self, plan: Plan, batch_id: UUID) -> Written | None:
        """Tell whether a plan was written as a batch, durably; None if it was not."""
        rows = self.database.read(
            statement("lock_batch"),
            {"event_id": plan.seen.event_id, "batch_id": str(batch_id), **_known_by(plan)},
        )
        return Written(*rows[0]) if rows else None

    def make_durable(self, reservation_id: UUID) -> None:
        """Return when everything that could be seen when it was called is durable."""
        self.database.read(statement("lock_reservation"), {"reservation_id": str(reservation_id)})


def _version(plan: Plan) -> int | None:
    return None if plan.supposed else plan.seen.version


def _known_by(plan: Plan) -> dict:
    """Return the parameters by which lock_batch.sql finds a plan that was written."""
    known = {
        "version": _version(plan),
        "place": 1,
        "created_id": None,
        "changed_id": None,
        "changed_from": None,
    }
    for reservation_id, created in plan.created.items():
        place = created.created_version - plan.seen.version
        return known | {"place": place, "created_id": str(reservation_id)}
    first = plan.entries[0].reservation_id
    if first is not None:
        known |= {"changed_id": str(first), "changed_from": plan.read_versions[first]}
    return known


def _page(rows: list[tuple], item: Callable) -> Page | None:
    if not rows:
        return None
    return Page(rows[0][0], [item(*row[1:]) for row in rows if row[1] is not None])


def _reservation(row: tuple) -> Reservation:
    return Reservation(UUID(row[0]), *row[1:])
