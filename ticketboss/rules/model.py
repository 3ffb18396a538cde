"""What the service speaks of: events, reservations and their ledger, as the database holds them.

Fields are columns: a row becomes a record by the names that its statement gives them.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal, get_args
from uuid import UUID

# What a reservation is. The first two have their seats, the others gave them back.
Status = Literal["held", "confirmed", "cancelled", "expired"]
STATUSES: tuple[Status, ...] = get_args(Status)
LIVE: frozenset[Status] = frozenset(("held", "confirmed"))

# What a row of the ledger says has happened.
Kind = Literal[
    "reserved",
    "held",
    "confirmed",
    "reduced",
    "extended",
    "cancelled",
    "expired",
    "allotted",
    "event_created",
    "event_updated",
]
# Those that a feed has: it starts after the creation.
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "event_created")

# Who makes a change, where it is nobody with a key of his own.
ADMIN = "admin"
COMMAND = "command"
EXPIRY = "expiry"


class Now(Enum):
    """Stands for the time of the transaction that will write a change."""

    NOW = "now"


NOW: Final = Now.NOW


@dataclass(slots=True, kw_only=True)
class EventMembers:
    """What is decided of an event when it is created, and may be edited later."""

    name: str
    total_seats: int
    sales_open_at: datetime | None = None
    sales_close_at: datetime | None = None
    # How many seats of the pool one partner may have, and of those on hold.
    max_seats_per_partner: int | None = None
    max_held_seats_per_partner: int | None = None


@dataclass(slots=True, kw_only=True)
class Event(EventMembers):
    """An event as one statement saw it (read_event.sql)."""

    event_id: str
    available_seats: int
    reservation_count: int
    # Allotted to partners, and not drawn; and of those to the one who asks.
    allotted_seats: int = 0
    your_allotted_seats: int | None = None
    version: int
    created_at: datetime
    read_at: datetime
    # Whether a hold has ended and is not in the ledger yet.
    unsettled: bool
    # Whether nothing more could be done for it to be durable as it was seen (read_events.sql).
    durable: bool = False
    # Whether its reservations and its ledger are in a file, or on their way there.
    archived: bool = False

    @property
    def shown_allotted_seats(self) -> int | None:
        """The allotted seats; None, which no answer shows, if there are none."""
        return self.allotted_seats or None

    @property
    def capped(self) -> bool:
        """Whether it matters how many seats a partner has."""
        return (self.max_seats_per_partner, self.max_held_seats_per_partner) != (None, None)

    @property
    def reserved_seats(self) -> int:
        return self.total_seats - self.available_seats


@dataclass(slots=True, kw_only=True)
class Reservation:
    """A reservation (read_reservation.sql)."""

    reservation_id: UUID
    event_id: str
    partner_id: str
    seats: int
    status: Status
    # The event's versions that changed it last and that made it; on a plan, where a
    # change would put them.
    version: int = 0
    created_version: int = 0
    created_at: datetime | Now = NOW
    expires_at: datetime | None = None
    confirmed_at: datetime | Now | None = None
    cancelled_at: datetime | Now | None = None
    requested_seats: int
    hold_seconds: int | None = None
    idempotency_key: str | None = None
    # Whether its hold has ended and is not in the ledger yet.
    overdue: bool = False
    # Whether it is no reservation but seats set aside for its partner: those that are
    # left of the requested.
    allotment: bool = False
    # The allotment that it was taken from.
    drawn_from: UUID | None = None

    @property
    def allotted(self) -> bool | None:
        """Whether it was taken from an allotment; None, which no answer shows, if not."""
        return self.drawn_from is not None or None

    @property
    def drawn_seats(self) -> int:
        """What is drawn of an allotment, and still taken."""
        return self.requested_seats - self.seats

    @property
    def live(self) -> bool:
        return self.status in LIVE


@dataclass(slots=True, kw_only=True)
class PartnerSeats:
    """What a partner has of the pool of an event, at one of its versions."""

    event_id: str
    version: int
    partner_id: str
    seats: int
    held_seats: int


@dataclass(slots=True, kw_only=True)
class LedgerEntry:
    """One change of an event (list_changes.sql)."""

    version: int
    type: Kind
    reservation_id: UUID | None = None
    partner_id: str | None = None
    seats: int
    available_seats: int
    at: datetime | Now = NOW
    # Who made it.
    actor: str | None = None
    # The end that it gave to a hold, where that is not counted from `at`.
    expires_at: datetime | None = None
    # What else is entered.
    details: dict[str, Any] | None = None
    # The event's members as an edit left them.
    event: EventMembers | None = None
