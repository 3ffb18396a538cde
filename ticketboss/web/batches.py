"""Many operations in one request, each alone or all of them or none: `/api/v1/batch`."""

import json
from typing import Any, NamedTuple

from flask import Blueprint, g, jsonify

from ticketboss import metrics
from ticketboss.rules import limits
from ticketboss.rules.changes import Cancel, Change, Confirm, Extend, Reduce, Refused, Reserve
from ticketboss.rules.errors import (
    BatchRefused,
    EventNotFound,
    InvalidRequest,
    ReservationNotFound,
    TicketBossError,
)
from ticketboss.rules.names import EVENT_ID
from ticketboss.web import schemas
from ticketboss.web.access import whose
from ticketboss.web.bodies import read_object
from ticketboss.web.conditions import condition
from ticketboss.web.current import config, ids, store, write_path
from ticketboss.web.reservations import RESERVATION, idempotency_key, known_id

blueprint = Blueprint("batches", __name__, url_prefix="/api/v1")

BATCH = schemas.BatchRequest()
OPERATIONS: dict[str, schemas.Operation] = {
    "reserve": schemas.ReserveOperation(),
    "cancel": schemas.ReservationOperation(),
    "confirm": schemas.ReservationOperation(),
    "extend": schemas.ExtendOperation(),
    "reduce": schemas.ReduceOperation(),
}
CHANGES = {"cancel": Cancel, "confirm": Confirm, "extend": Extend, "reduce": Reduce}
# What the single call answers with, where all is well.
STATUSES = {"reserve": 201, "cancel": 204}


class Wanted(NamedTuple):
    """An operation as it was read: the change that it asks for, and of which event."""

    op: str
    change: Change
    event_id: str | None = None  # None: of the event that its reservation belongs to


@blueprint.post("/batch")
def batch():
    """Make many changes, each as if it came alone, or all of them or none."""
    members = BATCH.read(read_object(limits.BATCH_BODY_BYTES))
    atomic = members["atomic"]
    wanted = _found([_read(operation) for operation in members["operations"]])
    # What cannot be made is submitted only where the others depend on it.
    asked = [
        (each.event_id or config.event_id, each.change)
        for each in wanted
        if atomic or not isinstance(each.change, Refused)
    ]
    turns = iter(write_path.submit_all(asked, atomic) if asked else ())
    items, refused = [], False
    for each in wanted:
        try:
            if isinstance(each.change, Refused):
                if atomic:
                    next(turns)
                raise each.change.fact
            items.append(_made(each.op, next(turns).result()))
        except TicketBossError as fact:
            if atomic and fact.status >= 500:
                raise  # of all of them, then
            refused = refused or not fact.done_before
            items.append(_refused(fact))
    if atomic and refused:
        raise BatchRefused(items=items)
    return jsonify(items=items)


def _read(operation: Any) -> Wanted:
    """Return what an operation asks for; what is wrong with it is its own affair."""
    try:
        if not isinstance(operation, dict):
            raise InvalidRequest("an operation must be a JSON object", fields={})
        op = operation.get("op")
        if not isinstance(op, str) or op not in OPERATIONS:
            sentence = f"op must be one of {', '.join(OPERATIONS)}"
            raise InvalidRequest(sentence, fields={"op": [sentence]})
        members = OPERATIONS[op].read(operation, partner_id=g.identity.partner_id)
        del members["op"]
        members["if_match"] = condition(members["if_match"])
        members["actor"] = g.identity.actor
        if op == "reserve":
            return _reserve(members)
        reservation_id = known_id(members.pop("reservation_id"))
        return Wanted(op, CHANGES[op](reservation_id, **members, scope=g.identity.partner_id))
    except TicketBossError as fact:
        return Wanted("", Refused(fact))


def _reserve(members: dict[str, Any]) -> Wanted:
    event_id = members.pop("event_id") or config.event_id
    if not EVENT_ID.match(event_id):
        raise EventNotFound
    members["partner_id"] = whose(members["partner_id"])
    members["idempotency_key"] = idempotency_key(members["idempotency_key"])
    return Wanted("reserve", Reserve(ids.new(event_id), event_id, **members), event_id)


def _found(wanted: list[Wanted]) -> list[Wanted]:
    """Add the events of reservations, which are all looked up at once."""
    scope = g.identity.partner_id
    asked = [(each.change.reads, scope) for each in wanted if each.change.reads]
    events = {r.reservation_id: r.event_id for r in store.read_reservations(asked)[0]}
    if missing := [each for each in asked if each[0] not in events]:
        found = store.read_reservations(missing, durably=True)[0]  # as the single call does
        events |= {r.reservation_id: r.event_id for r in found}
    return [
        each
        if not each.change.reads
        else each._replace(event_id=events[each.change.reads])
        if each.change.reads in events
        else Wanted(each.op, Refused(ReservationNotFound()))
        for each in wanted
    ]


def _made(op: str, outcome) -> dict:
    """Return what the single call would have answered, its headers among its members."""
    reservation = outcome.reservation
    g.partner_id = reservation.partner_id
    item: dict[str, Any] = {"status": STATUSES.get(op, 200)}
    if op == "cancel":
        return item
    item["etag"] = f'"{reservation.version}"'
    if op == "reserve":
        item["location"] = f"/api/v1/reservations/{reservation.reservation_id}"
        if outcome.replayed:
            item["idempotentReplayed"] = True
    members = RESERVATION.dump(reservation)
    # The status of the answer, and that of the reservation.
    return {**members, **item, "reservationStatus": members["status"]}


def _refused(fact: TicketBossError) -> dict:
    metrics.REFUSALS.add(fact.code)
    item = {"status": fact.status, **schemas.public(fact.body())}
    if fact.status == 503:
        item["retryAfter"] = limits.RETRY_AFTER
    if "fields" in item and len(json.dumps(item)) > limits.BATCH_ITEM_BYTES:
        item["fields"] = {}
    return item
