"""Replay the ledgers: they must give whatever the service answers with.

A ledger only grows. So each event is verified up to the version that it is found
at, and its ledger may be read piece by piece, while it goes on selling: no two
statements need a common snapshot, and none has one for long. A reservation is
compared where the replay meets its last change; what has changed since the event
was found is for the next time.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ticketboss.data.database import Database, Row, Run
from ticketboss.data.statements import statement
from ticketboss.data.store import members
from ticketboss.rules.model import LIVE, EventMembers, Kind, Status

# What a reservation must be before each kind of change; None: not there.
BEFORE: dict[Kind, Collection[Status | None]] = {
    "reserved": {None},
    "held": {None},
    "extended": {"held"},
    "confirmed": {"held"},
    "expired": {"held"},
    "reduced": LIVE,
    "cancelled": LIVE,
    "allotted": {None, "held"},
}

# Events found at a time, and ledger rows read at a time: 30 ms or so.
EVENTS = 1_000
ROWS = 2_000


class State(NamedTuple):
    """What may change of a reservation."""

    status: Status | None
    seats: int
    expires_at: datetime | None
    confirmed_at: datetime | None
    cancelled_at: datetime | None
    # Of an allotment: the seats that were granted.
    granted: int | None = None
    # The allotment that it was drawn from.
    drawn_from: UUID | None = None


NOTHING = State(None, 0, None, None, None)


class Replay:
    """An event as its ledger tells it, change by change."""

    def __init__(self, found: Row):
        self.found = found
        self.event_id: str = found.event_id
        self.version = -1
        self.total_seats: int = found.initial_seats
        self.available_seats: int = found.initial_seats
        self.members: EventMembers | None = None
        self.reservation_count = 0
        self.reserved_seats = 0
        self.allotted_seats = 0
        # The reservations that the ledger has a later change of.
        self.going_on: dict[str, State] = {}
        # When its sales were to close, at one time or another; and the reservations that
        # lack their keys, which may be dropped once they have.
        self.closes: list[datetime] = [found.sales_close_at] if found.sales_close_at else []
        self.without_key: list[str] = []
        # Rows of a release that entered no checksum, and less than is told now.
        self.unsealed = 0
        self.differences: list[str] = []

    def apply(self, entry: Row) -> None:
        """Go on by one row of list_ledger.sql."""
        if entry.version != self.version + 1:
            self._differ(f"version {self.version + 1} is missing")
        self.version = entry.version
        self.unsealed += not entry.sealed
        if entry.altered:
            self._differ(f"change {entry.version} is not as it was entered")
        if entry.reservation_id is None:
            self._edit(entry)
        else:
            self._change(entry)
        if entry.available_seats != self.available_seats:
            self._differ(
                f"available seats at change {entry.version}: stored {entry.available_seats},"
                f" replayed {self.available_seats}"
            )
        # Go on from what is written, so that one difference is told once.
        self.available_seats = entry.available_seats

    def stray(self, reservation_id: str) -> None:
        """Note a reservation that the ledger does not tell of where it was made."""
        self._differ(f"reservation {reservation_id} is not in the ledger where it was made")

    def finish(self) -> None:
        """Compare what the whole ledger gives with the event as it was found."""
        found = self.found
        if not any(close <= found.read_at for close in self.closes):
            for reservation_id in self.without_key:
                self._differ(f"reservation {reservation_id} lacks its key, and sales go on")
        self._expect("version", found.version, self.version)
        self._expect("last version of the ledger", found.ledger_version, found.version)
        self._expect("total seats", found.total_seats, self.total_seats)
        self._expect("available seats", found.available_seats, self.available_seats)
        self._expect("reservation count", found.reservation_count, self.reservation_count)
        self._expect("allotted seats", found.allotted_seats, self.allotted_seats)
        self._expect(
            "reserved seats", found.total_seats - found.available_seats, self.reserved_seats
        )
        if self.members is not None:
            for field in fields(EventMembers):
                name = field.name
                self._expect(name, getattr(found, name), getattr(self.members, name))

    def _edit(self, entry: Row) -> None:
        # An older release entered none: then nothing is known but the seats.
        details = None if entry.altered else entry.details
        self.available_seats += entry.seats - self.total_seats
        self.total_seats = entry.seats
        if entry.type == "event_created":
            self._expect("initial seats", self.found.initial_seats, entry.seats)
            self._expect("time of creation", self.found.created_at, entry.at)
        elif self.members is not None and details is not None:
            before = members({**details["event"], **details["before"]})
            self._expect(f"members before change {entry.version}", before, self.members)
        self.members = members(details["event"]) if details else None
        if self.members is not None:
            if self.members.sales_close_at is not None:
                self.closes.append(self.members.sales_close_at)
            self._expect(f"seats of change {entry.version}", self.members.total_seats, entry.seats)

    def _change(self, entry: Row) -> None:
        was = self.going_on.pop(entry.reservation_id, NOTHING)
        if was.status not in BEFORE[entry.type]:
            self._differ(
                f"change {entry.version} is {entry.type}, of a reservation that is {was.status}"
            )
        after = _after(was, entry)
        if entry.type in ("confirmed", "extended", "cancelled", "expired"):
            self._expect(f"seats of change {entry.version}", entry.seats, was.seats)
        seats = after.seats if after.status in LIVE else 0
        self.available_seats += was.seats - seats
        self.reserved_seats += seats - was.seats
        if entry.type == "allotted":
            self.allotted_seats += seats - was.seats
        else:
            self.reservation_count += (after.status in LIVE) - (was.status in LIVE)
        self._compare(entry, after)

    def _compare(self, entry: Row, after: State) -> None:
        """Compare a reservation as a change has left it with how it is stored."""
        if entry.key_forgotten:
            self.without_key.append(entry.reservation_id)
        if not entry.as_made:
            self._disagree(entry, f"is not as change {entry.version} made it")
        if entry.is_last:
            stored = State(
                entry.stored_status,
                entry.stored_seats,
                entry.stored_expires_at,
                entry.stored_confirmed_at,
                entry.stored_cancelled_at,
                entry.stored_granted,
                entry.stored_drawn_from,
            )
            if stored != after:
                self._disagree(entry, f"is not as its last change, {entry.version}, left it")
        elif entry.goes_on and after.status in LIVE:
            self.going_on[entry.reservation_id] = after
        else:
            self._disagree(entry, f"names another last change than {entry.version}")

    def _disagree(self, entry: Row, told: str) -> None:
        self._differ(f"reservation {entry.reservation_id} {told}")

    def _expect(self, what: str, stored: object, replayed: object) -> None:
        if stored != replayed:
            self._differ(f"{what}: stored {stored}, replayed {replayed}")

    def _differ(self, difference: str) -> None:
        self.differences.append(difference)


def _after(was: State, entry: Row) -> State:
    """Return a reservation as a change leaves it."""
    match entry.type:
        case "reserved":
            drawn_from = _drawn_from(entry)
            return State("confirmed", entry.seats, None, entry.at, None, drawn_from=drawn_from)
        case "held":
            drawn_from = _drawn_from(entry)
            return State("held", entry.seats, entry.expires_at, None, None, drawn_from=drawn_from)
        case "extended":
            return was._replace(expires_at=entry.expires_at)
        case "confirmed":
            return was._replace(status="confirmed", expires_at=None, confirmed_at=entry.at)
        case "allotted":
            told = entry.details or {}
            status = told.get("status")
            cancelled_at = entry.at if status == "cancelled" else None
            granted = told.get("granted")
            return State(status, entry.seats, entry.expires_at, None, cancelled_at, granted)
        case "reduced":
            return was._replace(seats=entry.seats)
        case "cancelled":
            return was._replace(status="cancelled", seats=entry.seats, cancelled_at=entry.at)
    return was._replace(status="expired", seats=entry.seats)


def _drawn_from(entry: Row) -> UUID | None:
    named = (entry.details or {}).get("drawn_from")
    return UUID(named) if named else None


class Piece(NamedTuple):
    """Some consecutive versions of an event."""

    event_id: str
    first_version: int
    last_version: int
    # Whether it is the last piece of its event.
    ends: bool


def replay_ledgers(
    database: Database,
    event_id: str | None = None,
    advance: Callable[[int], None] = lambda changes: None,
) -> Iterator[Replay]:
    """Yield every event, or one, replayed: with its version and what disagrees with it.

    `advance` is told how many changes each page had. Raises what Database.session
    raises.
    """
    with database.session() as run:
        yield from replay(run, event_id, advance)


def replay(
    run: Run, event_id: str | None = None, advance: Callable[[int], None] = lambda changes: None
) -> Iterator[Replay]:
    """Yield the same of what a session has."""
    after = ""
    while found := run(
        statement("list_replayed_events"),
        {"event_id": event_id, "after": after, "limit": EVENTS},
    ):
        replays = {row.event_id: Replay(row) for row in found}
        for page in _pages(found):
            entries = run(statement("list_ledger"), _parameters(page))
            for entry in entries:
                replays[entry.event_id].apply(entry)
            for row in run(statement("list_strayed_reservations"), _parameters(page)):
                replays[row.event_id].stray(row.reservation_id)
            advance(len(entries))
            for piece in page:
                if piece.ends:
                    ended = replays.pop(piece.event_id)
                    ended.finish()
                    yield ended
        after = found[-1].event_id


def _pages(found: list[Row]) -> Iterator[list[Piece]]:
    """Cut the ledgers of events into pieces, and put as many together as make a page."""
    page: list[Piece] = []
    room = ROWS
    for event in found:
        # Where the two disagree, which is told, one of them may be any number.
        end = max(0, min(event.version, event.ledger_version or 0))
        first = 0
        while first <= end:
            last = min(end, first + room - 1)
            page.append(Piece(event.event_id, first, last, last == end))
            room -= last - first + 1
            first = last + 1
            if room == 0:
                yield page
                page, room = [], ROWS
    if page:
        yield page


def _parameters(page: list[Piece]) -> dict[str, list[Any]]:
    return {
        "event_ids": [piece.event_id for piece in page],
        "first_versions": [piece.first_version for piece in page],
        "last_versions": [piece.last_version for piece in page],
        "ends": [piece.ends for piece in page],
    }
