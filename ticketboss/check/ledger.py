"""The feed of one event, replayed: its numbers and reservations at every version."""

import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

NEVER = sys.maxsize
LIVE = ("held", "confirmed")
STATUS = {"reserved": "confirmed", "held": "held", "confirmed": "confirmed",
          "cancelled": "cancelled", "expired": "expired"}  # fmt: skip
# What a reservation must be for each kind of change; None: not there yet.
BEFORE = {"reserved": (None,), "held": (None,), "confirmed": ("held",), "extended": ("held",),
          "reduced": LIVE, "cancelled": LIVE, "expired": ("held",)}  # fmt: skip


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass(frozen=True, slots=True)
class State:
    """A reservation as one change left it."""

    version: int
    kind: str
    status: str
    seats: int
    at: str


@dataclass(slots=True)
class Story:
    """A reservation through all its changes."""

    reservation_id: str
    partner_id: str
    drawn: bool  # from an allotment
    states: list[State] = field(default_factory=list)
    # The version of each of its changes that is known to set an end, and that end.
    ends: dict[int, datetime] = field(default_factory=dict)

    @property
    def created(self) -> int:
        return self.states[0].version

    def place(self, version: int) -> int:
        """Return the place in `states` of what it was at a version of its event; -1: nothing."""
        return bisect_right(self.states, version, key=lambda state: state.version) - 1

    def at(self, version: int) -> State | None:
        place = self.place(version)
        return self.states[place] if place >= 0 else None

    def until(self, state: State) -> int:
        """Return the version that ended a state; one that never comes, where none did."""
        place = self.place(state.version) + 1
        return self.states[place].version if place < len(self.states) else NEVER

    def end(self, state: State) -> datetime | None:
        """Return when a held state ends by itself, where that is known."""
        for earlier in reversed(self.states[: self.place(state.version) + 1]):
            if earlier.version in self.ends:
                return self.ends[earlier.version]
            if earlier.kind in ("extended", "held"):
                return None
        return None


class Ledger:
    """An event at each of its versions. What does not replay is among its `faults`."""

    def __init__(self, total_seats: int, items: list[dict[str, Any]]):
        self.items = items
        self.faults: list[tuple[str, str]] = []
        # Each by version, from 0 on.
        self.total = [total_seats]
        self.available = [total_seats]
        self.count = [0]
        self.aside = [0]  # allotted and not drawn
        self.stories: dict[str, Story] = {}
        self._made: list[Story] = []
        self._left: dict[str, int] = {}  # of each partner's allotment
        for place, item in enumerate(items):
            if item["version"] != place + 1:
                self._fault("gap", f"version {item['version']} comes after {place}")
                break
            self._replay(item)
        else:
            return
        del self.items[place:]

    @property
    def version(self) -> int:
        return len(self.items)

    def made_after(self, version: int) -> Iterator[Story]:
        """Give the reservations made after a version, oldest first."""
        first = bisect_right(self._made, version, key=lambda story: story.created)
        return (self._made[place] for place in range(first, len(self._made)))

    def _fault(self, kind: str, text: str) -> None:
        self.faults.append((kind, text))

    def _replay(self, item: dict[str, Any]) -> None:
        version, kind, seats = item["version"], item["type"], item["seats"]
        total, available = self.total[-1], self.available[-1]
        count, aside = self.count[-1], self.aside[-1]
        if kind == "event_updated":
            available += seats - total
            total = seats
        elif kind == "allotted":
            partner = item["partnerId"]
            more = seats - self._left.get(partner, 0)
            if seats < 0:
                self._fault("allotment", f"version {version} leaves an allotment with {seats}")
            available -= more
            aside += more
            self._left[partner] = seats
        else:
            before, after = self._change(item)
            available += before - after
            count += (after > 0) - (before > 0)
        if item["availableSeats"] != available:
            self._fault("sum", f"version {version} says {item['availableSeats']} seats are left,"
                        f" its changes make it {available}")  # fmt: skip
        if not 0 <= available <= total:
            self._fault("oversold", f"version {version} leaves {available} of {total} seats")
        self.total.append(total)
        self.available.append(available)
        self.count.append(count)
        self.aside.append(aside)

    def _change(self, item: dict[str, Any]) -> tuple[int, int]:
        """Take note of a reservation's change; return its seats before and after."""
        version, kind, seats = item["version"], item["type"], item["seats"]
        story = self.stories.get(item["reservationId"])
        last = story.states[-1] if story else None
        was = last.status if last else None
        told = f"version {version}: {kind} of {item['reservationId']}"
        if kind not in BEFORE:
            self._fault("story", f"{told} is no kind of change")
        elif was not in BEFORE[kind]:
            self._fault("story", f"{told}, which was {was}")
        if story is None or last is None:
            story = Story(item["reservationId"], item["partnerId"], self._draws(item))
            self.stories[story.reservation_id] = story
            self._made.append(story)
        else:
            if story.partner_id != item["partnerId"]:
                self._fault("story", f"{told} is {item['partnerId']}'s, and {story.partner_id}'s")
            if seats >= last.seats if kind == "reduced" else seats != last.seats:
                self._fault("story", f"{told} with {seats} seats, after {last.seats}")
        if seats < 1:
            self._fault("story", f"{told} with {seats} seats")
        status = STATUS.get(kind, was or "")
        story.states.append(State(version, kind, status, seats, item["at"]))
        before = last.seats if last and last.status in LIVE else 0
        return before, seats if status in LIVE else 0

    def _draws(self, item: dict[str, Any]) -> bool:
        """Tell whether a new reservation was drawn from its partner's allotment."""
        before = self.items[item["version"] - 2] if item["version"] > 1 else None
        if not before or (before["type"], before["partnerId"]) != ("allotted", item["partnerId"]):
            return False
        return bool(self.aside[-2] - self.aside[-1] == item["seats"])
