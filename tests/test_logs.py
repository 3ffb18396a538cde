"""Each request leaves one line, with nothing in it that a client could forge or must hide."""

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from datetime import datetime
from importlib import metadata

import pytest
from serving import ROOT, Server

from ticketboss import logs, metrics
from ticketboss.rules import limits

RESERVATIONS = "/api/v1/reservations"
EVENT = "node-meetup-2025"
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
def logged(capfd):
    """Give a function that sets the format, and returns one that returns what was logged since."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def lines():
        logs.flush()
        return capfd.readouterr().out.splitlines(keepends=True)

    def configure(log_format):
        logs.configure(log_format)
        lines()
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
        "event": EVENT,
        "client": "127.0.0.1",
        "pid": os.getpid(),
        "release": metadata.version("ticketboss"),
    }


def test_every_request_has_its_status_its_partner_its_event_and_its_fault(client, logged):
    lines = logged("json")
    made = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 3})
    client.get(made.location)
    client.delete(made.location)
    client.delete(made.location)
    unknown = f"{RESERVATIONS}/00000000-0000-7000-8000-000000000000"
    client.delete(unknown)
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 0})
    client.post("/api/v1/events/nowhere/reservations", json={"partnerId": "x", "seats": 1})
    client.get(f"/api/v1/events/{EVENT}/changes")
    client.get("/nowhere")
    client.put(RESERVATIONS)
    found = [
        tuple(line.get(name) for name in ("method", "path", "status", "partner", "event", "code"))
        for line in requests(lines())
    ]
    assert found == [
        ("POST", RESERVATIONS, 201, "abc-corp", EVENT, None),
        ("GET", made.location, 200, "abc-corp", EVENT, None),
        ("DELETE", made.location, 204, "abc-corp", EVENT, None),
        ("DELETE", made.location, 404, "abc-corp", EVENT, "already_cancelled"),
        ("DELETE", unknown, 404, None, None, "not_found"),
        ("POST", RESERVATIONS, 400, None, None, "invalid_request"),
        ("POST", "/api/v1/events/nowhere/reservations", 404, "x", "nowhere", "event_not_found"),
        ("GET", f"/api/v1/events/{EVENT}/changes", 200, None, EVENT, None),
        ("GET", "/nowhere", 404, None, None, "route_not_found"),
        ("PUT", RESERVATIONS, 405, None, None, "method_not_allowed"),
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


# A request with a fault in each place where a client may have put what is a secret.
MALFORMED = {
    "method": "GET{secret} /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "small method": "{secret} /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "address": "GET /\x01{secret} HTTP/1.1\r\nHost: x\r\n\r\n",
    "query": "GET /livez?key={secret} a HTTP/1.1\r\nHost: x\r\n\r\n",
    "fragment": "GET /livez#{secret} HTTP/1.1\r\nHost: x\r\n\r\n",
    "version": "GET /livez HTTP/{secret}\r\nHost: x\r\n\r\n",
    "no version": "GET /livez?key={secret}\r\nHost: x\r\n\r\n",
    "long address": "GET /{long}{secret} HTTP/1.1\r\nHost: x\r\n\r\n",
    "host": "GET /livez HTTP/1.1\r\nHost: {secret}\x00\r\n\r\n",
    "two hosts": "GET /livez HTTP/1.1\r\nHost: {secret}\r\nHost: x\r\n\r\n",
    "header without a colon": "GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization {secret}\r\n\r\n",
    "header name": "GET /livez HTTP/1.1\r\nHost: x\r\nA {secret}: x\r\n\r\n",
    "header value": "GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\x00\r\n\r\n",
    "folded header": "GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n {secret}\r\n\r\n",
    "long header": "GET /livez HTTP/1.1\r\nHost: x\r\nA: {long}{secret}\r\n\r\n",
    "many headers": "GET /livez HTTP/1.1\r\nHost: x\r\n{many}A: {secret}\r\n\r\n",
    "length": "POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {secret}\r\n\r\n",
    "coding": "POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {secret}\r\n\r\n",
    "expectation": "POST {url} HTTP/1.1\r\nHost: x\r\nExpect: {secret}\r\n\r\n",
    "size of a chunk": "POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n{secret}\r\n",
    "body": "POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "Content-Length: 20\r\n\r\n{secret}",
    "form": "POST {url}?key={secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\n\r\npartnerId={secret}",
}


@pytest.mark.parametrize("place", MALFORMED)
def test_a_secret_anywhere_in_a_malformed_request_is_not_logged(server, place):
    secret = "hunter2-SECRET"
    request = MALFORMED[place].format(
        secret=secret, url=RESERVATIONS, long="x" * 9000, many="B: c\r\n" * 200
    )
    before = len(server.output())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it need not read to the end
            while part := connection.recv(65536):
                answer += part
    with contextlib.closing(server.client()) as client:
        client.get("/livez", x_request_id=f"after-{place.replace(' ', '-')}")
    output = written(server, before, f"after-{place.replace(' ', '-')}")
    assert secret not in output and secret.encode() not in answer
    for line in map(json.loads, output.splitlines()):
        assert "exception" not in line
        if line["message"] == "request refused":
            assert set(line) == {
                *("time", "level", "logger", "message", "pid", "release"),
                *("request_id", "status", "fault", "client"),
            }
            assert line["client"] == "127.0.0.1"
            assert line["request_id"].encode() in answer


def written(server, start: int, last: str) -> str:
    """Return what a server has logged from a place on, as soon as `last` is in it."""
    end = time.monotonic() + 10
    while last not in (output := server.output()[start:]):
        assert time.monotonic() < end, output
        time.sleep(0.01)
    return output


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
                *("request_id", "method", "path", "status", "ms", "partner", "event", "code"),
                *("client", "pid", "release"),
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
    before = len(server.output())
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
    output = written(server, before, "the-last-one")
    assert not CONTROL.search(output)
    for line in output.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


# --- Nobody reads -----------------------------------------------------------------


@pytest.fixture
def piped(dsn):
    """Give a function that starts a server whose log is a pipe, with the end to read from.

    What the server says of errors is in `server.output()`.
    """
    with contextlib.ExitStack() as stack:

        def start(**environment):
            reader, writer = os.pipe()
            server = Server(dsn, **environment)
            server.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "python:ticketboss.serving.gunicorn_conf"],
                cwd=ROOT,
                env=server.environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=server.log,
                start_new_session=True,
            )
            os.close(writer)
            pipe = stack.enter_context(open(reader, "rb"))
            stack.enter_context(server).wait_until_it_answers()
            return server, pipe

        yield start


def overfill(server, pipe) -> None:
    """Send more requests than the lines of which fit in a pipe."""
    with contextlib.closing(server.client()) as client:
        for _ in range(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) // 200):
            assert client.get("/livez").status == 200


def test_a_log_that_nobody_reads_stops_nothing(piped):
    server, pipe = piped()
    overfill(server, pipe)
    with contextlib.closing(server.client()) as client:
        made = client.post(RESERVATIONS, {"partnerId": "abc-corp", "seats": 3})
    assert made.status == 201
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 10
    assert server.output() == ""


def test_lines_that_nobody_read_for_a_while_are_there_later(piped):
    server, pipe = piped(WORKERS="1")
    overfill(server, pipe)
    with contextlib.closing(server.client()) as client:
        client.get("/livez", x_request_id="the-last-one")
    lines = []
    while not lines or b"the-last-one" not in lines[-1]:
        lines.append(pipe.readline())
    assert len(requests(lines)) > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) // 200
    assert server.stop() == 0


def test_a_log_whose_reader_is_gone_is_no_fault(piped):
    server, pipe = piped()
    pipe.close()
    with contextlib.closing(server.client()) as client:
        for _ in range(10):
            assert client.get("/livez").status == 200
    assert server.stop() == 0
    assert server.output() == ""


def test_lines_for_which_there_is_no_room_are_counted_and_the_count_is_told(monkeypatch):
    def counted() -> float:
        (sample,) = metrics.LOG_LINES_DROPPED.family(metrics.slots.sums()).samples
        return sample.value

    before = counted()
    monkeypatch.setattr(limits, "LOG_BYTES", 50_000)
    monkeypatch.setattr(limits, "LOG_PATIENCE", 0.2)
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "STDOUT", writer)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    output = logs.Output()
    with open(reader, "rb") as pipe, open(writer, "wb"):

        def read() -> dict:
            return json.loads(pipe.readline())

        # What the pipe holds and what waits to be written, and the same again.
        for number in range(1000):
            output.say(0, "info", "test", "line", {"number": number})
        output.flush()
        for number in range(1000, 2000):
            output.say(0, "info", "test", "line", {"number": number})
        lines = [read()]
        while "dropped" not in lines[-1]:
            lines.append(read())
        told = lines.pop()
        assert (told["level"], told["logger"]) == ("warning", "ticketboss.logs")
        while len(lines) + told["dropped"] < 2000:
            lines.append(read())
        numbers = [line["number"] for line in lines]
        assert numbers == sorted(set(numbers))
        assert counted() - before == told["dropped"]
        # Now that there is room, nothing is dropped.
        output.say(0, "info", "test", "line", {"number": 2000})
        assert read()["number"] == 2000
