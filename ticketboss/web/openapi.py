"""What the service does, told to machines: OpenAPI 3.1 at `/openapi.json`.

The routes are those of the application, the schemas those that validate, the errors
those of `refusals`; what none of them knows is in `calls`.
"""

import json
import re
from functools import cache
from importlib import resources

from flask import Blueprint, current_app
from werkzeug.routing import Map, Rule

from ticketboss.logs import RELEASE
from ticketboss.rules import limits, names
from ticketboss.rules.keys import KEY_ID
from ticketboss.web import allotments, batches, events, keys, reservations, schemas
from ticketboss.web.calls import BATCH_ITEMS, CALLS, NUMBER, TEXT, Call
from ticketboss.web.conditions import unchanging
from ticketboss.web.refusals import REFUSALS, Refusal
from ticketboss.web.schemas import camel_case
from ticketboss.web.shapes import Shape, name, pattern, reference, shape

blueprint = Blueprint("openapi", __name__)

# Calls with their answers, in an order in which they work on a new database.
EXAMPLES = json.loads(
    resources.files("ticketboss.web").joinpath("examples.json").read_text("utf-8")
)

DESCRIPTION = """\
Sells the seats of events to partner companies, each seat at most once.

Every error is a JSON object with `error` (a sentence for a person), `code` (for programs; it stays
as it is) and `requestId`. Times are RFC 3339 in UTC, on the database's clock. An address that
leads nowhere is `404 route_not_found`, a method that it does not take `405 method_not_allowed`."""

# What may stand in a path, in the headers of a request, and in those of an answer.
PATHS: dict[str, Shape] = {
    "event_id": {**TEXT, "pattern": pattern(names.EVENT_ID)},
    "key_id": {**TEXT, "pattern": pattern(KEY_ID)},
    "reservation_id": {**TEXT, "format": "uuid"},
}
TAKEN: dict[str, Shape] = {
    "Idempotency-Key": {
        "description": "The partner's own choice, one per order: it makes a retry safe.",
        "schema": {
            **TEXT,
            "maxLength": limits.IDEMPOTENCY_KEY_LENGTH,
            "pattern": '^(?!""$)[!-~]([ -~]*[!-~])?$',
        },
    },
    "If-Match": {
        "description": "Only if this is the version: its entity tag, some, or `*` for any.",
        "schema": {**TEXT, "format": "if-match"},
    },
    "If-None-Match": {
        "description": "Only if the version is another than this: its entity tag.",
        "schema": TEXT,
    },
    "X-Request-Id": {
        "description": "What to call the request in its answer and in the log:"
        " 1 to 64 of `A-Z a-z 0-9 . _ -`; any other is replaced.",
        "schema": TEXT,
    },
}
SENT: dict[str, Shape] = {
    "Allow": {"description": "The methods that the address takes.", "schema": TEXT},
    "ETag": {"description": "The entity tag of this version.", "schema": TEXT},
    "Idempotent-Replayed": {
        "description": "There where an earlier request with this key made the reservation.",
        "schema": {**TEXT, "const": "true"},
    },
    "Location": {
        "description": "The address of what was made.",
        "schema": {**TEXT, "format": "uri-reference"},
    },
    "Retry-After": {"description": "How many seconds to wait.", "schema": NUMBER},
    "WWW-Authenticate": {"description": "How to say who calls.", "schema": TEXT},
    "X-Request-Id": {"description": "What the log calls the request.", "schema": TEXT},
}
SENT_WITH = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}

# What any call may be refused for, by status; what one of the API, and one that has
# a body.
ANY = (400, 408, 414, 417, 431, 500, 501)
OF_THE_API = (401, 403, 429, 503)
OF_A_BODY = (413, 415)
SHARED = (*ANY, *OF_THE_API, *OF_A_BODY, 405, 424)


@blueprint.get("/openapi.json")
def show():
    """Describe all calls, in OpenAPI 3.1."""
    return unchanging(_document(current_app.url_map), "application/json")


@cache
def _document(routes: Map) -> str:
    paths: dict[str, Shape] = {}
    for rule in sorted(routes.iter_rules(), key=lambda rule: list(CALLS).index(rule.endpoint)):
        (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        paths.setdefault(_address(rule), {})[method.lower()] = _operation(rule, method)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "TicketBoss", "version": RELEASE, "description": DESCRIPTION},
        # Where this document is, behind whatever prefix.
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {**_schemas(), **_errors()},
            "responses": {
                f"Refused{status}": _refused([r for r in REFUSALS if r.status == status])
                for status in sorted(SHARED)
            },
            "headers": SENT,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(document, ensure_ascii=False)


# --- Calls -------------------------------------------------------------------------


def _address(rule: Rule) -> str:
    """Return `/events/<event_id>` as `/events/{eventId}`."""
    return re.sub("<(.*?)>", lambda match: f"{{{camel_case(match[1])}}}", rule.rule)


def _operation(rule: Rule, method: str) -> Shape:
    call = CALLS[rule.endpoint]
    examples = [each for each in EXAMPLES if each["call"] == f"{method} {_address(rule)}"]
    of_the_api = rule.rule.startswith("/api/v1/") and rule.endpoint != "health.health"
    takes_key = of_the_api or rule.endpoint == "scrape.show"
    shared = (
        *ANY,
        *(OF_THE_API if takes_key else ()),
        *(OF_A_BODY if call.body else ()),
    )
    responses = {status: _reference("responses", f"Refused{status}") for status in shared}
    for status, codes in call.refusals.items():
        known = {each.code: each for each in REFUSALS if each.status == status}
        responses[status] = _refused([known[code] for code in codes.split()])
    responses |= _good(call, examples)
    made: Shape = {
        "operationId": camel_case(rule.endpoint.replace(".", "_")),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": str(current_app.view_functions[rule.endpoint].__doc__).partition("\n")[0],
        "parameters": _parameters(rule, call, examples),
        "responses": {str(status): responses[status] for status in sorted(responses)},
        # Whether a call that is no admin's needs a key is for AUTH to say.
        "security": [{"key": []}] if call.admin else [{}, {"key": []}] if takes_key else [],
    }
    if call.body is not None:
        content = {"schema": reference(call.body), **_shown(examples, lambda each: each["body"])}
        required = call.body is not reservations.NO_MEMBERS
        made["requestBody"] = {"required": required, "content": {"application/json": content}}
    return made


def _parameters(rule: Rule, call: Call, examples: list[Shape]) -> list[Shape]:
    made: list[Shape] = [
        {"name": camel_case(key), "in": "path", "required": True, "schema": PATHS[key]}
        for key in sorted(rule.arguments)
    ]
    query = shape(call.query) if call.query else {"properties": {}}
    for key, member in query["properties"].items():
        required = key in query.get("required", ())
        made.append({"name": key, "in": "query", "required": required, "schema": member})
    for key in (*call.takes, "X-Request-Id"):
        required = key == "If-Match" and 428 in call.refusals
        made.append({"name": key, "in": "header", "required": required, **TAKEN[key]})
    for each in made:
        place, key = each["in"], each["name"]
        each |= _shown(examples, lambda example, place=place, key=key: example[place][key])
    return made


def _good(call: Call, examples: list[Shape]) -> dict[int, Shape]:
    """Return the responses that are no refusal."""
    headers = {key: _reference("headers", key) for key in ("X-Request-Id", *call.sends)}
    content = {"schema": call.answer, **_shown(examples, lambda each: each["answer"])}
    good: Shape = {"description": "As it was asked for.", "headers": headers}
    made = {status: dict(good) for status in call.statuses}
    if call.answer is not None:
        made[call.statuses[0]]["content"] = {call.media: content}
        for status in call.statuses[1:]:
            made[status]["content"] = {call.media: {"schema": call.answer}}
    if "If-None-Match" in call.takes:
        made[304] = {"description": "As it was.", "headers": headers}
    return made


def _shown(examples: list[Shape], part) -> Shape:
    """Return a part of some examples, of those that have it, as OpenAPI has examples."""
    found = {}
    for example in examples:
        try:
            found[example["title"]] = {"value": part(example)}
        except KeyError:
            continue
    return {"examples": found} if found else {}


def _reference(kind: str, key: str) -> Shape:
    return {"$ref": f"#/components/{kind}/{key}"}


# --- Errors ------------------------------------------------------------------------


def _refused(met: list[Refusal]) -> Shape:
    """Return the response that any of some errors of one status is."""
    kinds = [_reference("schemas", _kind(each)) for each in met]
    told = [f"`{each.code}`: {each.when}. What to do: {each.remedy}." for each in met]
    headers = ("X-Request-Id", *SENT_WITH.get(met[0].status, ()))
    schema = kinds[0] if len(kinds) == 1 else {"oneOf": kinds}
    return {
        "description": "\n\n".join(told),
        "headers": {key: _reference("headers", key) for key in headers},
        "content": {"application/json": {"schema": schema}},
    }


def _kind(refusal: Refusal) -> str:
    """Return `sold_out` as `SoldOut`."""
    return refusal.code.title().replace("_", "")


def _errors() -> dict[str, Shape]:
    """Return what each error looks like; one with two statuses looks the same with both."""
    return {
        _kind(refusal): {
            "type": "object",
            "properties": {
                "error": TEXT,
                "code": {**TEXT, "const": refusal.code},
                **{camel_case(each): _told(each) for each in refusal.members},
                "requestId": TEXT,
            },
            "required": ["error", "code", "requestId"],
        }
        for refusal in REFUSALS
    }


def _told(member: str) -> Shape:
    """Return what a member of an error looks like; most are numbers."""
    if member.endswith("_at"):
        return {**TEXT, "format": "date-time"}
    sentences = {"type": "array", "items": TEXT}
    fields = {"type": "object", "additionalProperties": sentences}
    return {"fields": fields, "items": BATCH_ITEMS, "cap": TEXT}.get(member, NUMBER)


# --- Schemas -----------------------------------------------------------------------


def _schemas() -> dict[str, Shape]:
    known: list[schemas.Schema] = [call.body for call in CALLS.values() if call.body]
    known += [events.EVENT, events.RESERVATION, events.CHANGE, allotments.ALLOTMENT, keys.KEY]
    made = {name(each): shape(each) for each in (*known, schemas.EventMembersAnswer())}
    made[name(events.EDIT)]["minProperties"] = 1
    for op, schema in batches.OPERATIONS.items():
        operation = made[f"{op.title()}Operation"] = shape(schema)
        operation["properties"]["op"] = {**TEXT, "const": op}
        operation["required"] = ["op", *operation["required"]]
    made[name(batches.BATCH)]["properties"]["operations"]["items"] = {
        "oneOf": [_reference("schemas", f"{op.title()}Operation") for op in batches.OPERATIONS]
    }
    new_key = shape(keys.KEY)
    new_key["properties"]["key"] = TEXT
    new_key["required"].append("key")
    return {**made, "NewKey": new_key, "BatchItem": _item()}


def _item() -> Shape:
    """Return an item of a batch's answer: what the single call would have answered."""
    members = dict.fromkeys(m for each in REFUSALS for m in each.members if m != "items")
    reservation = shape(batches.RESERVATION)["properties"]
    properties = {
        "error": TEXT,
        "code": TEXT,
        **{camel_case(each): _told(each) for each in members},
        **reservation,
        "etag": TEXT,
        "location": TEXT,
        "idempotentReplayed": {"type": "boolean"},
        "retryAfter": NUMBER,
        "reservationStatus": reservation["status"],
        "status": NUMBER,
    }
    return {"type": "object", "properties": properties, "required": ["status"]}
