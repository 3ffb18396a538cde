"""Reserve, look at, change and give back seats: `/api/v1/reservations`."""

import re
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from flask import Blueprint, Response, g, request

from ticketboss.rules import limits
from ticketboss.rules.changes import Cancel, Confirm, Extend, Outcome, Reduce, Reserve
from ticketboss.rules.errors import Elsewhere, EventNotFound, InvalidRequest, ReservationNotFound
from ticketboss.rules.model import Reservation
from ticketboss.rules.names import EVENT_ID
from ticketboss.web import reads, schemas
from ticketboss.web.access import whose
from ticketboss.web.bodies import read_object
from ticketboss.web.conditions import if_match, tagged
from ticketboss.web.current import config, ids, store, write_path

blueprint = Blueprint("reservations", __name__, url_prefix="/api/v1")

CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
PRINTABLE_ASCII = re.compile(rf"[ -~]{{1,{limits.IDEMPOTENCY_KEY_LENGTH}}}\Z")

RESERVE = schemas.ReserveRequest()
REDUCE = schemas.ReduceRequest()
EXTEND = schemas.ExtendRequest()
NO_MEMBERS = schemas.NoMembersRequest()
RESERVATION = schemas.ReservationAnswer()


@blueprint.post("/reservations")
def reserve_default():
    """Reserve seats of the default event, or hold them for a while."""
    return reserve(config.event_id)


@blueprint.post("/events/<event_id>/reservations")
def reserve(event_id: str):
    """Reserve seats, or hold them for a while."""
    if not EVENT_ID.match(event_id):
        raise EventNotFound
    members = RESERVE.read(read_object(), partner_id=g.identity.partner_id)
    g.event_id, g.partner_id = event_id, whose(members["partner_id"])
    outcome = write_path.submit(
        event_id,
        Reserve(
            ids.new(event_id),
            event_id,
            **members,
            idempotency_key=idempotency_key(request.headers.get("Idempotency-Key")),
            if_match=if_match(),
            actor=g.identity.actor,
        ),
    )
    response = _answer(outcome)
    response.status_code = 201
    response.headers["Location"] = f"/api/v1/reservations/{outcome.reservation.reservation_id}"
    if outcome.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


@blueprint.get("/reservations/<reservation_id>")
def show(reservation_id: str):
    """Show one reservation."""
    reservation = _find(known_id(reservation_id), reads.reservation)
    version = None if reservation.overdue else reservation.version
    return tagged(RESERVATION.dump(reservation), version)


@blueprint.delete("/reservations/<reservation_id>")
def cancel(reservation_id: str):
    """Give all seats back."""
    _submit(reservation_id, Cancel, if_match())
    return "", 204


@blueprint.patch("/reservations/<reservation_id>")
def reduce(reservation_id: str):
    """Give some of the seats back."""
    members = REDUCE.read(read_object())
    return _answer(_submit(reservation_id, Reduce, members["seats"], if_match()))


@blueprint.post("/reservations/<reservation_id>/confirm")
def confirm(reservation_id: str):
    """Turn a hold into a sale."""
    if request.content_length or "Transfer-Encoding" in request.headers:
        NO_MEMBERS.read(read_object())
    return _answer(_submit(reservation_id, Confirm, if_match()))


@blueprint.post("/reservations/<reservation_id>/extend")
def extend(reservation_id: str):
    """Let a hold end later."""
    members = EXTEND.read(read_object())
    return _answer(_submit(reservation_id, Extend, members["hold_seconds"], if_match()))


def _submit(reservation_id: str, change: Callable, *arguments) -> Outcome:
    """Make a change of the reservation by the id in a path.

    Raises what WritePath.submit raises, or ReservationNotFound.
    """
    known = known_id(reservation_id)
    asked = change(known, *arguments, scope=g.identity.partner_id, actor=g.identity.actor)
    outcome = None
    # A guess even where nothing is known, so that all ids that lead nowhere cost the same.
    with suppress(Elsewhere, EventNotFound):
        g.event_id = ids.event(known) or config.event_id
        outcome = write_path.submit(g.event_id, asked)
    if outcome is None:
        g.event_id = None
        event_id = _find(known, _look_up).event_id
        ids.remember(event_id)
        outcome = write_path.submit(event_id, asked)
    g.partner_id = outcome.reservation.partner_id
    return outcome


def known_id(reservation_id: str) -> UUID:
    """Return the id in a path; raise ReservationNotFound where it is none."""
    if not CANONICAL_UUID.match(reservation_id):
        raise ReservationNotFound
    return UUID(reservation_id)


def _find(reservation_id: UUID, read: Callable | None = None) -> Reservation:
    """Return a reservation; raise ReservationNotFound."""
    reservation = (read or store.read_reservation)(reservation_id, g.identity.partner_id)
    if reservation is None:
        raise ReservationNotFound
    g.event_id, g.partner_id = reservation.event_id, reservation.partner_id
    return reservation


def _look_up(reservation_id: UUID, scope: str | None) -> Reservation | None:
    """Return a reservation; that there is none is told on what is durable."""
    found = store.read_reservation(reservation_id, scope)
    return found or store.read_reservation(reservation_id, scope, durably=True)


def idempotency_key(key: str | None) -> str | None:
    """Return an idempotency key in its one form; raise InvalidRequest."""
    if key is None:
        return None
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # some clients write it as a string of RFC 9651
    if not PRINTABLE_ASCII.match(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 printable ASCII characters", fields={}
        )
    return key


def _answer(outcome: Outcome) -> Response:
    return tagged(RESERVATION.dump(outcome.reservation), outcome.reservation.version)
