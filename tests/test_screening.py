"""Before its call every request is asked: its address, its headers, where it comes from."""

import contextlib
from uuid import uuid4

import pytest
from serving import ADMIN
from test_bad_input import assert_refused, send

EVENTS = "/api/v1/events"
RESERVATIONS = "/api/v1/reservations"
EVENT = EVENTS + "/node-meetup-2025"
BODY = {"partnerId": "abc-corp", "seats": 3}


@pytest.fixture
def http(server):
    with contextlib.closing(server.client()) as client:
        yield client


@pytest.fixture
def version(sql):
    return lambda: sql("SELECT version FROM events WHERE event_id = 'node-meetup-2025'")[0][0]


# --- A slash at the end -------------------------------------------------------------


def test_an_address_with_a_slash_at_its_end_is_the_same_address(http, sql, verify):
    made = http.post(RESERVATIONS + "/", BODY)
    place = made.headers["Location"]
    assert (made.status, place) == (201, f"{RESERVATIONS}/{made.json['reservationId']}")
    for address in ("/livez", "/api/v1/health", RESERVATIONS, EVENTS, EVENT, place):
        assert http.get(address + "/").json == http.get(address).json
    for address in (EVENT + "/reservations", EVENT + "/changes"):
        assert http.get(address + "/?limit=1").json == http.get(address + "?limit=1").json
    assert http.patch(place + "/", {"seats": 2}).json["seats"] == 2
    assert http.delete(place + "/").status == 204
    assert http.delete(place + "/").json["code"] == "already_cancelled"
    held = http.post(EVENT + "/reservations/", {**BODY, "holdSeconds": 60}).headers["Location"]
    assert http.post(held + "/extend/", {"holdSeconds": 90}).status == 200
    assert http.post(held + "/confirm/").json["status"] == "confirmed"
    event = {"eventId": "concert", "name": "A Concert", "totalSeats": 5}
    assert http.call("POST", EVENTS + "/", event, ADMIN).status == 201
    edit = {**ADMIN, "If-Match": "*"}
    assert http.call("PATCH", EVENTS + "/concert/", {"name": "B"}, edit).status == 200
    assert verify()[0] == 0


@pytest.mark.parametrize("path", ["/nowhere/", "/api/v1/", RESERVATIONS + "/x/seats/"])
def test_a_slash_makes_no_address_of_what_is_none(http, path):
    assert_refused(http.get(path), 404, "route_not_found")


def test_a_method_that_is_not_allowed_is_not_allowed_with_a_slash_either(http):
    refused = http.call("PUT", RESERVATIONS + "/", BODY)
    assert_refused(refused, 405, "method_not_allowed")
    assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


# --- Other spellings ----------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "//api/v1/events",
        "/api//v1/events",
        "/api/v1/events//",
        "/api/v1//events/node-meetup-2025",
        "///livez",
        "/api%2Fv1/events",
        "/api%2fv1/events",
        "/%2Fapi/v1/events",
        "/api/v1/events%2F",
        "/api/v1/events/node-meetup-2025%2Fchanges",
        "/api/v1/reservations/a%2Fb",
        "/..%2f..%2fetc%2fpasswd",
        "/%61pi/v1/events",
        "/api/v%31/events",
        "/api/v1/%65vents",
        "/api/v1/events/node-meetup-2025/change%73",
        "/api/v1/events/node-meetup-2025/%63hanges?limit=1",
        "/livez%23",
        "/%6c%69vez/",
        "/api/v1/events#x",
        "/api/v1/events#",
        "/api/v1/events?limit=1#x",
        "#/api/v1/events",
        "http://somewhere//api/v1/events",
        "http://somewhere/%61pi/v1/events",
    ],
)
def test_an_address_in_another_spelling_is_refused_whatever_it_would_reach(server, target):
    answer = send(server, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    if target in ("#/api/v1/events", "/livez%23"):
        assert answer.status in (400, 404)
    else:
        assert_refused(answer, 400, "invalid_request")


def test_no_other_spelling_cancels_anything(server, http, version):
    place = http.post(RESERVATIONS, BODY).headers["Location"]
    for target in ("/" + place, place.replace("v1/", "v1%2f"), place.replace("api", "%61pi")):
        request = f"DELETE {target} HTTP/1.1\r\nHost: x\r\n\r\n"
        assert_refused(send(server, request.encode()), 400, "invalid_request")
    assert version() == 1


@pytest.mark.parametrize(
    "target", ["http://somewhere/livez", "HTTP://somewhere:8080/livez/", "/livez?a=//&b=%2F%61"]
)
def test_the_absolute_form_and_any_query_are_no_other_spelling(server, target):
    answer = send(server, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (answer.status, answer.json["status"]) == (200, "ok")


# --- Headers that occur twice ---------------------------------------------------------


def twice(name, first, second, method="POST", path=RESERVATIONS):
    body = b'{"partnerId": "abc-corp", "seats": 3}'
    lines = {"Host": "x", "Content-Type": "application/json", "Content-Length": len(body)}
    lines.pop(name, None)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    head += f"{name}: {first}\r\n{name.lower()}: {second}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("Idempotency-Key", "order-7", "order-7"),
        ("Idempotency-Key", "order-7", "order-8"),
        ("Idempotency-Key", "order-7", ""),
        ("Content-Type", "application/json", "application/json"),
        ("Content-Type", "text/plain", "application/json"),
        ("Content-Type", "application/json", "text/plain"),
        ("Authorization", "Bearer a", "Bearer a"),
        ("Authorization", "Bearer a", ADMIN["authorization"]),
    ],
)
def test_a_header_that_may_occur_once_and_occurs_twice_is_refused(
    server, version, name, first, second
):
    answer = send(server, twice(name, first, second))
    assert_refused(answer, 400, "invalid_request")
    if name != "Content-Type":  # which gunicorn's own parser refuses
        assert answer.json["error"] == f"{name} occurs more than once"
    assert version() == 0


def test_a_retry_that_carries_its_key_twice_makes_no_second_reservation(server, http, version):
    assert http.post(RESERVATIONS, BODY, idempotency_key="order-7").status == 201
    assert send(server, twice("Idempotency-Key", "order-7", "order-7")).status == 400
    assert http.post(RESERVATIONS, BODY, idempotency_key="order-7,order-7").status == 201
    assert version() == 2  # a comma may be in a key


def test_a_header_that_is_a_list_may_occur_twice(server, version):
    assert send(server, twice("If-Match", '"7"', '"0"')).status == 201
    assert version() == 1


# --- Pages of other sites -------------------------------------------------------------


ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "http://elsewhere.example:8080"},
    {"Origin": "http://127.0.0.1.elsewhere.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "file://"},
    {"Origin": "http://["},
    {"Origin": "null", "Host": "["},
]
HERE = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "https://Sales.Example", "Host": "sales.example:8443"},
    {"Origin": "http://[::1]:8080", "Host": "[::1]:8080"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_a_page_of_another_site_changes_nothing(http, version, headers):
    held = http.post(RESERVATIONS, {**BODY, "holdSeconds": 60}).headers["Location"]
    for method, path, body in [
        ("POST", held + "/confirm", None),
        ("POST", held + "/extend", {"holdSeconds": 90}),
        ("PATCH", held, {"seats": 1}),
        ("DELETE", held, None),
        ("POST", RESERVATIONS, BODY),
        ("POST", EVENT + "/reservations", BODY),
        ("POST", EVENTS, {"eventId": "concert", "name": "A Concert", "totalSeats": 5}),
        ("PATCH", EVENT, {"name": "B"}),
    ]:
        refused = http.call(method, path, body, {**ADMIN, "If-Match": "*", **headers})
        assert_refused(refused, 403, "cross_site")
        assert "Access-Control-Allow-Origin" not in refused.headers
    assert version() == 1


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_a_page_of_another_site_may_ask_and_learns_nothing(http, headers):
    for method in ("GET", "OPTIONS"):
        answer = http.call(method, EVENT, headers=headers)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("headers", HERE, ids=str)
def test_whoever_is_no_page_of_another_site_is_served(http, headers):
    assert http.call("POST", RESERVATIONS, BODY, headers).status == 201


# --- What every answer says of itself --------------------------------------------------


def test_an_answer_with_data_is_kept_by_nobody_but_the_one_it_was_for(http):
    made = http.post(RESERVATIONS, BODY)
    place = made.headers["Location"]
    tagged = [made, *map(http.get, (RESERVATIONS, EVENT, EVENTS, place, EVENT + "/changes"))]
    tagged.append(http.get(EVENT, if_none_match='"1"'))
    assert tagged[-1].status == 304
    assert all(answer.headers["ETag"] for answer in tagged)
    others = [*map(http.get, (EVENT + "/reservations", "/nowhere", "/livez"))]
    others += [
        http.get(f"{RESERVATIONS}/{uuid4()}"),
        http.post(RESERVATIONS, {}),
        http.delete(place),
    ]
    assert {a.headers["Cache-Control"] for a in tagged} == {"private, no-cache"}
    assert {a.headers["Cache-Control"] for a in others} == {"no-store"}
    assert {a.headers["X-Content-Type-Options"] for a in tagged + others} == {"nosniff"}
