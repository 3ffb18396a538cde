"""The headers of every route, over its whole way through gunicorn."""

import base64
import contextlib
import hashlib
import json
import re

import pytest
from serving import ADMIN
from test_conditions import eventually

KEPT = "private, no-cache"  # by its client alone, which asks whether it is still right
NEVER = "no-store"
FOR_ALL = "no-cache"

# Every call, in an order in which each works: its address, its body, and what it answers.
CALLS = {
    "GET /": ("/", None, 200, FOR_ALL),
    "GET /docs": ("/docs", None, 200, FOR_ALL),
    "GET /openapi.json": ("/openapi.json", None, 200, FOR_ALL),
    "GET /livez": ("/livez", None, 200, NEVER),
    "GET /metrics": ("/metrics", None, 200, NEVER),
    "GET /api/v1/health": ("/api/v1/health", None, 200, NEVER),
    "POST /api/v1/events": (
        "/api/v1/events",
        {"eventId": "gala", "name": "Gala", "totalSeats": 50},
        201,
        KEPT,
    ),
    "GET /api/v1/events": ("/api/v1/events", None, 200, KEPT),
    "GET /api/v1/events/<event_id>": ("/api/v1/events/gala", None, 200, KEPT),
    "PATCH /api/v1/events/<event_id>": ("/api/v1/events/gala", {"totalSeats": 60}, 200, KEPT),
    "POST /api/v1/events/<event_id>/reservations": (
        "/api/v1/events/gala/reservations",
        {"partnerId": "abc-corp", "seats": 4, "holdSeconds": 60},
        201,
        KEPT,
    ),
    "GET /api/v1/events/<event_id>/reservations": (
        "/api/v1/events/gala/reservations",
        None,
        200,
        NEVER,
    ),
    "GET /api/v1/events/<event_id>/changes": ("/api/v1/events/gala/changes", None, 200, KEPT),
    "PUT /api/v1/events/<event_id>/allotments": (
        "/api/v1/events/gala/allotments",
        {"partnerId": "abc-corp", "seats": 1},
        201,
        NEVER,
    ),
    "GET /api/v1/events/<event_id>/allotments": (
        "/api/v1/events/gala/allotments",
        None,
        200,
        NEVER,
    ),
    "DELETE /api/v1/events/<event_id>/allotments": (
        "/api/v1/events/gala/allotments?partnerId=abc-corp",
        None,
        204,
        NEVER,
    ),
    "GET /api/v1/reservations/<reservation_id>": ("{made}", None, 200, KEPT),
    "POST /api/v1/reservations/<reservation_id>/extend": (
        "{made}/extend",
        {"holdSeconds": 90},
        200,
        KEPT,
    ),
    "POST /api/v1/reservations/<reservation_id>/confirm": ("{made}/confirm", None, 200, KEPT),
    "PATCH /api/v1/reservations/<reservation_id>": ("{made}", {"seats": 3}, 200, KEPT),
    "DELETE /api/v1/reservations/<reservation_id>": ("{made}", None, 204, NEVER),
    "POST /api/v1/batch": (
        "/api/v1/batch",
        {"operations": [{"op": "reserve", "partnerId": "abc-corp", "seats": 1}]},
        200,
        NEVER,
    ),
    "GET /api/v1/reservations": ("/api/v1/reservations", None, 200, KEPT),
    "POST /api/v1/reservations": (
        "/api/v1/reservations",
        {"partnerId": "abc-corp", "seats": 3},
        201,
        KEPT,
    ),
    "GET /api/v1/keys": ("/api/v1/keys", None, 200, NEVER),
    "POST /api/v1/keys": ("/api/v1/keys", {"partnerId": "abc-corp"}, 201, NEVER),
    "DELETE /api/v1/keys/<key_id>": ("{made}", None, 204, NEVER),
}


def test_every_route_says_who_may_keep_its_answer_and_that_it_is_what_it_says(server):
    made = None
    with contextlib.closing(server.client()) as http:
        for call, (address, body, status, cache) in CALLS.items():
            address = address.format(made=made)
            method = call.partition(" ")[0]
            headers = ADMIN | ({"if-match": "*"} if method == "PATCH" else {})
            answer = http.call(method, address, body, headers)
            assert (answer.status, answer.headers["Cache-Control"]) == (status, cache), call
            check(answer)
            made = answer.headers["Location"] or made
            # The answer that nothing is new says the same.
            if tag := method == "GET" and answer.headers["ETag"]:
                unchanged = http.get(address, if_none_match=tag)
                assert (unchanged.status, unchanged.headers["Cache-Control"]) == (304, cache), call
                check(unchanged)


def check(answer):
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"]
    assert not re.search(r"[0-9]", answer.headers["Server"] or "")
    if answer.headers["Content-Type"] == "text/html; charset=utf-8":
        assert "'unsafe-" not in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_calls_above_are_those_of_the_url_map(application):
    routes = {
        f"{method} {rule.rule}"
        for rule in application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert set(CALLS) == routes


@pytest.mark.parametrize(
    "address", ["/nothing", "/api/v1/events/nothing", "/api/v1/events?limit=0"]
)
def test_an_error_is_kept_by_nobody(client, address):
    answer = client.get(address)
    assert answer.status_code in (400, 404)
    assert answer.headers["Cache-Control"] == NEVER
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        (TRACE, TRACE),
        (TRACE.upper(), None),
        (TRACE + "-more", None),
        (f"{TRACE},{TRACE}", None),
        (TRACE.replace("00-0", "ff-0"), None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", None),
        ("", None),
    ],
)
def test_a_traceparent_is_in_the_log_line_of_its_request_and_in_no_answer(server, given, logged):
    with contextlib.closing(server.client()) as http:
        answer = http.get("/livez", traceparent=given)
    assert TRACE not in f"{answer.headers}{answer.body}"

    def line():
        lines = [line for line in server.output().splitlines() if line.endswith("}")]
        return [
            parsed
            for parsed in map(json.loads, lines)
            if parsed.get("request_id") == answer.headers["X-Request-Id"]
        ]

    (found,) = eventually(line)
    assert found.get("traceparent") == logged


@pytest.mark.parametrize("page", ["/", "/docs"])
@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_of_a_page_names_its_script_and_its_style_by_their_digests(
    client, page, element
):
    answer = client.get(page)
    (text,) = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    sources = re.search(f"{element}-src ([^;]*)", answer.headers["Content-Security-Policy"])[1]
    assert sources == f"'sha256-{digest}'"
