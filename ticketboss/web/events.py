"""Events, the lists of what belongs to them, and their change feed: `/api/v1/events`."""

import hashlib
import hmac
from uuid import UUID

from flask import Blueprint, Response, jsonify, request

from ticketboss.rules.changes import Edit
from ticketboss.rules.errors import (
    CursorAhead,
    EventExists,
    EventNotFound,
    InvalidRequest,
    Unauthorized,
)
from ticketboss.rules.model import ADMIN, Event
from ticketboss.rules.names import EVENT_ID
from ticketboss.web import reads, schemas
from ticketboss.web.bodies import read_object
from ticketboss.web.conditions import if_match, tagged, unless_seen
from ticketboss.web.current import config, store, write_path
from ticketboss.web.queries import decode, encode, not_a_cursor, query

blueprint = Blueprint("events", __name__, url_prefix="/api/v1")

EVENT = schemas.EventAnswer()
RESERVATION = schemas.ReservationAnswer()
CHANGE = schemas.ChangeAnswer()
CREATE = schemas.CreateEventRequest()
EDIT = schemas.EditEventRequest()
LIST = schemas.ListQuery()
RESERVATIONS = schemas.ReservationsQuery()
CHANGES = schemas.ChangesQuery()


@blueprint.get("/reservations")
def show_default():
    return show(config.event_id)


@blueprint.get("/events/<event_id>")
def show(event_id: str):
    """Show the event's summary."""
    return _summary(reads.event(known(event_id)))


@blueprint.post("/events")
def create():
    """Create an event (admin)."""
    require_admin()
    members = CREATE.read(read_object())
    if not store.create_event(**members, actor=ADMIN):
        raise EventExists
    response = _summary(reads.event(members["event_id"]))
    response.status_code = 201
    response.headers["Location"] = f"/api/v1/events/{members['event_id']}"
    return response


@blueprint.patch("/events/<event_id>")
def edit(event_id: str):
    """Change an event's name, size or sales window (admin)."""
    require_admin()
    members = EDIT.read(read_object())
    condition = if_match(required=True)
    if not members:
        raise InvalidRequest("The body names nothing to change", fields={})
    return _summary(write_path.submit(known(event_id), Edit(members, condition, actor=ADMIN)))


@blueprint.get("/events")
def index():
    """List the events by their ids."""
    asked = LIST.read(query())
    after = ""
    if asked["after"] is not None:
        after = decode(asked["after"])
        if not EVENT_ID.match(after) or store.read_event(after) is None:
            raise not_a_cursor()
    listed = store.list_events(after, asked["limit"] + 1)
    page = reads.settle_all(listed[: asked["limit"]])
    more = len(listed) > len(page)
    body = {
        "items": [EVENT.dump(event) for event in page],
        "next": encode(page[-1].event_id) if more else None,
    }
    if any(event.unsettled for event in page):
        return jsonify(body)
    versions = [(event.event_id, event.version) for event in page]
    return unless_seen(body, hashlib.sha256(f"{versions} {more}".encode()).hexdigest()[:32])


@blueprint.get("/events/<event_id>/reservations")
def reservations(event_id: str):
    """List an event's reservations, newest last."""
    known(event_id)
    asked = RESERVATIONS.read(query())
    after = 0
    if asked["after"] is not None:
        # The cursor is the last reservation of the page before: it proves itself.
        last = _uuid(decode(asked["after"]))
        last = last and store.read_reservation(last)
        if (
            not last
            or last.event_id != event_id
            or asked["partner_id"] not in (None, last.partner_id)
        ):
            raise not_a_cursor()
        after = last.created_version
    listed = reads.page(
        event_id,
        lambda computed: store.list_reservations(
            event_id, asked["partner_id"], asked["status"], after, asked["limit"] + 1, computed
        ),
    )
    page = listed.items[: asked["limit"]]
    more = len(listed.items) > len(page)
    return jsonify(
        items=[RESERVATION.dump(reservation) for reservation in page],
        next=encode(str(page[-1].reservation_id)) if more else None,
    )


@blueprint.get("/events/<event_id>/changes")
def changes(event_id: str):
    """List an event's changes after a version, in the order of their commits."""
    known(event_id)
    asked = CHANGES.read(query())
    page = reads.page(
        event_id, lambda _: store.list_changes(event_id, asked["after"], asked["limit"])
    )
    if asked["after"] > page.event_version:
        raise CursorAhead(version=page.event_version)
    last = page.items[-1].version if page.items else asked["after"]
    # The ledger only grows, so the last version on a page tells the page.
    return tagged({"items": [CHANGE.dump(change) for change in page.items], "next": last}, last)


def known(event_id: str) -> str:
    """Return an event id that has the form of one; raise EventNotFound."""
    if not EVENT_ID.match(event_id):
        raise EventNotFound
    return event_id


def _summary(event: Event) -> Response:
    return tagged(EVENT.dump(event), None if event.unsettled else event.version)


def require_admin() -> None:
    """Raise Unauthorized unless the request carries the admin key; without one nothing does."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    expected = config.admin_key
    if (
        expected is None
        or scheme.lower() != "bearer"
        or not hmac.compare_digest(key.strip().encode(), expected.encode())
    ):
        raise Unauthorized


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
