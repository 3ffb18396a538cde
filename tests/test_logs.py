"""Each request leaves one line, with nothing in it that a client could forge or must hide."""

import contextlib
import json
import logging
import os
import re
import socket
import time
from datetime import datetime

import pytest

from ticketboss import logs

RESERVATIONS = "/api/v1/reservations"
# What a terminal or a log viewer takes for the end of a line or the start of a command.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
FORGERIES = [
    'a\n{"level": "error", "message": "forged"}',
    "a\r\nforged",
    "a\x1b[31mforged\x1b[0m",
    "a\x1b]0;forged\x07",
    "a\x00forged",
    "a\x85forged",
    "a\u2028forged",
    "a\x9b31mforged",
    "a\x08\x08forged",
    'a", "status": 200, "forged": "',
    "a\\nforged",
    "a\ud800forged",
]


@pytest.fixture
def logged(capsys):
    """Give a function that sets the format, and one that returns what was logged since."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def lines():
        return capsys.readouterr().out.splitlines(keepends=True)

    def configure(log_format):
        logs.configure(log_format)
        return lines

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)


def requests(lines):
    """Return the log lines of requests, parsed."""
    parsed = [json.loads(line) for line in lines]
    return [line for line in parsed if line["logger"] == "ticketboss.requests"]


# --- What is in a line ------------------------------------------------------------


def test_a_request_is_one_json_object_on_one_line(client, logged):
    lines = logged("json")
    client.get(RESERVATIONS, headers={"X-Request-Id": "my-id.1"})
    (line,) = lines()
    line = json.loads(line)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert 0 <= line.pop("ms") < 60_000
    assert line == {
        "level": "info",
        "logger": "ticketboss.requests",
        "message": "request",
        "request_id": "my-id.1",
        "method": "GET",
        "path": RESERVATIONS,
        "status": 200,
    }


def test_every_request_has_its_status_and_its_partner(client, logged):
    lines = logged("json")
    made = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 3})
    client.get(made.location)
    client.delete(made.location)
    client.delete(made.location)
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 0})
    client.get("/nowhere")
    client.put(RESERVATIONS)
    found = [
        (line["method"], line["path"], line["status"], line.get("partner"))
        for line in requests(lines())
    ]
    assert found == [
        ("POST", RESERVATIONS, 201, "abc-corp"),
        ("GET", made.location, 200, "abc-corp"),
        ("DELETE", made.location, 204, "abc-corp"),
        ("DELETE", made.location, 404, "abc-corp"),
        ("POST", RESERVATIONS, 400, None),
        ("GET", "/nowhere", 404, None),
        ("PUT", RESERVATIONS, 405, None),
    ]


def test_the_id_of_an_answer_is_the_id_of_its_line(client, logged):
    lines = logged("json")
    answers = [client.get(RESERVATIONS), client.get("/nowhere"), client.get("/livez")]
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    assert [line["request_id"] for line in requests(lines())] == ids


def test_readable_lines_say_the_same(client, logged):
    lines = logged("text")
    client.post(
        RESERVATIONS,
        json={"partnerId": "abc-corp", "seats": 3},
        headers={"X-Request-Id": "my-id.1"},
    )
    (line,) = lines()
    for part in ("my-id.1", "POST", RESERVATIONS, "201", "abc-corp"):
        assert part in line


def test_an_unexpected_error_is_logged_with_the_id_of_its_request(client, logged, sql):
    lines = logged("json")
    sql("ALTER TABLE events RENAME COLUMN version TO versions")
    try:
        answer = client.get(RESERVATIONS)
    finally:
        sql("ALTER TABLE events RENAME COLUMN versions TO version")
    assert answer.status_code == 500
    error, request = [json.loads(line) for line in lines()]
    assert error["level"] == "error"
    assert "version" in error["exception"]
    assert error["request_id"] == request["request_id"] == answer.json["requestId"]
    assert request["status"] == 500


# --- What is not ------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_body_and_no_secret_is_logged(client, logged, log_format):
    lines = logged(log_format)
    secret = {
        "Authorization": "Bearer secret-in-authorization",
        "Idempotency-Key": "secret-in-idempotency-key",
        "Cookie": "session=secret-in-cookie",
        "X-Api-Key": "secret-in-header",
    }
    bodies = [
        {"partnerId": "abc-corp", "seats": 3},
        {"partnerId": "abc-corp", "seats": "secret-in-seats"},
        {"partnerId": "secret-in-partner" * 9, "seats": 3},
        {"secret-in-name": "secret-in-value"},
    ]
    for body in bodies:
        client.post(RESERVATIONS + "?token=secret-in-query", json=body, headers=secret)
    client.post(RESERVATIONS, data="secret-in-body", content_type="application/json")
    client.post(RESERVATIONS, data={"partnerId": "secret-in-form"})
    client.post(
        "/api/v1/events",
        json={"eventId": "e", "name": "secret-in-name", "totalSeats": 1},
        headers=secret,
    )
    output = "".join(lines())
    assert output.count("\n") == len(bodies) + 3
    assert "secret" not in output


# --- Forgeries --------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("forgery", FORGERIES, ids=ascii)
def test_no_client_can_forge_a_line(application, client, logged, log_format, forgery):
    lines = logged(log_format)
    # Past every check of HTTP's own syntax, as if a server let it through.
    wsgi = forgery.encode("utf-8", "surrogatepass").decode("latin-1")
    client.get("/", environ_overrides={"PATH_INFO": "/" + wsgi})
    client.get(RESERVATIONS, environ_overrides={"PATH_INFO": f"{RESERVATIONS}/{wsgi}"})
    client.get("/livez", environ_overrides={"HTTP_X_REQUEST_ID": wsgi})
    client.get("/livez", environ_overrides={"HTTP_X_REQUEST_ID": forgery})
    client.post(RESERVATIONS, json={"partnerId": forgery, "seats": 1})
    client.post(RESERVATIONS, json={forgery: 1})
    output = lines()
    # The line about each request and no other, and each of them whole.
    assert len(output) == 6
    for line in output:
        assert line.endswith("\n")
        assert not CONTROL.search(line)
        assert line.isascii()
        if log_format == "json":
            assert set(json.loads(line)) <= {
                *("time", "level", "logger", "message"),
                *("request_id", "method", "path", "status", "ms", "partner"),
            }


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_partner_id_that_is_allowed_cannot_forge_a_line_either(client, logged, log_format):
    lines = logged(log_format)
    partner = '日本 \\n", "status": 500'
    made = client.post(RESERVATIONS, json={"partnerId": partner, "seats": 1})
    assert made.status_code == 201
    (line,) = lines()
    assert line.isascii() and not CONTROL.search(line)
    if log_format == "json":
        assert json.loads(line)["partner"] == partner
        assert json.loads(line)["status"] == 201


def test_everything_that_the_real_server_writes_is_json_lines(server):
    def output():
        # Without moving the offset, which the server writes at.
        descriptor = server.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    before = len(output())
    attempts = [
        b"GET /%0Aforged%1b[31m HTTP/1.1\r\nHost: x\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x85forged\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x1bforged\r\n",
        b"GET /\x1b[31mforged HTTP/1.1\r\nHost: x\r\n",
        b"\x1b[31m{}\nforged / HTTP/1.1\r\nHost: x\r\n",
        b"GET /livez HTTP/1.1\r\n\x1b[31mforged: x\r\n",
        b"GET /livez HTTP/9.9\x1b[31mforged\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: \x1b[31mforged\r\n",
    ]
    for attempt in attempts:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(attempt + b"Connection: close\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 ")
    with contextlib.closing(server.client()) as client:
        client.get("/livez", x_request_id="the-last-one")
    end = time.monotonic() + 10
    while "the-last-one" not in output()[before:] and time.monotonic() < end:
        time.sleep(0.01)
    written = output()[before:]
    assert "the-last-one" in written
    assert not CONTROL.search(written)
    for line in written.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
