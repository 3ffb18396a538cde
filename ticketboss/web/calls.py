"""What neither its route nor a schema says of a call: its answers, errors and headers."""

from typing import NamedTuple

from ticketboss.web import allotments, batches, events, keys, reservations, schemas
from ticketboss.web.shapes import Shape, reference

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "integer"}
CURSOR: Shape = {"type": ["string", "null"]}
EVENT = reference(events.EVENT)
RESERVATION = reference(reservations.RESERVATION)
BATCH_ITEMS: Shape = {"type": "array", "items": {"$ref": "#/components/schemas/BatchItem"}}

STALE = {412: "precondition_failed"}
NO_EVENT = {404: "event_not_found"}
ENDED = "already_cancelled hold_expired"
READ = ("If-None-Match", "If-Match")


class Call(NamedTuple):
    """A call. What it may be refused for, beyond what any may be, is told by status."""

    answer: Shape | None = None
    statuses: tuple[int, ...] = (200,)
    refusals: dict[int, str] = {}
    body: schemas.Request | None = None
    query: schemas.Request | None = None
    takes: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    admin: bool = False
    media: str = "application/json"


def _object(**members: Shape) -> Shape:
    return {"type": "object", "properties": members, "required": list(members)}


def _page(of: schemas.Answer, following: Shape = CURSOR) -> Shape:
    return _object(items={"type": "array", "items": reference(of)}, next=following)


def _change(refusals: str, body: schemas.Request) -> Call:
    """Return a call that changes a reservation."""
    met = {404: "not_found", 409: refusals, **STALE}
    return Call(RESERVATION, (200,), met, body=body, takes=("If-Match",), sends=("ETag",))


SUMMARY = Call(EVENT, (200,), {**NO_EVENT, **STALE}, takes=READ, sends=("ETag",))
RESERVE = Call(
    RESERVATION,
    (201,),
    {
        **NO_EVENT,
        409: "sold_out partner_limit sales_not_open sales_closed",
        **STALE,
        422: "idempotency_key_reused",
    },
    body=reservations.RESERVE,
    takes=("Idempotency-Key", "If-Match"),
    sends=("ETag", "Location", "Idempotent-Replayed"),
)
STATE = _object(status=TEXT, message=TEXT)
PAGE = Call(TEXT, sends=("ETag",), takes=("If-None-Match",), media="text/html")

# By endpoint.
CALLS: dict[str, Call] = {
    "reservations.reserve_default": RESERVE,
    "reservations.reserve": RESERVE,
    "reservations.show": SUMMARY._replace(answer=RESERVATION, refusals={404: "not_found", **STALE}),
    "reservations.confirm": _change(ENDED, reservations.NO_MEMBERS),
    "reservations.extend": _change(
        f"{ENDED} hold_limit not_held sales_closed", reservations.EXTEND
    ),
    "reservations.reduce": _change(f"{ENDED} cannot_grow", reservations.REDUCE),
    "reservations.cancel": Call(
        None, (204,), {404: f"not_found {ENDED}", **STALE}, takes=("If-Match",)
    ),
    "batches.batch": Call(
        _object(items=BATCH_ITEMS), refusals={409: "batch_refused"}, body=batches.BATCH
    ),
    "events.show_default": SUMMARY,
    "events.show": SUMMARY,
    "events.index": Call(
        _page(events.EVENT), query=events.LIST, takes=("If-None-Match",), sends=("ETag",)
    ),
    "events.create": Call(
        EVENT,
        (201,),
        {409: "event_exists"},
        body=events.CREATE,
        sends=("ETag", "Location"),
        admin=True,
    ),
    "events.edit": Call(
        EVENT,
        (200,),
        {**NO_EVENT, 409: "capacity_below_reserved", **STALE, 428: "precondition_required"},
        body=events.EDIT,
        takes=("If-Match",),
        sends=("ETag",),
        admin=True,
    ),
    "events.reservations": Call(
        _page(events.RESERVATION), refusals=NO_EVENT, query=events.RESERVATIONS
    ),
    "events.changes": Call(
        _page(events.CHANGE, NUMBER),
        (200,),
        {**NO_EVENT, 409: "cursor_ahead", **STALE},
        query=events.CHANGES,
        takes=READ,
        sends=("ETag",),
    ),
    "allotments.index": Call(
        _page(allotments.ALLOTMENT), refusals=NO_EVENT, query=allotments.ALLOTMENTS
    ),
    "allotments.allot": Call(
        reference(allotments.ALLOTMENT),
        (201, 200),
        {**NO_EVENT, 409: "sold_out"},
        body=allotments.ALLOT,
        admin=True,
    ),
    "allotments.release": Call(None, (204,), NO_EVENT, query=allotments.RELEASE, admin=True),
    "keys.create": Call(
        {"$ref": "#/components/schemas/NewKey"},
        (201,),
        body=keys.CREATE,
        sends=("Location",),
        admin=True,
    ),
    "keys.index": Call(_page(keys.KEY), query=keys.KEYS, admin=True),
    "keys.revoke": Call(None, (204,), {404: "key_not_found"}, admin=True),
    "health.health": Call(STATE, (200, 503), sends=("Retry-After",)),
    "health.live": Call(_object(status=TEXT, message=TEXT, version=TEXT)),
    "scrape.show": Call(TEXT, media="text/plain"),
    "pages.board": PAGE,
    "pages.docs": PAGE,
    "openapi.show": PAGE._replace(answer={"type": "object"}, media="application/json"),
}
