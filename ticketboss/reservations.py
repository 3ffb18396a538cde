"""Reserve, look at, change and give back seats: `/api/v1/reservations`."""

import os
import re
import time
from collections.abc import Callable
from uuid import UUID

from flask import Blueprint, Response, g, request

from ticketboss import limits, schemas, settled
from ticketboss.bodies import read_object
from ticketboss.changes import Cancel, Confirm, Extend, Outcome, Reduce, Reserve
from ticketboss.conditions import if_match, tagged
from ticketboss.config import EVENT_ID
from ticketboss.current import config, store, write_path
from ticketboss.errors import EventNotFound, InvalidRequest, ReservationNotFound
from ticketboss.model import Reservation

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
    return reserve(config.event_id)


@blueprint.post("/events/<event_id>/reservations")
def reserve(event_id: str):
    """Reserve seats, or hold them for a while."""
    if not EVENT_ID.match(event_id):
        raise EventNotFound
    members = RESERVE.read(read_object())
    g.partner_id = members["partner_id"]
    outcome = write_path.submit(
        event_id,
        Reserve(
            new_reservation_id(),
            event_id,
            **members,
            idempotency_key=_idempotency_key(),
            if_match=if_match(),
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
    reservation = _find(reservation_id, settled.reservation)
    version = None if reservation.overdue else reservation.version
    return tagged(RESERVATION.dump(reservation), version)


@blueprint.delete("/reservations/<reservation_id>")
def cancel(reservation_id: str):
    """Give all seats back."""
    reservation = _find(reservation_id)
    write_path.submit(reservation.event_id, Cancel(reservation.reservation_id, if_match()))
    return "", 204


@blueprint.patch("/reservations/<reservation_id>")
def reduce(reservation_id: str):
    """Give some of the seats back."""
    members = REDUCE.read(read_object())
    reservation = _find(reservation_id)
    change = Reduce(reservation.reservation_id, **members, if_match=if_match())
    return _answer(write_path.submit(reservation.event_id, change))


@blueprint.post("/reservations/<reservation_id>/confirm")
def confirm(reservation_id: str):
    """Turn a hold into a sale."""
    if request.content_length or "Transfer-Encoding" in request.headers:
        NO_MEMBERS.read(read_object())
    reservation = _find(reservation_id)
    change = Confirm(reservation.reservation_id, if_match())
    return _answer(write_path.submit(reservation.event_id, change))


@blueprint.post("/reservations/<reservation_id>/extend")
def extend(reservation_id: str):
    """Let a hold end later."""
    members = EXTEND.read(read_object())
    reservation = _find(reservation_id)
    change = Extend(reservation.reservation_id, **members, if_match=if_match())
    return _answer(write_path.submit(reservation.event_id, change))


def new_reservation_id() -> UUID:
    """Return a UUID version 7 (RFC 9562, section 5.7): time first, then 74 random bits.

    Ids that are made together are neighbours in the index, so that inserting
    costs the same however many reservations there are.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def _find(reservation_id: str, read: Callable | None = None) -> Reservation:
    """Return a reservation by the id in a path; raise ReservationNotFound."""
    reservation = None
    if CANONICAL_UUID.match(reservation_id):
        reservation = (read or store.read_reservation)(UUID(reservation_id))
    if reservation is None:
        raise ReservationNotFound
    g.partner_id = reservation.partner_id
    return reservation


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not PRINTABLE_ASCII.match(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 printable ASCII characters", fields={}
        )
    return key


def _answer(outcome: Outcome) -> Response:
    return tagged(RESERVATION.dump(outcome.reservation), outcome.reservation.version)
