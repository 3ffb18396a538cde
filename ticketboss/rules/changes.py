"""What requests do to an event, as decisions: no HTTP, no SQL, no clock but the database's.

A batch is decided change by change, in the order of arrival, each as if it came
alone, on a Plan that starts as the event was read and becomes what is written.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from ticketboss.rules import limits
from ticketboss.rules.errors import (
    AlreadyCancelled,
    CancelledBefore,
    CannotGrow,
    CapacityBelowReserved,
    Elsewhere,
    EmptySalesWindow,
    ExpiredBefore,
    HoldExpired,
    HoldLimit,
    IdempotencyKeyReused,
    NotEnoughSeats,
    NotHeld,
    PreconditionFailed,
    SalesClosed,
    SalesNotOpen,
)
from ticketboss.rules.model import Event, LedgerEntry, Reservation

# Stands for the time of the transaction that will write the batch.
NOW = object()


class Plan:
    """What a batch would write of one event: its numbers as the changes leave them, and their rows.

    A plan may also suppose its event rather than have seen it: on sale, with seats
    for all. Its numbers then only count differences, and the write proves the rest
    or writes nothing.
    """

    def __init__(
        self, event: Event, reservations: list[Reservation], now: datetime, supposed: bool = False
    ):
        self.seen = event
        self.supposed = supposed
        self.now = now
        self.available_seats = event.available_seats
        self.reservation_count = event.reservation_count
        self.version = event.version
        # The event after an edit, which is the only change of its plan.
        self.edited: Event | None = None
        self.reservations = {r.reservation_id: r for r in reservations}
        self.read_versions = {r.reservation_id: r.version for r in reservations}
        self.keys = {(r.partner_id, r.idempotency_key): r for r in reservations}
        self.new_keys: set[tuple[str, str]] = set()
        self.entries: list[LedgerEntry] = []
        self.created: dict[UUID, Reservation] = {}
        self.changed: dict[UUID, Reservation] = {}
        # Every version of a reservation that an outcome shows, to be dated.
        self.shown: list[Reservation] = []
        # What is acknowledged a second time.
        self.repeated: set[UUID] = set()

    @classmethod
    def supposing(
        cls, event_id: str, reservations: list[Reservation], now: datetime | None
    ) -> "Plan":
        """Plan on an event that was not read."""
        plenty = limits.TOTAL_SEATS_MAXIMUM
        event = Event(event_id, "", plenty, plenty, 0, 0, None, None, NOW, NOW, False)
        return cls(event, reservations, now, supposed=True)

    @property
    def event(self) -> Event:
        """The event as the changes leave it."""
        return self.edited or replace(
            self.seen,
            available_seats=self.available_seats,
            reservation_count=self.reservation_count,
            version=self.version,
        )

    def create(self, reservation: Reservation, type: str) -> Reservation:
        self.available_seats -= reservation.seats
        self.reservation_count += 1
        self._enter(reservation, type)
        reservation.created_version = reservation.version
        self.created[reservation.reservation_id] = reservation
        if reservation.idempotency_key is not None:
            key = reservation.partner_id, reservation.idempotency_key
            self.keys[key] = reservation
            self.new_keys.add(key)
        return reservation

    def change(self, reservation: Reservation, type: str, **fields) -> Reservation:
        after = replace(reservation, **fields)
        self.available_seats += reservation.seats - after.seats
        if not after.live:
            self.available_seats += after.seats
            self.reservation_count -= 1
        self._enter(after, type)
        self.reservations[after.reservation_id] = self.changed[after.reservation_id] = after
        self.keys[after.partner_id, after.idempotency_key] = after
        return after

    def edit(self, **fields) -> Event:
        self.version += 1
        self.edited = replace(self.seen, version=self.version, **fields)
        self.available_seats = self.edited.available_seats
        self.entries.append(
            LedgerEntry(
                self.version,
                "event_updated",
                None,
                None,
                self.edited.total_seats,
                self.available_seats,
            )
        )
        return self.edited

    def existing(self, reservation_id: UUID) -> Reservation:
        """Return a reservation of this event as it stands here; raise Elsewhere."""
        reservation = self.reservations.get(reservation_id)
        if reservation is None or reservation.event_id != self.seen.event_id:
            raise Elsewhere
        return reservation

    def place(self, at: datetime, seen_version: int) -> None:
        """Put the outcomes where they were written: their versions, and the time for NOW."""
        shift = seen_version - self.seen.version
        for reservation in self.shown:
            reservation.version += shift
            reservation.created_version += shift if reservation.created_at is NOW else 0
            if reservation.created_at is NOW:
                reservation.created_at = at
                if reservation.hold_seconds is not None:
                    reservation.expires_at = at + timedelta(seconds=reservation.hold_seconds)
            if reservation.confirmed_at is NOW:
                reservation.confirmed_at = at
            if reservation.cancelled_at is NOW:
                reservation.cancelled_at = at

    def _enter(self, reservation: Reservation, type: str) -> None:
        self.version += 1
        reservation.version = self.version
        self.shown.append(reservation)
        self.entries.append(
            LedgerEntry(
                reservation.version,
                type,
                reservation.reservation_id,
                reservation.partner_id,
                reservation.seats,
                self.available_seats,
            )
        )


@dataclass(slots=True, frozen=True)
class IfMatch:
    """The entity tags that a request insists on (RFC 9110, section 13.1.1); None: any."""

    tags: frozenset[str] | None = None

    def check(self, version: int) -> None:
        """Raise PreconditionFailed unless `version` is one of those."""
        if self.tags is not None and str(version) not in self.tags:
            raise PreconditionFailed(version=version)


ANY_VERSION = IfMatch()


@dataclass(slots=True)
class Outcome:
    """A reservation as a change left it, and whether that change was made before."""

    reservation: Reservation
    replayed: bool = False


class Change:
    """Something that a request would do to an event: `apply` decides it on a plan.

    Returns its outcome, or raises the TicketBossError that refuses it.
    """

    __slots__ = ()

    # The entity tags that it insists on.
    if_match = ANY_VERSION
    # Whether it can be decided on an event that was not read, if it insists on none.
    supposes = True
    # Whether it is written in a batch of its own.
    alone = False

    def apply(self, plan: Plan):
        raise NotImplementedError


@dataclass(slots=True)
class Reserve(Change):
    """Take seats: for good, or as a hold of `hold_seconds`."""

    # Made before the first try, so that a retry is the same reservation.
    reservation_id: UUID
    event_id: str
    partner_id: str
    seats: int
    hold_seconds: int | None = None
    idempotency_key: str | None = None
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Outcome:
        if self.idempotency_key is not None:
            earlier = plan.keys.get((self.partner_id, self.idempotency_key))
            if earlier is not None:
                return self._replay(earlier, plan)
        event = plan.seen
        self.if_match.check(plan.version)
        if event.sales_open_at is not None and plan.now < event.sales_open_at:
            raise SalesNotOpen(sales_open_at=event.sales_open_at)
        if event.sales_close_at is not None and plan.now >= event.sales_close_at:
            raise SalesClosed(sales_close_at=event.sales_close_at)
        if self.seats > plan.available_seats:
            raise NotEnoughSeats(requested_seats=self.seats, available_seats=plan.available_seats)
        held = self.hold_seconds is not None
        reservation = Reservation(
            self.reservation_id,
            self.event_id,
            self.partner_id,
            self.seats,
            "held" if held else "confirmed",
            0,
            0,
            NOW,
            None,
            None if held else NOW,
            None,
            self.seats,
            self.hold_seconds,
            self.idempotency_key,
        )
        return Outcome(plan.create(reservation, "held" if held else "reserved"))

    def _replay(self, earlier: Reservation, plan: Plan) -> Outcome:
        same = (earlier.event_id, earlier.requested_seats, earlier.hold_seconds)
        if same != (self.event_id, self.seats, self.hold_seconds):
            raise IdempotencyKeyReused
        if earlier.reservation_id not in plan.created:
            plan.repeated.add(earlier.reservation_id)
        return Outcome(earlier, replayed=True)


@dataclass(slots=True)
class Cancel(Change):
    """Give a reservation's seats back, or release a hold."""

    reservation_id: UUID
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Outcome:
        reservation = plan.existing(self.reservation_id)
        if reservation.status == "cancelled":
            raise CancelledBefore(cancelled_at=reservation.cancelled_at)
        if reservation.status == "expired":
            raise ExpiredBefore
        self.if_match.check(reservation.version)
        return Outcome(plan.change(reservation, "cancelled", status="cancelled", cancelled_at=NOW))


@dataclass(slots=True)
class Confirm(Change):
    """Turn a hold into a sale."""

    reservation_id: UUID
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id)
        if reservation.status == "confirmed":
            if reservation.reservation_id not in plan.changed:
                plan.repeated.add(reservation.reservation_id)
            return Outcome(reservation, replayed=True)
        self.if_match.check(reservation.version)
        return Outcome(
            plan.change(
                reservation, "confirmed", status="confirmed", confirmed_at=NOW, expires_at=None
            )
        )


@dataclass(slots=True)
class Extend(Change):
    """Let a hold end `hold_seconds` from now."""

    reservation_id: UUID
    hold_seconds: int
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id)
        if reservation.status == "confirmed":
            raise NotHeld
        self.if_match.check(reservation.version)
        expires_at = plan.now + timedelta(seconds=self.hold_seconds)
        latest = reservation.created_at + timedelta(seconds=limits.HOLD_TOTAL_SECONDS)
        if expires_at > latest:
            raise HoldLimit(latest_expires_at=latest)
        return Outcome(plan.change(reservation, "extended", expires_at=expires_at))


@dataclass(slots=True)
class Reduce(Change):
    """Give back all seats but `seats`."""

    reservation_id: UUID
    seats: int
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id)
        self.if_match.check(reservation.version)
        if self.seats >= reservation.seats:
            raise CannotGrow(seats=reservation.seats)
        return Outcome(plan.change(reservation, "reduced", seats=self.seats))


@dataclass(slots=True)
class Edit(Change):
    """Change an event's name, size or sales window.

    Alone, because a sales window that moves within a batch could not be checked.
    """

    supposes = False
    alone = True

    fields: dict = field(default_factory=dict)
    if_match: IfMatch = ANY_VERSION

    def apply(self, plan: Plan) -> Event:
        event = plan.seen
        self.if_match.check(event.version)
        total = self.fields.get("total_seats", event.total_seats)
        if total < event.reserved_seats:
            raise CapacityBelowReserved(minimum_seats=event.reserved_seats)
        opens = self.fields.get("sales_open_at", event.sales_open_at)
        closes = self.fields.get("sales_close_at", event.sales_close_at)
        if opens is not None and closes is not None and opens >= closes:
            raise EmptySalesWindow
        return plan.edit(**self.fields, available_seats=total - event.reserved_seats)


@dataclass(slots=True)
class Look(Change):
    """Change nothing: see the event with everything that has expired settled."""

    supposes = False

    def apply(self, plan: Plan) -> Event:
        return plan.event


def _live(plan: Plan, reservation_id: UUID) -> Reservation:
    """Return a reservation that still has its seats.

    Raises Elsewhere, AlreadyCancelled or HoldExpired.
    """
    reservation = plan.existing(reservation_id)
    if reservation.status == "cancelled":
        raise AlreadyCancelled(cancelled_at=reservation.cancelled_at)
    if reservation.status == "expired":
        raise HoldExpired
    return reservation
