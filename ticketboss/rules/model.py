"""What the service speaks of: events and reservations, as the database holds them."""

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ticketboss.rules import limits

# Not . or .., which clients take out of an address (RFC 3986, section 5.2.4).
EVENT_ID = re.compile(rf"(?!\.{{1,2}}\Z)[a-z0-9._-]{{1,{limits.EVENT_ID_LENGTH}}}\Z")


@dataclass(slots=True)
class Event:
    """An event as one statement saw it; the fields are columns of read_event.sql."""

    event_id: str
    name: str
    total_seats: int
    available_seats: int
    reservation_count: int
    version: int
    sales_open_at: datetime | None
    sales_close_at: datetime | None
    created_at: datetime
    read_at: datetime
    unsettled: bool

    @property
    def reserved_seats(self) -> int:
        return self.total_seats - self.available_seats


@dataclass(slots=True)
class Reservation:
    """A reservation; the fields are columns of read_reservation.sql."""

    reservation_id: UUID
    event_id: str
    partner_id: str
    seats: int
    status: str
    version: int
    created_version: int
    created_at: datetime | None
    expires_at: datetime | None
    confirmed_at: datetime | None
    cancelled_at: datetime | None
    requested_seats: int
    hold_seconds: int | None
    idempotency_key: str | None
    overdue: bool = False

    @property
    def live(self) -> bool:
        return self.status in ("held", "confirmed")


@dataclass(slots=True)
class LedgerEntry:
    """One change of an event; the fields are columns of list_changes.sql."""

    version: int
    type: str
    reservation_id: UUID | None
    partner_id: str | None
    seats: int
    available_seats: int
    at: datetime | None = None
