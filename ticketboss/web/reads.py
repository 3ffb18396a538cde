"""Read with every expired hold in the ledger first, so that all answers agree.

A reader that finds a hold expired and not settled settles it through the write
path. Where that can't be done in time, because the database takes no writes
just now, it answers with numbers computed as if it had been, and no entity tag.
"""

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from ticketboss.data.store import Page
from ticketboss.rules.changes import Look
from ticketboss.rules.errors import Contention, EventNotFound, Overloaded, Unavailable
from ticketboss.rules.model import Event, Reservation
from ticketboss.web.current import store, write_path

# How often a summary and what belongs to it are read until they agree.
TRIES = 5

NOT_NOW = (Unavailable, Contention, Overloaded)


def event(event_id: str) -> Event:
    """Return an event; it is `unsettled` where it could only be computed.

    Raises EventNotFound, Unavailable or Overloaded.
    """
    found = store.read_event(event_id)
    if found is None:
        raise EventNotFound
    return settle(found)


def with_allotted(found: list[Event], partner_id: str | None) -> list[Event]:
    """Return events, each with what a partner has left of an allotment at its version."""
    if partner_id is None:
        return found
    for _ in range(TRIES):
        asked = [(each.event_id, partner_id) for each in found if each.allotted_seats]
        if not asked:
            break
        mine = {each.event_id: each for each in store.read_allotments(asked)[0]}
        if all(e.event_id not in mine or mine[e.event_id].version <= e.version for e in found):
            for each in found:
                if each.event_id in mine:
                    each.your_allotted_seats = mine[each.event_id].seats
            break
        found = [event(each.event_id) for each in found]  # it has been drawn from meanwhile
    return found


def settle(found: Event) -> Event:
    """Return an event that was read, settled."""
    if not found.unsettled:
        return found
    try:
        return write_path.submit(found.event_id, Look())
    except NOT_NOW:
        return _computed(found)


def _computed(found: Event) -> Event:
    """Return an event as it will be once it is settled."""
    return store.read_event_unsettled(found.event_id) or found


def settle_all(found: list[Event]) -> list[Event]:
    """Return events that were read, settled; after one that could not be, none is tried."""
    events = []
    able = True
    for each in found:
        if each.unsettled:
            each = settle(each) if able else _computed(each)
            able = able and not each.unsettled
        events.append(each)
    return events


def reservation(reservation_id: UUID, scope: str | None) -> Reservation | None:
    """Return a reservation, if it is in scope.

    It is `overdue` where its end is not in the ledger yet.
    """
    found = store.read_reservation(reservation_id, scope)
    if found is None or not found.overdue:
        return found
    try:
        write_path.submit(found.event_id, Look())
    except NOT_NOW:
        found.status = "expired"
        return found
    return store.read_reservation(reservation_id, scope)


def page(event_id: str, read: Callable[[bool], Page | None]) -> Page:
    """Return a page of an event's list.

    `read` reads it, with its argument as if every expired hold were settled.
    Raises EventNotFound, Unavailable or Overloaded.
    """
    found = read(False)
    if found is not None and found.unsettled:
        with suppress(*NOT_NOW):
            write_path.submit(event_id, Look())
            found = read(False)
    if found is not None and found.unsettled:
        # It could not be settled, or another has expired meanwhile.
        found = read(True)
    if found is None:
        raise EventNotFound
    for item in found.items:
        if getattr(item, "overdue", False):
            item.status = "expired"
    return found
