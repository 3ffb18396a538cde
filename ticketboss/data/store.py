"""Run the statements of `sql/` and turn their rows into what they mean."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID, uuid4

from ticketboss import metrics
from ticketboss.data.database import Conflict, Database, Rejected, Row
from ticketboss.data.statements import statement
from ticketboss.rules import limits
from ticketboss.rules.errors import TicketBossError
from ticketboss.rules.model import (
    NOW,
    Event,
    EventMembers,
    LedgerEntry,
    PartnerSeats,
    Reservation,
    Status,
)
from ticketboss.rules.plan import Key, Plan

Item = TypeVar("Item")

# An index gives a page in its order and stops there. Where the planner expects a few rows
# it would rather collect all of them and sort them; there may be as many as were sold since
# the last statistics.
IN_ORDER = "SET LOCAL enable_bitmapscan = off;\n"


@dataclass(slots=True, frozen=True)
class Page(Generic[Item]):
    """Part of a list of one event's things."""

    event_version: int
    # Whether one of the event's holds has ended and is not in the ledger yet.
    unsettled: bool
    items: list[Item]


class Written(NamedTuple):
    """When a plan was written, and the version that it was written on."""

    at: datetime
    seen_version: int


class Locked(NamedTuple):
    """A plan was not written: another transaction has rows that it would change.

    Those of the reservations that are stuck, or the event's row at this version.
    """

    seen_version: int
    stuck: frozenset[UUID] = frozenset()


class KeyUsed(Conflict):
    """An idempotency key that was taken for new has been used; nothing was written."""


class Store:
    """The data access of one database. Errors are those of Database.read and write."""

    def __init__(self, database: Database):
        self.database = database

    def takes_writes(self) -> bool:
        """Tell whether the database, with its schema, took a write in the last second, or would."""
        database = self.database
        if database.freshly_silent:
            return False
        try:
            if database.silent:
                database.read_durably(statement("lock_event"))  # which shows it, if that is over
            elif time.monotonic() - database.last_write > limits.HEALTH_FRESHNESS:
                (schema,) = database.read(statement("read_schema_version"))
                if schema.read_only:
                    database.read_durably(statement("lock_event"))  # which lets the server say why
        except (TicketBossError, Conflict, Rejected):
            return False
        return True

    # --- Events ---------------------------------------------------------------

    def create_event(
        self,
        event_id: str,
        name: str,
        total_seats: int,
        *,
        actor: str | None = None,
        **more: Any,
    ) -> bool:
        """Create an event; tell whether it was created now (False: it exists).

        `more` are further members of model.EventMembers.
        """
        event = EventMembers(name=name, total_seats=total_seats, **more)
        created = self.database.read(
            statement("create_event"),
            {
                "event_id": event_id,
                **_values(event),
                "batch_id": uuid4(),
                "actor": actor,
                "details": json.dumps({"event": _told(event)}),
            },
        )
        metrics.CHANGES.add("event_created", by=len(created))
        return bool(created)

    def read_event(self, event_id: str) -> Event | None:
        rows = self.database.read(statement("read_event"), {"event_id": event_id})
        return _event(rows[0]) if rows else None

    def read_events(self, event_ids: list[str]) -> dict[str, Event]:
        """Return those of the events that exist, by their ids."""
        rows = self.database.read(statement("read_events"), {"event_ids": event_ids})
        return {row.event_id: _event(row) for row in rows}

    def read_event_unsettled(self, event_id: str) -> Event | None:
        rows = self.database.read(statement("read_event_unsettled"), {"event_id": event_id})
        return _event(rows[0]) if rows else None

    def list_events(self, after: str, limit: int) -> list[Event]:
        rows = self.database.read(statement("list_events"), {"after": after, "limit": limit})
        return [_event(row) for row in rows]

    def list_selling_events(self) -> list[Row]:
        """Return the numbers of a bounded number of events on sale."""
        return self.database.read(statement("list_selling_events"))

    # --- Reservations and changes ---------------------------------------------

    # `scope` is the partner whose things are there to be seen; None: everybody's.

    def read_reservation(
        self, reservation_id: UUID, scope: str | None, durably: bool = False
    ) -> Reservation | None:
        parameters = {"reservation_id": reservation_id, "scope": scope}
        rows = self._read("read_reservation", parameters, durably)
        return Reservation(**rows[0]._asdict()) if rows else None

    def list_reservations(
        self,
        event_id: str,
        partner_id: str | None,
        status: Status | None,
        after: int,
        limit: int,
        computed: bool = False,
    ) -> Page[Reservation] | None:
        """Return reservations made by a version greater than `after`; None: no such event.

        With `computed`, `status` finds a hold that has expired among the expired ones,
        settled or not.
        """
        rows = self.database.read(
            IN_ORDER + statement("list_reservations"),
            {
                "event_id": event_id,
                "partner_id": partner_id,
                "status": status,
                "after": after,
                "limit": limit,
                "computed": computed,
            },
        )
        return _page(rows, "reservation_id", Reservation)

    def list_allotments(
        self, event_id: str, partner_id: str | None, after: str, limit: int
    ) -> Page[Reservation] | None:
        """Return allotments that live, of partners after `after`; None: no such event."""
        rows = self.database.read(
            statement("list_allotments"),
            {"event_id": event_id, "partner_id": partner_id, "after": after, "limit": limit},
        )
        return _page(rows, "reservation_id", Reservation)

    def list_changes(
        self, event_id: str, scope: str | None, after: int, limit: int, durably: bool = False
    ) -> Page[LedgerEntry] | None:
        """Return ledger entries, without the names and ids of others; None: no such event."""
        parameters = {"event_id": event_id, "scope": scope, "after": after, "limit": limit}
        rows = self._read("list_changes", parameters, durably)
        return _page(rows, "version", _entry)

    # --- For the write path ---------------------------------------------------

    def read_reservations(
        self,
        ids: Iterable[tuple[UUID, str | None]],
        keys: Iterable[Key] = (),
        durably: bool = False,
    ) -> tuple[list[Reservation], datetime | None]:
        """Return reservations by ids, each within a scope, and by the keys they were made with.

        And the time of reading, which is None where there is none of them.
        """
        rows: list[Row] = []
        if asked := list(ids):
            reservation_ids, scopes = map(list, zip(*asked, strict=True))
            parameters = {"reservation_ids": reservation_ids, "scopes": scopes}
            rows += self._read("read_reservations", parameters, durably)
        if brought := list(keys):
            partner_ids, idempotency_keys = map(list, zip(*brought, strict=True))
            rows += self.database.read(
                statement("read_keyed_reservations"),
                {"partner_ids": partner_ids, "idempotency_keys": idempotency_keys},
            )
        return _timed(rows)

    def write(
        self, plans: list[Plan], batch_id: UUID, atomic: bool = False
    ) -> dict[str, Written | Locked]:
        """Write plans as one transaction, and tell what became of each, by event id.

        A plan whose event was not as it supposes is left out of the answer. Each
        was written as a whole or not at all; with `atomic`, all of them or none.
        Raises KeyUsed, too.
        """
        parts = json.dumps([_part(plan) for plan in plans])
        try:
            rows = self.database.write(
                statement("write_batch"),
                {"batch_id": batch_id, "parts": parts, "atomic": atomic},
                wrote=lambda rows: any(row.written for row in rows),
            )
        except Conflict as conflict:
            if conflict.constraint == "reservations_one_per_idempotency_key":
                raise KeyUsed from conflict
            raise
        return {
            row.event_id: Written(row.at, row.seen_version)
            if row.written
            else Locked(row.seen_version, frozenset(map(UUID, row.stuck_ids or ())))
            for row in rows
        }

    def edit(self, plan: Plan, batch_id: UUID) -> Written | Locked:
        """Write a plan that edits its event."""
        event = plan.event
        rows = self.database.write(
            statement("edit_event"),
            {
                "event_id": event.event_id,
                "version": plan.seen.version,
                "archived_version": plan.seen.version if plan.seen.archived else None,
                "archives": event.archived,
                "batch_id": batch_id,
                **_values(event),
                "available_seats": event.available_seats,
                "actor": plan.entries[0].actor,
                "details": json.dumps(_edit(plan.seen, event)),
            },
        )
        # Whether it is locked or has changed, the next reading tells.
        return Written(rows[0].at, rows[0].seen_version) if rows else Locked(plan.seen.version)

    def read_due(self, event_id: str) -> tuple[list[Reservation], datetime | None]:
        """Return a bounded number of holds that have ended and are not settled, and the time."""
        return _timed(
            self.database.read(
                statement("read_due_reservations"),
                {"event_id": event_id, "limit": limits.SETTLE_HOLDS},
            )
        )

    def read_allotments(
        self, pairs: list[tuple[str, str]]
    ) -> tuple[list[Reservation], datetime | None]:
        """Return the allotments that live of pairs of an event and a partner, and the time."""
        event_ids, partner_ids = map(list, zip(*pairs, strict=True))
        return _timed(
            self.database.read(
                statement("read_allotments"), {"event_ids": event_ids, "partner_ids": partner_ids}
            )
        )

    def read_partner_seats(self, pairs: list[tuple[str, str]]) -> list[PartnerSeats]:
        """Return what pairs of an event and a partner have of the pool."""
        event_ids, partner_ids = map(list, zip(*pairs, strict=True))
        rows = self.database.read(
            statement("read_partner_seats"), {"event_ids": event_ids, "partner_ids": partner_ids}
        )
        return [PartnerSeats(**row._asdict()) for row in rows]

    def find_batch(self, plan: Plan, batch_id: UUID) -> Written | None:
        """Tell whether a plan was written as a batch, durably; None if it was not."""
        parameters = {"event_id": plan.seen.event_id, "batch_id": batch_id, **_known_by(plan)}
        rows = self._read("find_batch", parameters, durably=True)
        return Written(rows[0].at, rows[0].seen_version) if rows else None

    # --- Durability -----------------------------------------------------------

    # What is seen may be on no standby yet; or the server is a primary that has been
    # replaced, and does not know it. Neither can commit, and the next message may be
    # another server's: so what proves a reading is in one message with it.

    def _read(self, name: str, parameters: dict[str, Any], durably: bool) -> list[Row]:
        """Run a statement that reads; `durably`: what it has read is durable, and still so."""
        if not durably:
            return self.database.read(statement(name), parameters)
        message = f"{statement('wait_for_standby')}\n{statement(name)}"
        return self.database.read_durably(message, parameters, wrote=lambda rows: False)

    def moved(self, seen: dict[str | UUID, int | None]) -> set[str | UUID]:
        """Return which events and reservations are durably at another version than was seen.

        By their ids; None stands for one that was not there.
        """
        rows = self.database.read_durably(
            f"{statement('wait_for_standby')}\n{statement('confirm_versions')}",
            {
                "event_ids": [id for id in seen if isinstance(id, str)],
                "reservation_ids": [id for id in seen if isinstance(id, UUID)],
            },
        )
        found = {row.reservation_id or row.event_id: row.version for row in rows}
        return {id for id, version in found.items() if version != seen[id]}


def _part(plan: Plan) -> dict[str, Any]:
    """Return what write_batch.sql must know of a plan."""
    seen = plan.seen
    changes = []
    for entry in plan.entries:
        change: dict[str, Any] = {
            "type": entry.type,
            "reservation_id": str(entry.reservation_id),
            "partner_id": entry.partner_id,
            "seats": entry.seats,
            "available_change": entry.available_seats - seen.available_seats,
        }
        if entry.actor:
            change["actor"] = entry.actor
        if entry.expires_at:
            change["expires_at"] = entry.expires_at.isoformat()
        if entry.details:
            change["details"] = entry.details
        new = plan.created.get(entry.reservation_id) if entry.reservation_id else None
        if new and new.created_version == entry.version:
            change["creates"] = True
            change["hold_seconds"] = new.hold_seconds
            change["idempotency_key"] = new.idempotency_key
            if new.drawn_from:
                change["drawn_from"] = str(new.drawn_from)
        changes.append(change)
    changed = [
        {
            "reservation_id": str(reservation_id),
            "seen_version": plan.read_versions[reservation_id],
            "version": after.version - seen.version,
            "status": after.status,
            "seats": after.seats,
            "requested_seats": after.requested_seats,
            "expires_at": after.expires_at and after.expires_at.isoformat(),
            "confirms": after.confirmed_at is NOW,
        }
        for reservation_id, after in plan.changed.items()
    ]
    return {
        "event_id": seen.event_id,
        "version": _version(plan),
        "sells": plan.sells,
        "settles": plan.settles,
        "needed_seats": -min(change["available_change"] for change in changes),
        "available_change": plan.available_seats - seen.available_seats,
        "count_change": plan.reservation_count - seen.reservation_count,
        "allotted_change": plan.allotted_seats - seen.allotted_seats,
        "changes": changes,
        "changed": changed,
    }


def _version(plan: Plan) -> int | None:
    return None if plan.supposed else plan.seen.version


def _known_by(plan: Plan) -> dict[str, Any]:
    """Return the parameters by which find_batch.sql finds a plan that was written."""
    known: dict[str, Any] = {
        "version": _version(plan),
        "place": 1,
        "created_id": None,
        "changed_id": None,
        "changed_from": None,
    }
    for reservation_id, created in plan.created.items():
        place = created.created_version - plan.seen.version
        return known | {"place": place, "created_id": reservation_id}
    for reservation_id, changed in plan.changed.items():
        return known | {
            "place": changed.version - plan.seen.version,
            "changed_id": reservation_id,
            "changed_from": plan.read_versions[reservation_id],
        }
    return known


def _edit(before: Event, after: Event) -> dict[str, Any]:
    """Return the details of an edit: the event's members after it, and those that it replaced."""
    new, old = _told(after), _told(before)
    details = {"event": new, "before": {n: old[n] for n in new if old[n] != new[n]}}
    return details | ({"archived": after.archived} if after.archived != before.archived else {})


def _values(event: EventMembers) -> dict[str, Any]:
    """Return an event's members by the names of their columns."""
    return {field.name: getattr(event, field.name) for field in fields(EventMembers)}


def _told(event: EventMembers) -> dict[str, Any]:
    """Return an event's members as the details of a ledger row tell them."""
    return {
        name: value.astimezone(timezone.utc).isoformat() if isinstance(value, datetime) else value
        for name, value in _values(event).items()
    }


def members(told: dict[str, Any]) -> EventMembers:
    """Return an event's members from the details of a ledger row."""
    values: dict[str, Any] = {
        name: datetime.fromisoformat(value) if value and name.endswith("_at") else value
        for name, value in told.items()
    }
    return EventMembers(**values)


def _entry(details: dict[str, Any] | None, **columns: Any) -> LedgerEntry:
    told = members(details["event"]) if details and "event" in details else None
    return LedgerEntry(event=told, **columns)


def _timed(rows: list[Row]) -> tuple[list[Reservation], datetime | None]:
    """Return the reservations of rows, and when they were read; None: there are none."""
    read_at = None
    found = []
    for row in rows:
        columns = row._asdict()
        read_at = columns.pop("read_at")
        found.append(Reservation(**columns))
    return found, read_at


def _event(row: Row) -> Event:
    return Event(**row._asdict())


def _page(rows: list[Row], key: str, item: Callable[..., Item]) -> Page[Item] | None:
    """Return the items of rows that each say the event's version and whether it is unsettled.

    No row: there is no such event. One whose `key` is null: it has none of them.
    """
    if not rows:
        return None
    found = [row._asdict() for row in rows]
    event = [(columns.pop("event_version"), columns.pop("unsettled")) for columns in found][0]
    return Page(*event, [item(**columns) for columns in found if columns[key] is not None])
