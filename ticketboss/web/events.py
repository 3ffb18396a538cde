"""Events, the lists of what belongs to them, and their change feed: `/api/v1/events`."""

import hashlib
from uuid import UUID

from flask import Blueprint, Response, g, jsonify

from ticketboss.rules.changes import Edit
from ticketboss.rules.errors import (
    CursorAhead,
    EventExists,
    EventNotFound,
    InvalidRequest,
)
from ticketboss.rules.model import Event
from ticketboss.rules.names import EVENT_ID
from ticketboss.web import lists, reads, schemas
from ticketboss.web.access import require_admin, whose
from ticketboss.web.bodies import read_object
from ticketboss.web.conditions import if_match, tagged, unless_seen
from ticketboss.web.current import config, store, write_path

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
    """Show the default event's summary."""
    return show(config.event_id)


@blueprint.get("/events/<event_id>")
def show(event_id: str):
    """Show the event's summary, to a partner with what it has allotted."""
    event = reads.event(known(event_id))
    (event,) = reads.with_allotted([event], g.identity.partner_id)
    return _summary(event)


@blueprint.post("/events")
def create():
    """Create an event (admin)."""
    require_admin()
    members = CREATE.read(read_object())
    g.event_id = members["event_id"]
    if not store.create_event(**members, actor=g.identity.actor):
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
    change = Edit(members, condition, actor=g.identity.actor)
    return _summary(write_path.submit(known(event_id), change))


@blueprint.get("/events")
def index():
    """List the events by their ids, to a partner with what it has allotted."""
    query = LIST.read(lists.query())
    after = ""
    if query["after"] is not None:
        after = lists.place(query["after"])
        if not EVENT_ID.match(after) or store.read_event(after) is None:
            raise lists.not_a_cursor()
    listed = store.list_events(after, query["limit"] + 1)
    page = reads.settle_all(listed[: query["limit"]])
    page = reads.with_allotted(page, g.identity.partner_id)
    more = len(listed) > len(page)
    body = {
        "items": [EVENT.dump(event) for event in page],
        "next": lists.cursor(page[-1].event_id) if more else None,
    }
    if any(event.unsettled for event in page):
        return jsonify(body)
    versions = [(event.event_id, event.version) for event in page]
    tag = hashlib.sha256(f"{versions} {more}".encode()).hexdigest()[:32]
    if_match().check_tag(tag)
    return unless_seen(body, tag)


@blueprint.get("/events/<event_id>/reservations")
def reservations(event_id: str):
    """List an event's reservations, newest last."""
    known(event_id)
    query = RESERVATIONS.read(lists.query())
    partner_id = whose(query["partner_id"])
    after = 0
    if query["after"] is not None:
        # The cursor is the last reservation of the page before: it proves itself.
        place = _uuid(lists.place(query["after"]))
        last = store.read_reservation(place, g.identity.partner_id) if place else None
        if not last or last.event_id != event_id or partner_id not in (None, last.partner_id):
            raise lists.not_a_cursor()
        after = last.created_version
    listed = reads.page(
        event_id,
        lambda computed: store.list_reservations(
            event_id, partner_id, query["status"], after, query["limit"] + 1, computed
        ),
    )
    page = listed.items[: query["limit"]]
    more = len(listed.items) > len(page)
    return jsonify(
        items=[RESERVATION.dump(reservation) for reservation in page],
        next=lists.cursor(str(page[-1].reservation_id)) if more else None,
    )


@blueprint.get("/events/<event_id>/changes")
def changes(event_id: str):
    """List an event's changes after a version, in the order of their commits."""
    known(event_id)
    query = CHANGES.read(lists.query())
    asked = event_id, g.identity.partner_id, query["after"], query["limit"]
    page = reads.page(event_id, lambda _: store.list_changes(*asked))
    if query["after"] > page.event_version:
        # A primary that has been replaced stays behind.
        page = reads.page(event_id, lambda _: store.list_changes(*asked, durably=True))
    if query["after"] > page.event_version:
        raise CursorAhead(version=page.event_version)
    last = page.items[-1].version if page.items else query["after"]
    # The ledger only grows, so the last version on a page tells the page.
    return tagged({"items": [CHANGE.dump(change) for change in page.items], "next": last}, last)


def known(event_id: str) -> str:
    """Return an event id that has the form of one; raise EventNotFound."""
    if not EVENT_ID.match(event_id):
        raise EventNotFound
    g.event_id = event_id
    return event_id


def _summary(event: Event) -> Response:
    return tagged(EVENT.dump(event), None if event.unsettled else event.version)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
