"""Whatever a client sends, to whatever address: no 500, a true error body, nothing changed."""

import contextlib
import json
import logging
import re
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import strategies as st
from serving import ADMIN, connect

SETTINGS = settings(
    max_examples=80,  # of each address
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# Ids that exist, by the names that paths have for them, and ids that do not.
EVENTS = ("node-meetup-2025", "other", "nowhere", "%00", "%2e%2e", "a" * 65)
RESERVATIONS = ("held", "confirmed", "cancelled", "expired", "nobody's", "0", "%FF%00", "{}")
METHODS = ("GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PUT")
MEMBERS = ["partnerId", "seats", "holdSeconds", "eventId", "name", "totalSeats"]
MEMBERS += ["salesOpenAt", "salesCloseAt", "limit", "after", "status", "__proto__"]

# Stands for the body that an address takes.
RIGHT = object()
RIGHT_BODIES = {
    ("POST", "events"): b'{"eventId": "new", "name": "New", "totalSeats": 5}',
    ("PATCH", "<event_id>"): b'{"name": "Another"}',
    ("POST", "reservations"): b'{"partnerId": "abc", "seats": 1}',
    ("PATCH", "<reservation_id>"): b'{"seats": 1}',
    ("POST", "extend"): b'{"holdSeconds": 60}',
}

# What HTTP can carry in a header, and what partners may put into JSON.
latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
version = st.integers(-2, 30) | st.integers()
tags = st.one_of(
    latin,
    version.map(lambda n: f'"{n}"'),
    st.sampled_from(["*", "", '"', 'W/"1"', '"1", "2"', '"²"', '"' + "9" * 5000 + '"', ",,,"]),
)
# Lone surrogates, too: JSON can write what UTF-8 cannot.
texts = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["abc", "", " ", "\ud800", "\0", "x" * 300, "2025-11-01T15:00:00Z", "9999-12-31T23:59:59-23:59"]
)
numbers = st.integers(-1, 12) | st.integers() | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda some: st.lists(some, max_size=3) | st.dictionaries(texts, some, max_size=3)
)
meant_well = st.fixed_dictionaries(
    {},
    optional={
        "partnerId": st.just("abc") | values,
        "seats": st.integers(1, 3) | values,
        "holdSeconds": st.integers(1, 3600) | values,
        "eventId": st.just("new") | values,
        "name": st.just("New") | values,
        "totalSeats": st.integers(0, 50) | values,
        "salesOpenAt": st.just("2025-11-01T15:00:00Z") | values,
        "salesCloseAt": st.just("2080-11-01T15:00:00+14:00") | values,
    },
)
documents = st.one_of(meant_well, st.dictionaries(st.sampled_from(MEMBERS), values), values)
bodies = st.one_of(
    documents.map(lambda value: json.dumps(value).encode()),
    st.just(RIGHT),
    st.just(RIGHT),
    st.none(),
    st.binary(max_size=50),
    st.tuples(documents, st.integers(1, 20)).map(
        lambda cut: json.dumps(cut[0]).encode()[: -cut[1]]
    ),
    st.sampled_from(
        [
            b"[" * 5000,
            b'{"seats": ' * 2000,
            b'{"seats": ' + b"9" * 5000 + b"}",
            b'{"seats": 1e400}',
            b'{"seats": 1, "seats": 1}',
            b"\xef\xbb\xbf{}",
            '{"seats": 1}'.encode("utf-16"),
            b" " * (16 * 1024 + 1),
        ]
    ),
)
types = st.sampled_from(
    ["application/json"] * 8
    + ["application/json; charset=utf-16", "application/json; charset", "text/plain", "", ";=;"]
)
queries = st.one_of(
    st.just(""),
    st.lists(st.tuples(st.sampled_from(MEMBERS), texts | version.map(str)), max_size=3).map(
        lambda pairs: "&".join(f"{k}={quote(v, errors='surrogatepass')}" for k, v in pairs)
    ),
    # The server itself refuses what is not ASCII.
    st.text(st.characters(max_codepoint=126, exclude_characters="\r\n\0"), max_size=30),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "If-Match": tags,
        "If-None-Match": tags,
        "Idempotency-Key": latin | st.sampled_from(["a", "", "x" * 256]),
        "X-Request-Id": latin | st.sampled_from(["mine", "x" * 65]),
        "Authorization": latin | st.just(ADMIN["authorization"]) | st.just(ADMIN["authorization"]),
        "Content-Encoding": st.sampled_from(["gzip", "identity"]),
        "Accept": latin,
    },
)


@pytest.fixture(autouse=True)
def _leave_little(tmp_path):
    """Leave no folder of Hypothesis behind, and out of the log what would bury a failure."""
    configuration.set_hypothesis_home_dir(tmp_path)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def test_no_request_is_a_500_and_no_refusal_changes_anything(application, dsn):
    client = application.test_client()
    routes = sorted({rule.rule for rule in application.url_map.iter_rules()})
    ids = {}
    statuses = set()

    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:

        def begin() -> None:
            cursor.execute("TRUNCATE events, reservations, ledger")
            for event_id in EVENTS[:2]:
                event = {"eventId": event_id, "name": "An event", "totalSeats": 10}
                assert client.post("/api/v1/events", json=event, headers=ADMIN).status_code == 201
            for name in RESERVATIONS[:4]:
                asked = {"partnerId": "abc", "seats": 2}
                if name in ("held", "expired"):
                    asked["holdSeconds"] = 600
                made = client.post("/api/v1/reservations", json=asked)
                ids[name] = made.json["reservationId"]
            client.delete(f"/api/v1/reservations/{ids['cancelled']}")
            cursor.execute(
                "UPDATE reservations SET expires_at = now() WHERE reservation_id = %s",
                (ids["expired"],),
            )
            client.get("/api/v1/reservations")  # settles it
            ids["nobody's"] = "01900000-0000-7000-8000-000000000000"

        def everything() -> list[tuple]:
            cursor.execute("SELECT event_id, version, events::text FROM events ORDER BY event_id")
            rows = cursor.fetchall()
            cursor.execute("SELECT count(*), sum(version), max(status) FROM reservations")
            rows += cursor.fetchall()
            cursor.execute("SELECT count(*) FROM ledger")
            return rows + cursor.fetchall()

        @SETTINGS
        @given(
            method=st.sampled_from(METHODS[:4] * 3 + METHODS),
            event_id=st.sampled_from(EVENTS[:2] * 3 + EVENTS)
            | texts.map(lambda text: quote(text, "", errors="replace")),
            reservation=st.sampled_from(RESERVATIONS[:1] * 8 + RESERVATIONS),
            query=queries,
            body=bodies,
            content_type=types,
            headers=headers,
        )
        def send(route, method, event_id, reservation, query, body, content_type, headers):
            path = route.replace("<event_id>", event_id)
            path = path.replace("<reservation_id>", ids.get(reservation, reservation))
            if body is RIGHT:
                body = RIGHT_BODIES.get((method, route.rpartition("/")[2]))
            before = everything()
            answer = client.open(
                path,
                method=method,
                data=body,
                content_type=content_type,
                headers=headers,
                environ_overrides={"QUERY_STRING": query},
            )
            statuses.add(answer.status_code)
            assert answer.status_code < 500
            request_id = answer.headers["X-Request-Id"]
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", request_id)
            if answer.status_code >= 400:
                assert everything() == before
                if method != "HEAD":
                    assert answer.json["error"].strip()
                    assert re.fullmatch(r"[a-z_]+", answer.json["code"])
                    assert answer.json["requestId"] == request_id
            if answer.status_code == 405:
                assert method not in answer.headers["Allow"].split(", ")
            if everything() != before:
                assert method in ("POST", "PATCH", "DELETE")
                begin()  # so that every example starts from the same

        begin()
        for route in routes:
            statuses.clear()
            send(route)
            assert min(statuses) < 300, f"nothing got through to {route}"
            assert max(statuses) >= 400, f"nothing wrong came to {route}"
