"""Who may see and change what: every route, for every kind of caller, and every kind of thing."""

import base64
import json
import re
from dataclasses import dataclass
from uuid import uuid4

import pytest
from serving import ADMIN_KEY
from test_documents import bare, table

from ticketboss import logs
from ticketboss.rules.keys import new

EVENT = "node-meetup-2025"
OURS, THEIRS = "abc-corp", "xyz-inc"

# --- Every route ------------------------------------------------------------------


@dataclass
class Things:
    """What one partner has, or nobody: a name, a reservation, a key's public id."""

    partner_id: str
    reservation_id: str
    key_id: str

    @property
    def cursor(self) -> str:
        return base64.urlsafe_b64encode(self.reservation_id.encode()).decode().rstrip("=")

    @property
    def key_cursor(self) -> str:
        return base64.urlsafe_b64encode(self.key_id.encode()).decode().rstrip("=")


RESERVATION = "/api/v1/reservations/<reservation_id>"
LIST = "/api/v1/events/<event_id>/reservations"
ALLOTMENTS = "/api/v1/events/<event_id>/allotments"
KEYS = "/api/v1/keys"

# How each route is called about somebody's things, where it can be. What may come back
# is the table of docs/access.md, by the names of these.
CALLS = {
    "GET /api/v1/health": lambda it: {},
    "GET /livez": lambda it: {},
    "GET /metrics": lambda it: {},
    "GET /": lambda it: {},
    "GET /docs": lambda it: {},
    "GET /openapi.json": lambda it: {},
    "GET /api/v1/reservations": lambda it: {},
    "POST /api/v1/reservations": lambda it: {"json": {"partnerId": it.partner_id, "seats": 1}},
    f"GET {RESERVATION}": lambda it: {},
    f"PATCH {RESERVATION}": lambda it: {"json": {"seats": 1}},
    f"DELETE {RESERVATION}": lambda it: {},
    f"POST {RESERVATION}/confirm": lambda it: {},
    f"POST {RESERVATION}/extend": lambda it: {"json": {"holdSeconds": 60}},
    "GET /api/v1/events": lambda it: {},
    "POST /api/v1/events": lambda it: {
        "json": {"eventId": uuid4().hex, "name": "New", "totalSeats": 1}
    },
    "GET /api/v1/events/<event_id>": lambda it: {},
    "PATCH /api/v1/events/<event_id>": lambda it: {
        "json": {"name": "Other"},
        "headers": {"If-Match": "*"},
    },
    "GET /api/v1/events/<event_id>/changes": lambda it: {},
    f"GET {LIST}": lambda it: {"query_string": {"partnerId": it.partner_id}},
    f"GET {LIST}?after=": lambda it: {"query_string": {"after": it.cursor}},
    f"POST {LIST}": lambda it: {"json": {"partnerId": it.partner_id, "seats": 1}},
    f"GET {ALLOTMENTS}": lambda it: {"query_string": {"partnerId": it.partner_id}},
    f"PUT {ALLOTMENTS}": lambda it: {"json": {"partnerId": it.partner_id, "seats": 1}},
    f"DELETE {ALLOTMENTS}": lambda it: {"query_string": {"partnerId": it.partner_id}},
    "POST /api/v1/batch": lambda it: {
        "json": {
            "operations": [
                {"op": "reduce", "reservationId": it.reservation_id, "seats": 1},
                {"op": "extend", "reservationId": it.reservation_id, "holdSeconds": 60},
            ]
        }
    },
    f"GET {KEYS}": lambda it: {"query_string": {"partnerId": it.partner_id}},
    f"GET {KEYS}?after=": lambda it: {"query_string": {"after": it.key_cursor}},
    f"POST {KEYS}": lambda it: {"json": {"partnerId": it.partner_id}},
    f"DELETE {KEYS}/<key_id>": lambda it: {},
}


# What an admin is told of a thing that is not there, by how a call names it.
NO_SUCH_THING = {"reservation_id": "404", "batch": "404", "key_id": "404", "after": "400"}


def test_no_route_is_missing(keyed):
    routes = {
        f"{method} {rule.rule}"
        for rule in keyed.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert {name.partition("?")[0] for name in CALLS} == routes


class World:
    """Two partners with a hold each, keys of every kind, and what nobody has."""

    def __init__(self, call, create_key, sql):
        self._call, self._sql = call, sql
        self.ours, self.theirs, revoked = create_key(OURS), create_key(THEIRS), create_key(OURS)
        assert call("DELETE", f"{KEYS}/{revoked[3:15]}", ADMIN_KEY).status_code == 204
        self.keys = {
            "no key": None,
            "malformed": self.ours[:-1] + ("0" if self.ours[-1] != "0" else "1"),
            "wrong": new()[1],
            "revoked": revoked,
            "ours": self.ours,
            "theirs": self.theirs,
            "admin": ADMIN_KEY,
        }
        self.renew()

    def renew(self) -> None:
        """Make the holds anew, and what nobody has."""
        live = [self.ours[3:15], self.theirs[3:15]]
        self._sql("UPDATE keys SET revoked_at = NULL WHERE key_id = ANY (%s)", [live])
        self.things = {
            "ours": self._things(OURS, self.ours),
            "theirs": self._things(THEIRS, self.theirs),
            "nobody's": Things("nobody", str(uuid4()), new()[0]),
        }

    def _things(self, partner_id: str, key: str) -> Things:
        body = {"seats": 2, "holdSeconds": 600}
        made = self._call("POST", "/api/v1/reservations", key, json=body)
        return Things(partner_id, made.json["reservationId"], key[3:15])


@pytest.fixture
def world(call, create_key, sql):
    return World(call, create_key, sql)


def content(answer) -> tuple:
    """Return all of an answer that is not of this one request."""
    head = {name: value for name, value in answer.headers if name != "X-Request-Id"}
    body = answer.get_data(as_text=True)
    return answer.status_code, head, re.sub(r'"requestId": ?"[^"]+"', "", body)


def statuses(answer) -> set[str]:
    """Return the status of an answer, or those that it has for the operations of a batch."""
    items = (answer.json or {}).get("items", []) if answer.is_json else []
    found = {str(item["status"]) for item in items if isinstance(item.get("status"), int)}
    return found or {str(answer.status_code)}


ACCESS = ("call", "no live key", "own", "another's", "admin")


def rows() -> dict[str, list[str]]:
    """Return the statuses that docs/access.md tells, by the names of CALLS."""
    camel = re.compile(r"\{([a-z]+)([A-Z])([a-z]+)\}")
    found = {}
    for name, *cells in table(*ACCESS):
        plain = camel.sub(lambda m: f"<{m[1]}_{m[2].lower()}{m[3]}>", bare(name))
        found[plain] = [bare(cell) for cell in cells]
    return found


def test_the_table_that_partners_read_has_every_call():
    assert set(rows()) == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_caller_gets_what_the_table_says(name, world, call, statements):
    nobody, own, anothers, admin = rows()[name]
    method, path = name.partition("?")[0].split(" ")
    answers, asked = {}, {}
    for caller, key in world.keys.items():
        for whose, thing in world.things.items():
            expected = {"admin": admin, "ours": anothers, "theirs": anothers}.get(caller, nobody)
            if caller == whose:
                expected = own
            elif (caller, whose) == ("admin", "nobody's"):
                named = re.search(r"reservation_id|batch|key_id|after|$", name)[0]
                expected = NO_SUCH_THING.get(named, admin)
            filled = (
                path.replace("<reservation_id>", thing.reservation_id)
                .replace("<key_id>", thing.key_id)
                .replace("<event_id>", EVENT)
            )
            del statements[:]
            answer = call(method, filled, key, **CALLS[name](thing))
            about = f"{caller}, about what is {whose}: {answer.status_code} {answer.text}"
            assert statuses(answer) == {expected}, about
            answers[caller, whose] = content(answer)
            asked[caller, whose] = list(statements)
            if answer.status_code == 401:
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            if method != "GET" and answer.status_code < 300:
                world.renew()
    # What is somebody else's and what is nobody's cannot be told apart.
    if own != anothers:
        for caller, other in (("ours", "theirs"), ("theirs", "ours")):
            assert answers[caller, other] == answers[caller, "nobody's"]
            assert asked[caller, other] == asked[caller, "nobody's"]
    # Without a live key nothing can be learnt, and nothing is asked.
    for caller in ("no key", "malformed", "wrong", "revoked"):
        assert len({str(answers[caller, whose]) for whose in world.things}) == 1


# --- What the table cannot say ------------------------------------------------------


def test_a_key_speaks_for_its_partner_whether_it_names_it_or_not(call, create_key):
    key = create_key(OURS)
    for body in ({"seats": 1}, {"seats": 1, "partnerId": OURS}):
        made = call("POST", "/api/v1/reservations", key, json=body)
        assert (made.status_code, made.json["partnerId"]) == (201, OURS)


def test_an_admin_key_has_to_name_whom_it_speaks_for(call, create_key):
    for key in (ADMIN_KEY, create_key()):
        refused = call("POST", "/api/v1/reservations", key, json={"seats": 1})
        assert (refused.status_code, refused.json["error"]) == (400, "partnerId is missing")


def test_a_list_shows_a_partner_its_own_whatever_it_asks_for(world, call):
    own = world.things["ours"].reservation_id
    for query in ({}, {"partnerId": OURS}, {"status": "held"}, {"limit": 1}):
        listed = call("GET", f"/api/v1/events/{EVENT}/reservations", world.ours, query_string=query)
        assert [item["reservationId"] for item in listed.json["items"]] == [own]
        assert listed.json["next"] is None


def test_the_feed_has_every_version_and_number_and_names_only_ones_own(world, call):
    feed = f"/api/v1/events/{EVENT}/changes"
    edit = {"json": {"name": "Other"}, "headers": {"If-Match": "*"}}
    assert call("PATCH", f"/api/v1/events/{EVENT}", ADMIN_KEY, **edit).status_code == 200
    whole = call("GET", feed, ADMIN_KEY).json
    assert {change["partnerId"] for change in whole["items"]} == {OURS, THEIRS, None}
    for partner, key in ((OURS, world.ours), (THEIRS, world.theirs)):
        seen = call("GET", feed, key).json
        for change in whole["items"]:
            if change["partnerId"] != partner:
                change = {**change, "partnerId": None, "reservationId": None, "actor": None}
            assert change in seen["items"]
        assert [change["version"] for change in seen["items"]] == list(range(1, seen["next"] + 1))
        assert seen["next"] == whole["next"]


def test_the_feed_tells_who_did_it_and_a_partner_only_of_its_own_keys(world, call):
    address = f"/api/v1/reservations/{world.things['ours'].reservation_id}"
    assert call("POST", address + "/confirm", world.ours).status_code == 200
    assert call("DELETE", address, ADMIN_KEY).status_code == 204
    batch = {"operations": [{"op": "reserve", "seats": 1}]}
    assert call("POST", "/api/v1/batch", world.theirs, json=batch).status_code == 200

    def actors(key: str) -> list:
        changes = call("GET", f"/api/v1/events/{EVENT}/changes", key).json["items"]
        return [change["actor"] for change in changes]

    ours, theirs = world.ours[3:15], world.theirs[3:15]
    assert actors(ADMIN_KEY) == [ours, theirs, ours, "admin", theirs]
    assert actors(world.ours) == [ours, None, ours, None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"method": "DELETE"},
        {"method": "DELETE", "headers": {"If-Match": '"1"'}},
        {"method": "PATCH", "json": {"seats": 1}},
        {"method": "POST", "path": "/confirm"},
        {"method": "POST", "path": "/extend", "json": {"holdSeconds": 60}},
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)
@pytest.mark.parametrize("status", ["held", "confirmed", "cancelled", "expired", "overdue"])
def test_whatever_anothers_reservation_is_nothing_tells_of_it(
    world, call, sql, statements, status, change
):
    stored = "held" if status == "overdue" else status
    ends = "now()" if status == "overdue" else "now() + interval '1 hour'"
    sql(
        f"UPDATE reservations SET status = %s, expires_at = {ends} WHERE partner_id = %s",
        [stored, THEIRS],
    )
    change = dict(change)
    method, rest = change.pop("method"), change.pop("path", "")
    told = []
    # The first of them settles the event, where it reads that.
    for name in ("nobody's", "theirs", "nobody's"):
        del statements[:]
        path = f"/api/v1/reservations/{world.things[name].reservation_id}{rest}"
        told.append((content(call(method, path, world.ours, **change)), list(statements)))
    assert told[1] == told[2]
    assert told[0][0][0] == 404


def test_the_same_idempotency_key_is_another_one_for_another_partner(world, call):
    ids = set()
    for key in (world.ours, world.theirs, world.ours):
        body, headers = {"seats": 1}, {"Idempotency-Key": "order-1"}
        made = call("POST", "/api/v1/reservations", key, json=body, headers=headers)
        assert made.status_code == 201
        ids.add(made.json["reservationId"])
    assert len(ids) == 2


def test_health_is_open_to_all_whatever_it_is_asked(call):
    assert call("GET", "/api/v1/health").status_code == 200
    refused = call("POST", "/api/v1/health")
    assert (refused.status_code, refused.json["code"]) == (405, "method_not_allowed")


def test_what_depends_on_the_key_says_so(world, call, client):
    for key in (world.ours, ADMIN_KEY, None):
        assert call("GET", "/api/v1/reservations", key).headers["Vary"] == "Authorization"
    assert "Vary" not in call("GET", "/api/v1/health").headers
    assert "Vary" not in client.get("/api/v1/reservations").headers  # open to all


def test_the_log_names_the_partner_who_asked_and_no_secret(world, call, capfd):
    theirs = world.things["theirs"].reservation_id
    logs.flush()
    capfd.readouterr()
    call("DELETE", f"/api/v1/reservations/{theirs}", world.ours)
    call("DELETE", f"{KEYS}/{world.theirs}", ADMIN_KEY)
    call("GET", "/api/v1/reservations", query_string={"key": world.theirs})
    logs.flush()
    logged = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line.get("partner") for line in logged] == [OURS, None, None]
    for key in world.keys.values():
        assert key is None or key[16:] not in str(logged)


def test_a_partner_sees_what_is_allotted_to_it_and_no_other_whom(call, create_key):
    ours, theirs = create_key(OURS), create_key(THEIRS)
    place = f"/api/v1/events/{EVENT}"
    body = {"partnerId": OURS, "seats": 5}
    assert call("PUT", f"{place}/allotments", ADMIN_KEY, json=body).status_code == 201
    drawn = call("POST", f"{place}/reservations", ours, json={"seats": 2}).json
    assert drawn["allotted"] is True
    shown = {key: call("GET", place, key).json for key in (ours, theirs, ADMIN_KEY)}
    assert {each["allottedSeats"] for each in shown.values()} == {3}
    assert [each.get("yourAllottedSeats", "left out") for each in shown.values()] == [
        *(3, "left out", "left out"),
    ]
    assert {
        key: call("GET", "/api/v1/events", key).json["items"] for key in (ours, theirs, ADMIN_KEY)
    } == {key: [each] for key, each in shown.items()}
    assert call("GET", f"{place}/allotments", theirs).json["items"] == []
    (mine,) = call("GET", f"{place}/allotments", ours).json["items"]
    assert (mine["seats"], mine["drawnSeats"]) == (5, 2)
    for key, names in ((ours, [OURS, OURS, OURS]), (theirs, [None] * 3)):
        items = call("GET", f"{place}/changes", key).json["items"]
        assert [item["type"] for item in items] == ["allotted", "allotted", "reserved"]
        assert [item["partnerId"] for item in items] == names
