"""Replay the ledger: it must give every number that the service answers with."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ticketboss.data.database import Database
from ticketboss.data.statements import statement
from ticketboss.rules.model import LedgerEntry

# What a reservation must be before each type of change: nothing yet, held or sold.
BEFORE = {
    "reserved": {None},
    "held": {None},
    "extended": {"held"},
    "confirmed": {"held"},
    "expired": {"held"},
    "reduced": {"held", "sold"},
    "cancelled": {"held", "sold"},
}

# Ledger rows read at a time.
PAGE = 10_000
# More differences than this are not listed one by one.
SHOWN = 10


@dataclass
class Replay:
    """An event as its ledger tells it, change by change."""

    total_seats: int
    available_seats: int = field(init=False)
    version: int = 0
    live: dict = field(default_factory=dict)  # seats, and held or sold, by reservation id
    differences: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.available_seats = self.total_seats

    def apply(self, entry: LedgerEntry) -> None:
        if entry.version != self.version + 1:
            self.differences.append(f"version {self.version + 1} is missing")
        self.version = entry.version
        seats, state = self.live.get(entry.reservation_id, (0, None))
        if state not in BEFORE.get(entry.type, {None}):
            self.differences.append(
                f"change {entry.version} is {entry.type}, of a reservation that is {state}"
            )
        if entry.type == "event_updated":
            self.available_seats += entry.seats - self.total_seats
            self.total_seats = entry.seats
        elif entry.type in ("cancelled", "expired"):
            self._expect(f"seats given back by change {entry.version}", entry.seats, seats)
            self.available_seats += seats
            self.live.pop(entry.reservation_id, None)
        else:
            if entry.type in ("confirmed", "extended"):
                self._expect(f"seats of change {entry.version}", entry.seats, seats)
            self.available_seats += seats - entry.seats
            if entry.type in ("held", "reserved", "confirmed"):
                state = "held" if entry.type == "held" else "sold"
            self.live[entry.reservation_id] = entry.seats, state
        self._expect(
            f"available seats at change {entry.version}",
            entry.available_seats,
            self.available_seats,
        )
        # Go on from what is written, so that one difference is told once.
        self.available_seats = entry.available_seats

    def compare(self, total: int, available: int, count: int, version: int) -> None:
        self._expect("version", version, self.version)
        self._expect("total seats", total, self.total_seats)
        self._expect("available seats", available, self.available_seats)
        self._expect("reservation count", count, len(self.live))
        self._expect(
            "reserved seats", total - available, sum(seats for seats, _ in self.live.values())
        )

    def _expect(self, what: str, stored: int, replayed: int) -> None:
        if stored != replayed:
            self.differences.append(f"{what}: stored {stored}, replayed {replayed}")


def replay_ledgers(database: Database) -> Iterator[tuple[str, int, list[str]]]:
    """Yield every event's id, version and what disagrees with its replayed ledger.

    All of it is read in one snapshot, so the service may go on selling. Raises
    what Database.transaction raises.
    """
    with database.transaction(snapshot=True) as run:
        for event_id, initial, *stored in run(statement("list_event_totals")):
            replay = Replay(initial)
            rows = True
            while rows:
                rows = run(
                    statement("list_ledger"),
                    {
                        "event_id": event_id,
                        "after": replay.version,
                        "limit": PAGE,
                    },
                )
                for row in rows:
                    replay.apply(LedgerEntry(**row._asdict()))
            replay.compare(*stored)
            strayed = run(
                statement("list_strayed_reservations"),
                {
                    "event_id": event_id,
                    "limit": SHOWN,
                },
            )
            replay.differences += [
                f"reservation {row.reservation_id} is not as its last change left it"
                for row in strayed
            ]
            yield event_id, stored[-1], replay.differences
