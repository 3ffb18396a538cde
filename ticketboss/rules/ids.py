"""Reservation ids, and which event an id may belong to."""

import os
import time
from uuid import UUID
from zlib import crc32

MARKS = 1 << 12

# Random bytes that nobody has had yet, in pieces of 16. Each call of the system for
# some lets the interpreter lock go, which may cost more than all that an id needs.
_random: list[bytes] = []
os.register_at_fork(after_in_child=_random.clear)


def random_bytes() -> bytes:
    """Return 16 random bytes, from the system's generator."""
    try:
        return _random.pop()
    except IndexError:
        many = os.urandom(16 * 256)
        _random.extend(many[start : start + 16] for start in range(16, len(many), 16))
        return many[:16]


class ReservationIds:
    """Makes ids that carry a mark of their event, and remembers an event for each mark.

    A change comes with a reservation's id and nothing else, but waits in line for
    its event. The mark saves looking the event up in most cases. It is a guess:
    two events may share a mark, and whoever uses it must be ready to be wrong.
    """

    def __init__(self) -> None:
        self._events: list[str | None] = [None] * MARKS

    def __len__(self) -> int:
        """How many events it has room for."""
        return len(self._events)

    def new(self, event_id: str) -> UUID:
        """Return a UUID version 7 (RFC 9562, section 5.7).

        Milliseconds first, so that ids that are made together are neighbours in
        the index and inserting costs the same however many there are; then the
        mark in rand_a and 62 random bits in rand_b.
        """
        value = time.time_ns() // 1_000_000 << 80 | 0x7 << 76
        value |= self.remember(event_id) << 64 | 0x2 << 62
        return UUID(int=value | int.from_bytes(random_bytes()[:8], "big") >> 2)

    def remember(self, event_id: str) -> int:
        """Return the mark of an event; it stands for this one from now on."""
        mark = crc32(event_id.encode()) % MARKS
        self._events[mark] = event_id
        return mark

    def event(self, reservation_id: UUID) -> str | None:
        """Return the event that a reservation may belong to; None if nothing is known."""
        return self._events[reservation_id.int >> 64 & MARKS - 1]
