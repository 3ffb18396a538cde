"""What a batch would write of one event: its numbers as the changes leave them, and their rows."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ticketboss.rules import limits
from ticketboss.rules.errors import Elsewhere
from ticketboss.rules.model import NOW, Event, Kind, LedgerEntry, PartnerSeats, Reservation

# Where no event is read there is no time either; what needs one says that it reads the event.
UNKNOWN = datetime.max

Key = tuple[str, str]  # a partner's id, and an idempotency key of this partner


class Plan:
    """Starts as the event was read and becomes what is written, change by change.

    A plan may also suppose its event rather than have seen it: on sale, with seats
    for all. Its numbers then only count differences, and the write proves the rest
    or writes nothing.
    """

    def __init__(
        self,
        event: Event,
        reservations: Iterable[Reservation],
        now: datetime,
        supposed: bool = False,
        partners: Iterable[PartnerSeats] = (),
    ):
        self.seen = event
        self.supposed = supposed
        # Whether all of it is made or none, with the plans of other events.
        self.atomic = False
        self.now = now
        self.available_seats = event.available_seats
        self.reservation_count = event.reservation_count
        self.allotted_seats = event.allotted_seats
        self.version = event.version
        # The event after an edit, which is the only change of its plan.
        self.edited: Event | None = None
        self.reservations: dict[UUID, Reservation] = {}
        self.read_versions: dict[UUID, int] = {}
        self.keys: dict[Key, Reservation] = {}
        for reservation in reservations:
            self.reservations[reservation.reservation_id] = reservation
            self.read_versions[reservation.reservation_id] = reservation.version
            if reservation.idempotency_key is not None:
                self.keys[reservation.partner_id, reservation.idempotency_key] = reservation
        # What partners have of the pool, where a cap counts it; and the rows of the plan.
        self.partners = {each.partner_id: replace(each) for each in partners}
        # Whether it enters the ends of holds that have ended, which must come before all else.
        self.settles = False
        # Whether any of it may only be written while sales are open.
        self.sells = False
        self.entries: list[LedgerEntry] = []
        self.created: dict[UUID, Reservation] = {}
        self.changed: dict[UUID, Reservation] = {}
        # Every version of a reservation that an outcome shows, to be dated.
        self.shown: list[Reservation] = []
        # What is acknowledged a second time.
        self.repeated: set[UUID] = set()

    @classmethod
    def supposing(cls, event_id: str, reservations: Iterable[Reservation] = ()) -> "Plan":
        """Plan on an event that was not read."""
        event = Event(
            event_id=event_id,
            name="",
            total_seats=limits.TOTAL_SEATS_MAXIMUM,
            available_seats=limits.TOTAL_SEATS_MAXIMUM,
            reservation_count=0,
            version=0,
            sales_open_at=None,
            sales_close_at=None,
            created_at=UNKNOWN,
            read_at=UNKNOWN,
            unsettled=False,
        )
        return cls(event, reservations, UNKNOWN, supposed=True)

    @property
    def judged_version(self) -> int:
        """The event's version that conditions are judged on, and that refusals name.

        Of what is made or not as a whole it is the one before.
        """
        return self.seen.version if self.atomic else self.version

    def judged_version_of(self, reservation: Reservation) -> int:
        """The same of a reservation."""
        if self.atomic:
            return self.read_versions.get(reservation.reservation_id, reservation.version)
        return reservation.version

    @property
    def event(self) -> Event:
        """The event as the changes leave it."""
        return self.edited or replace(
            self.seen,
            available_seats=self.available_seats,
            reservation_count=self.reservation_count,
            allotted_seats=self.allotted_seats,
            version=self.version,
        )

    def allotment(self, partner_id: str) -> Reservation | None:
        """Return the allotment of a partner that lives, as it stands here."""
        whose = self.seen.event_id, partner_id
        for each in self.reservations.values():
            if each.allotment and each.live and (each.event_id, each.partner_id) == whose:
                return each
        return None

    def create(self, reservation: Reservation, kind: Kind, *, actor: str | None) -> Reservation:
        self.sells = self.sells or not reservation.allotment
        self._count(reservation, 1)
        self._enter(reservation, kind, actor)
        reservation.created_version = reservation.version
        self.created[reservation.reservation_id] = reservation
        if reservation.idempotency_key is not None:
            self.keys[reservation.partner_id, reservation.idempotency_key] = reservation
        return reservation

    def change(
        self, reservation: Reservation, kind: Kind, *, actor: str | None, **fields: Any
    ) -> Reservation:
        after = replace(reservation, **fields)
        self._count(reservation, -1)
        self._count(after, 1)
        self._enter(after, kind, actor)
        self.reservations[after.reservation_id] = self.changed[after.reservation_id] = after
        if after.idempotency_key is not None:
            self.keys[after.partner_id, after.idempotency_key] = after
        self._give_back(reservation, after, actor)
        return after

    def draw(
        self, allotment: Reservation, reservation: Reservation, kind: Kind, *, actor: str | None
    ) -> Reservation:
        """Make a reservation of seats that its partner was sure of: two changes."""
        left = allotment.seats - reservation.seats
        self.change(allotment, "allotted", actor=actor, seats=left)
        reservation.drawn_from = allotment.reservation_id
        return self.create(reservation, kind, actor=actor)

    def _give_back(self, before: Reservation, after: Reservation, actor: str | None) -> None:
        """Put what a change frees of a draw into the allotment it came from, while that lives."""
        freed = before.seats - (after.seats if after.live else 0)
        if before.drawn_from is None or freed == 0:
            return
        source = self.reservations.get(before.drawn_from)
        if source is not None and source.live:
            self.change(source, "allotted", actor=actor, seats=source.seats + freed)

    def _count(self, reservation: Reservation, times: int) -> None:
        """Count a reservation in, or out."""
        if not reservation.live:
            return
        seats = times * reservation.seats
        self.available_seats -= seats
        if reservation.allotment:
            self.allotted_seats += seats
            return
        self.reservation_count += times
        partner = self.partners.get(reservation.partner_id)
        if partner is not None and reservation.drawn_from is None:
            partner.seats += seats
            partner.held_seats += seats if reservation.status == "held" else 0

    def edit(self, *, actor: str | None, **fields: Any) -> Event:
        self.version += 1
        self.edited = replace(self.seen, version=self.version, **fields)
        self.available_seats = self.edited.available_seats
        self.entries.append(
            LedgerEntry(
                version=self.version,
                type="event_updated",
                seats=self.edited.total_seats,
                available_seats=self.available_seats,
                actor=actor,
            )
        )
        return self.edited

    def existing(self, reservation_id: UUID, scope: str | None = None) -> Reservation:
        """Return a reservation of this event as it stands here; raise Elsewhere.

        `scope` is the partner whose it must be; None: anybody's. Another's is as good
        as none.
        """
        reservation = self.reservations.get(reservation_id)
        ours = reservation is not None and reservation.event_id == self.seen.event_id
        if reservation is None or not ours or reservation.allotment:
            raise Elsewhere
        if scope not in (None, reservation.partner_id):
            raise Elsewhere
        return reservation

    def repeat(self, reservation: Reservation) -> Reservation:
        """Note that a reservation is acknowledged as it is already, which must be durable."""
        id = reservation.reservation_id
        if id not in self.created and id not in self.changed:
            self.repeated.add(id)
        return reservation

    def place(self, at: datetime, seen_version: int) -> None:
        """Put the outcomes where they were written: their versions, and the time for NOW."""
        shift = seen_version - self.seen.version
        for reservation in self.shown:
            reservation.version += shift
            if reservation.created_at is NOW:
                reservation.created_version += shift
                reservation.created_at = at
                if reservation.hold_seconds is not None:
                    reservation.expires_at = at + timedelta(seconds=reservation.hold_seconds)
            if reservation.confirmed_at is NOW:
                reservation.confirmed_at = at
            if reservation.cancelled_at is NOW:
                reservation.cancelled_at = at

    def _enter(self, reservation: Reservation, kind: Kind, actor: str | None) -> None:
        self.version += 1
        reservation.version = self.version
        self.shown.append(reservation)
        self.entries.append(
            LedgerEntry(
                version=self.version,
                type=kind,
                reservation_id=reservation.reservation_id,
                partner_id=reservation.partner_id,
                seats=reservation.seats,
                available_seats=self.available_seats,
                actor=actor,
                expires_at=reservation.expires_at if kind in ("extended", "allotted") else None,
                details=_details(reservation, kind),
            )
        )


def _details(reservation: Reservation, kind: Kind) -> dict[str, Any] | None:
    """Return what the ledger is to tell of a change besides its columns."""
    if reservation.allotment:
        return {"granted": reservation.requested_seats, "status": reservation.status}
    if kind in ("reserved", "held") and reservation.drawn_from is not None:
        return {"drawn_from": str(reservation.drawn_from)}
    return None
