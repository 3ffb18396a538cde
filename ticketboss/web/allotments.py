"""Seats that a partner is sure of: `/api/v1/events/{eventId}/allotments`."""

from flask import Blueprint, g, jsonify

from ticketboss.rules.changes import Allot, Release
from ticketboss.web import lists, reads, schemas
from ticketboss.web.access import require_admin, whose
from ticketboss.web.bodies import read_object
from ticketboss.web.current import ids, store, write_path
from ticketboss.web.events import known

blueprint = Blueprint("allotments", __name__, url_prefix="/api/v1/events/<event_id>/allotments")

ALLOT = schemas.AllotRequest()
RELEASE = schemas.ReleaseQuery()
ALLOTMENTS = schemas.AllotmentsQuery()
ALLOTMENT = schemas.AllotmentAnswer()


@blueprint.put("")
def allot(event_id: str):
    """Let a partner have been granted some seats in all (admin)."""
    require_admin()
    members = ALLOT.read(read_object())
    change = Allot(ids.new(known(event_id)), event_id, **members, actor=g.identity.actor)
    outcome = write_path.submit(event_id, change)
    response = jsonify(ALLOTMENT.dump(outcome.reservation))
    response.status_code = 200 if outcome.replayed else 201
    return response


@blueprint.delete("")
def release(event_id: str):
    """Give what is left of an allotment back to the pool (admin)."""
    require_admin()
    members = RELEASE.read(lists.query())
    write_path.submit(known(event_id), Release(members["partner_id"], actor=g.identity.actor))
    return "", 204


@blueprint.get("")
def index(event_id: str):
    """List the allotments that live, by their partners."""
    query = ALLOTMENTS.read(lists.query())
    partner_id = whose(query["partner_id"])
    after = lists.place(query["after"]) if query["after"] is not None else ""
    limit = query["limit"]
    found = reads.page(
        known(event_id),
        lambda _: store.list_allotments(event_id, partner_id, after, limit + 1),
    ).items
    page = found[:limit]
    return jsonify(
        items=[ALLOTMENT.dump(each) for each in page],
        next=lists.cursor(page[-1].partner_id) if len(found) > limit else None,
    )
