"""What requests do to an event, as decisions: no HTTP, no SQL, no clock but the database's.

A batch is decided change by change, in the order of arrival, each as if it came
alone, on a Plan that starts as the event was read and becomes what is written.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from ticketboss.rules import limits
from ticketboss.rules.errors import (
    AlreadyCancelled,
    CancelledBefore,
    CannotGrow,
    CapacityBelowReserved,
    EmptySalesWindow,
    ExpiredBefore,
    HoldExpired,
    HoldLimit,
    IdempotencyKeyReused,
    NotEnoughSeats,
    NotHeld,
    NotOver,
    PartnerLimit,
    PreconditionFailed,
    ReleasedBefore,
    SalesClosed,
    SalesNotOpen,
    TicketBossError,
    WeakCondition,
)
from ticketboss.rules.model import EXPIRY, NOW, Event, Kind, Reservation
from ticketboss.rules.plan import Key, Plan


@dataclass(slots=True, frozen=True)
class IfMatch:
    """The entity tags that a request insists on (RFC 9110, section 13.1.1); None: any.

    A weak tag among them matches nothing, so it is only remembered that there was one.
    """

    tags: frozenset[str] | None = None
    weak: bool = False

    def check(self, version: int) -> None:
        """Raise PreconditionFailed unless `version` is one of those."""
        self.check_tag(str(version), version=version)

    def check_tag(self, tag: str, **members: Any) -> None:
        """Raise PreconditionFailed, with members of its answer, unless `tag` is one of those."""
        if self.tags is not None and tag not in self.tags:
            raise (WeakCondition if self.weak else PreconditionFailed)(**members)


ANY_VERSION = IfMatch()


@dataclass(slots=True)
class Outcome:
    """A reservation as a change left it, and whether that change was made before."""

    reservation: Reservation
    replayed: bool = False


class Change:
    """Something that a request would do to an event: `apply` decides it on a plan.

    What else it needs, it says. Where it says nothing it is decided on an event that
    was read, which is slower and never wrong.
    """

    __slots__ = ()

    # The entity tags that it insists on.
    if_match: IfMatch = ANY_VERSION
    # Who makes it, for the ledger; None: nobody had to say.
    actor: str | None = None
    # Whether it is written in a batch of its own.
    alone: bool = False
    # The partner whose reservation it may change; None: anybody's.
    scope: str | None = None

    @property
    def may_suppose(self) -> bool:
        """Whether it can be decided on an event supposed to be on sale, with seats for all."""
        return False

    @property
    def reads(self) -> UUID | None:
        """The reservation that it changes."""
        return None

    @property
    def key(self) -> Key | None:
        """The idempotency key that it brings."""
        return None

    @property
    def counts_for(self) -> str | None:
        """The partner whose allotment it may take from, and whose seats a cap counts."""
        return None

    def apply(self, plan: Plan) -> Any:
        """Decide it: return its outcome, or raise the TicketBossError that refuses it."""
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
    actor: str | None = field(default=None, kw_only=True)

    @property
    def may_suppose(self) -> bool:
        return self.if_match is ANY_VERSION

    @property
    def key(self) -> Key | None:
        return None if self.idempotency_key is None else (self.partner_id, self.idempotency_key)

    @property
    def counts_for(self) -> str:
        return self.partner_id

    def apply(self, plan: Plan) -> Outcome:
        if self.key is not None and (earlier := plan.keys.get(self.key)) is not None:
            return self._replay(earlier, plan)
        event = plan.seen
        self.if_match.check(plan.judged_version)
        if event.sales_open_at is not None and plan.now < event.sales_open_at:
            raise SalesNotOpen(sales_open_at=event.sales_open_at, version=plan.judged_version)
        _before_the_close(plan)
        held = self.hold_seconds is not None
        reservation = Reservation(
            reservation_id=self.reservation_id,
            event_id=self.event_id,
            partner_id=self.partner_id,
            seats=self.seats,
            status="held" if held else "confirmed",
            confirmed_at=None if held else NOW,
            requested_seats=self.seats,
            hold_seconds=self.hold_seconds,
            idempotency_key=self.idempotency_key,
        )
        kind: Kind = "held" if held else "reserved"
        allotment = plan.allotment(self.partner_id)
        if allotment is not None and allotment.seats >= self.seats:
            return Outcome(plan.draw(allotment, reservation, kind, actor=self.actor))
        _within_the_caps(plan, reservation)
        _in_the_pool(plan, self.seats)
        return Outcome(plan.create(reservation, kind, actor=self.actor))

    def _replay(self, earlier: Reservation, plan: Plan) -> Outcome:
        same = (earlier.event_id, earlier.requested_seats, earlier.hold_seconds)
        if same != (self.event_id, self.seats, self.hold_seconds):
            raise IdempotencyKeyReused
        return Outcome(plan.repeat(earlier), replayed=True)


@dataclass(slots=True)
class ReservationChange(Change):
    """A change of one reservation."""

    reservation_id: UUID
    scope: str | None = field(default=None, kw_only=True)

    @property
    def may_suppose(self) -> bool:
        return self.if_match is ANY_VERSION

    @property
    def reads(self) -> UUID:
        return self.reservation_id


@dataclass(slots=True)
class Cancel(ReservationChange):
    """Give a reservation's seats back, or release a hold."""

    if_match: IfMatch = ANY_VERSION
    actor: str | None = field(default=None, kw_only=True)

    def apply(self, plan: Plan) -> Outcome:
        reservation = plan.existing(self.reservation_id, self.scope)
        if reservation.status == "cancelled":
            raise CancelledBefore(cancelled_at=reservation.cancelled_at)
        if reservation.status == "expired":
            raise ExpiredBefore
        self.if_match.check(plan.judged_version_of(reservation))
        return Outcome(
            plan.change(
                reservation, "cancelled", actor=self.actor, status="cancelled", cancelled_at=NOW
            )
        )


@dataclass(slots=True)
class Confirm(ReservationChange):
    """Turn a hold into a sale."""

    if_match: IfMatch = ANY_VERSION
    actor: str | None = field(default=None, kw_only=True)

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id, self.scope)
        if reservation.status == "confirmed":
            return Outcome(plan.repeat(reservation), replayed=True)
        self.if_match.check(plan.judged_version_of(reservation))
        return Outcome(
            plan.change(
                reservation,
                "confirmed",
                actor=self.actor,
                status="confirmed",
                confirmed_at=NOW,
                expires_at=None,
            )
        )


@dataclass(slots=True)
class Extend(ReservationChange):
    """Let a hold end `hold_seconds` from now.

    Like a sale it ends with the sales window, whose beginning is none of its business:
    so it reads the event rather than let the write prove that sales are open.
    """

    hold_seconds: int
    if_match: IfMatch = ANY_VERSION
    actor: str | None = field(default=None, kw_only=True)

    @property
    def may_suppose(self) -> bool:
        return False

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id, self.scope)
        if reservation.status == "confirmed":
            raise NotHeld
        self.if_match.check(plan.judged_version_of(reservation))
        _before_the_close(plan)
        expires_at = plan.now + timedelta(seconds=self.hold_seconds)
        made = plan.now if reservation.created_at is NOW else reservation.created_at
        latest = made + timedelta(seconds=limits.HOLD_TOTAL_SECONDS)
        if expires_at > latest:
            raise HoldLimit(latest_expires_at=latest)
        return Outcome(
            plan.change(reservation, "extended", actor=self.actor, expires_at=expires_at)
        )


@dataclass(slots=True)
class Reduce(ReservationChange):
    """Give back all seats but `seats`."""

    seats: int
    if_match: IfMatch = ANY_VERSION
    actor: str | None = field(default=None, kw_only=True)

    def apply(self, plan: Plan) -> Outcome:
        reservation = _live(plan, self.reservation_id, self.scope)
        if self.seats == reservation.seats:
            return Outcome(plan.repeat(reservation), replayed=True)
        self.if_match.check(plan.judged_version_of(reservation))
        if self.seats > reservation.seats:
            raise CannotGrow(seats=reservation.seats)
        return Outcome(plan.change(reservation, "reduced", actor=self.actor, seats=self.seats))


@dataclass(slots=True)
class Expire(ReservationChange):
    """Let a hold end, or an allotment, whose time is over."""

    actor: str | None = field(default=EXPIRY, kw_only=True)

    def apply(self, plan: Plan) -> Reservation:
        ended = plan.reservations[self.reservation_id]
        if ended.allotment:
            return plan.change(ended, "allotted", actor=self.actor, status="expired", seats=0)
        return plan.change(ended, "expired", actor=self.actor, status="expired")


@dataclass(slots=True)
class Allot(Change):
    """Let a partner have been granted `seats` in all, live draws included."""

    alone = True

    # Made before the first try, as a reservation's is.
    reservation_id: UUID
    event_id: str
    partner_id: str
    seats: int
    release_at: datetime | None = None
    actor: str | None = field(default=None, kw_only=True)

    @property
    def counts_for(self) -> str:
        return self.partner_id

    def apply(self, plan: Plan) -> Outcome:
        if self.release_at is not None and self.release_at <= plan.now:
            raise ReleasedBefore
        allotment = plan.allotment(self.partner_id)
        if allotment is None:
            _in_the_pool(plan, self.seats)
            made = Reservation(
                reservation_id=self.reservation_id,
                event_id=self.event_id,
                partner_id=self.partner_id,
                seats=self.seats,
                status="held",
                expires_at=self.release_at,
                requested_seats=self.seats,
                allotment=True,
            )
            return Outcome(plan.create(made, "allotted", actor=self.actor))
        drawn = allotment.requested_seats - allotment.seats
        granted = max(self.seats, drawn)  # what is drawn is not taken back
        if (granted, self.release_at) == (allotment.requested_seats, allotment.expires_at):
            return Outcome(plan.repeat(allotment), replayed=True)
        _in_the_pool(plan, granted - allotment.requested_seats)
        fields = {"seats": granted - drawn, "requested_seats": granted}
        after = plan.change(
            allotment, "allotted", actor=self.actor, expires_at=self.release_at, **fields
        )
        return Outcome(after, replayed=True)


@dataclass(slots=True)
class Release(Change):
    """Give what is left of a partner's allotment back to the pool."""

    alone = True

    partner_id: str
    actor: str | None = field(default=None, kw_only=True)

    @property
    def counts_for(self) -> str:
        return self.partner_id

    def apply(self, plan: Plan) -> None:
        allotment = plan.allotment(self.partner_id)
        if allotment is not None:
            released = {"status": "cancelled", "cancelled_at": NOW, "seats": 0}
            plan.change(allotment, "allotted", actor=self.actor, **released)


@dataclass(slots=True)
class Edit(Change):
    """Change an event's name, size or sales window.

    Alone, because a sales window that moves within a batch could not be checked.
    """

    alone = True

    fields: dict[str, Any] = field(default_factory=dict)
    if_match: IfMatch = ANY_VERSION
    actor: str | None = field(default=None, kw_only=True)

    def apply(self, plan: Plan) -> Event:
        event = plan.seen
        self.if_match.check(event.version)
        total = self.fields.get("total_seats", event.total_seats)
        if total < event.reserved_seats:
            raise CapacityBelowReserved(minimum_seats=event.reserved_seats, version=event.version)
        opens = self.fields.get("sales_open_at", event.sales_open_at)
        closes = self.fields.get("sales_close_at", event.sales_close_at)
        if opens is not None and closes is not None and opens >= closes:
            raise EmptySalesWindow
        available = total - event.reserved_seats
        return plan.edit(actor=self.actor, **self.fields, available_seats=available)


@dataclass(slots=True)
class Archive(Change):
    """Let an event be no more, but in the file that is made of it then.

    `if_match` is the version at which no hold of it, and no allotment, was found to live.
    """

    alone = True

    if_match: IfMatch
    actor: str | None = field(default=None, kw_only=True)

    def apply(self, plan: Plan) -> Event:
        event = plan.seen
        self.if_match.check(event.version)
        if event.sales_close_at is None or plan.now < event.sales_close_at:
            raise NotOver
        return plan.edit(actor=self.actor, available_seats=event.available_seats, archived=True)


@dataclass(slots=True)
class Refused(Change):
    """What is refused whatever the event: it stands in an atomic batch for the reason."""

    fact: TicketBossError

    def apply(self, plan: Plan) -> NoReturn:
        raise self.fact


@dataclass(slots=True)
class Look(Change):
    """Change nothing: see the event with everything that has expired settled."""

    def apply(self, plan: Plan) -> Event:
        return plan.event


def _within_the_caps(plan: Plan, wanted: Reservation) -> None:
    """Raise PartnerLimit where a reservation would give its partner more than a cap allows."""
    event, partner = plan.seen, plan.partners.get(wanted.partner_id)
    if partner is None:
        return
    caps = [("max_seats_per_partner", event.max_seats_per_partner, partner.seats)]
    if wanted.status == "held":
        held = event.max_held_seats_per_partner
        caps.append(("max_held_seats_per_partner", held, partner.held_seats))
    for cap, limit, seats in caps:
        if limit is not None and seats + wanted.seats > limit:
            raise PartnerLimit(
                cap=cap,
                limit=limit,
                partner_seats=seats,
                remaining=max(limit - seats, 0),
                version=plan.judged_version,
            )


def _in_the_pool(plan: Plan, seats: int) -> None:
    """Raise NotEnoughSeats where the pool has fewer."""
    if seats > plan.available_seats:
        raise NotEnoughSeats(
            requested_seats=seats,
            available_seats=plan.available_seats,
            version=plan.judged_version,
        )


def _before_the_close(plan: Plan) -> None:
    """Raise SalesClosed from the close of sales on."""
    closes = plan.seen.sales_close_at
    if closes is not None and plan.now >= closes:
        raise SalesClosed(sales_close_at=closes, version=plan.judged_version)


def _live(plan: Plan, reservation_id: UUID, scope: str | None) -> Reservation:
    """Return a reservation of a partner that still has its seats.

    Raises Elsewhere, AlreadyCancelled or HoldExpired.
    """
    reservation = plan.existing(reservation_id, scope)
    if reservation.status == "cancelled":
        raise AlreadyCancelled(cancelled_at=reservation.cancelled_at)
    if reservation.status == "expired":
        raise HoldExpired
    return reservation
