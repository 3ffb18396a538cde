"""The feed of one event, replayed: its numbers and reservations at every version."""

import sys
from bisect import bisect_right
from collections import defaultdict
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


class Steps:
    """A number that is 0 at first and changes at some versions."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int]] = []

    @property
    def last(self) -> int:
        return self._steps[-1][1] if self._steps else 0

    def add(self, version: int, number: int) -> None:
        self._steps.append((version, number))

    def at(self, version: int) -> int:
        place = bisect_right(self._steps, version, key=lambda step: step[0])
        return self._steps[place - 1][1] if place else 0


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
        # Of each partner, by version: what its allotment has left, and what the pool gave it,
        # held or sold, and held alone.
        self._left: dict[str, Steps] = defaultdict(Steps)
        self._pooled: dict[str, Steps] = defaultdict(Steps)
        self._held: dict[str, Steps] = defaultdict(Steps)
        for place, item in enumerate(items):
            if item["version"] != place + 1:
                self._fault("gap", f"version {item['version']} comes after {place}")
                break
            self._replay(item)
        else:
            return
        del self.items[place:]

    def left(self, partner_id: str, version: int) -> int:
        """Return what is left of a partner's allotment."""
        return self._left[partner_id].at(version)

    def partners(self) -> list[str]:
        """Return all who have had an allotment."""
        return list(self._left)

    def counted(self, partner_id: str, version: int, held: bool) -> int:
        """Return how many seats a cap counts: from the pool, held or sold, or held alone."""
        return (self._held if held else self._pooled)[partner_id].at(version)

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
            more = seats - self._left[partner].last
            if seats < 0:
                self._fault("allotment", f"version {version} leaves an allotment with {seats}")
            available -= more
            aside += more
            self._left[partner].add(version, seats)
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
        after = seats if status in LIVE else 0
        if not story.drawn:
            pooled, held = self._pooled[story.partner_id], self._held[story.partner_id]
            pooled.add(version, pooled.last + after - before)
            was_held = before if was == "held" else 0
            held.add(version, held.last + (after if status == "held" else 0) - was_held)
        return before, after

    def _draws(self, item: dict[str, Any]) -> bool:
        """Tell whether a new reservation was drawn from its partner's allotment."""
        before = self.items[item["version"] - 2] if item["version"] > 1 else None
        if not before or any(
            before[name] != value
            for name, value in {**item, "type": "allotted"}.items()
            if name in ("type", "partnerId", "at")
        ):
            return False
        return bool(self.aside[-2] - self.aside[-1] == item["seats"])
