"""What the service speaks of: events, reservations and their ledger, as the database holds them.

Fields are columns: a row becomes a record by the names that its statement gives them.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Literal, get_args
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
    "event_created",
    "event_updated",
]

# Who makes a change, where it is nobody with a key of his own. (A hold that ends is
# ended by `expiry`: see settle_expired_holds.sql.)
ADMIN = "admin"
COMMAND = "command"


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


@dataclass(slots=True, kw_only=True)
class Event(EventMembers):
    """An event as one statement saw it (read_event.sql)."""

    event_id: str
    available_seats: int
    reservation_count: int
    version: int
    created_at: datetime
    read_at: datetime
    # Whether a hold has ended and is not in the ledger yet.
    unsettled: bool

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

    @property
    def live(self) -> bool:
        return self.status in LIVE


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
    # The event's members as an edit left them.
    event: EventMembers | None = None
