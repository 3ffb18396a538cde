"""Whatever a client sends, it gets a clear 4xx, nothing changes, and the next request works."""

import contextlib
import functools
import importlib.util
import json
import re
import socket
import time
from http.client import HTTPException
from uuid import uuid4

import pytest
from serving import Server

RESERVATIONS = "/api/v1/reservations"
SEATS = "number of seats must be between 1 and 10"
NOT_JSON = "The body is not valid JSON in UTF-8"
NOT_AN_OBJECT = "The body must be a JSON object"
KIB_16 = 16 * 1024
GOOD = b'{"partnerId": "abc-corp", "seats": 3}'


@pytest.fixture(scope="session")
def parsers(dsn, application):
    """Give a function that returns a running gunicorn with one of its parsers."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def running(parser):
            arguments = f"--http-parser {parser}"
            return stack.enter_context(Server(dsn, GUNICORN_CMD_ARGS=arguments))

        yield running


@pytest.fixture
def server(request, parsers):
    return parsers(getattr(request, "param", "python"))


fast = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn_h1c") is None, reason="gunicorn's parser in C is missing"
)
with_both_parsers = pytest.mark.parametrize(
    "server", ["python", pytest.param("fast", marks=fast)], indirect=True
)


@pytest.fixture
def http(server):
    with contextlib.closing(server.client()) as client:
        yield client


@pytest.fixture
def reservation_id(http):
    """Make a reservation that bad requests could damage."""
    answer = http.post(RESERVATIONS, {"partnerId": "abc-corp", "seats": 3})
    assert answer.status == 201
    return answer.json["reservationId"]


@pytest.fixture(autouse=True)
def _nothing_changes(http, server, reservation_id, sql):
    """Compare every row after the test with those before; old and new connections work."""

    def rows():
        return sql(
            "SELECT to_jsonb(events) FROM events UNION ALL"
            " SELECT to_jsonb(reservations) FROM reservations UNION ALL"
            " SELECT to_jsonb(ledger) FROM ledger"
        )

    before = rows()
    assert len(before) == 4
    yield
    assert rows() == before
    for client in (http, server.client()):
        with contextlib.closing(client):
            assert summary(client)["availableSeats"] == 497


def summary(client):
    """Ask on this client's connection, or on a new one if the server has closed it."""
    with contextlib.suppress(ConnectionError, HTTPException):
        return client.get(RESERVATIONS).json
    return client.get(RESERVATIONS).json


def post(http, body, content_type="application/json", **headers):
    return http.post(RESERVATIONS, body, content_type=content_type, **headers)


def assert_refused(answer, status, code, error=None, **members):
    """Check an error: JSON, this status and code, and nothing in it that only we should know."""
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["requestId"] == answer.headers["X-Request-Id"]
    assert isinstance(answer.json["error"], str)
    assert not re.search(rb"Traceback|Error\(|psycopg|SELECT |\.py", answer.body)
    for name, value in {"error": error, **members}.items():
        if value is not None:
            assert answer.json[name] == value


# --- The body as a whole ----------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", NOT_JSON),
        (b" ", NOT_JSON),
        (b"null", NOT_AN_OBJECT),
        (b"true", NOT_AN_OBJECT),
        (b"[]", NOT_AN_OBJECT),
        (b"[" + GOOD + b"]", NOT_AN_OBJECT),
        (b"3", NOT_AN_OBJECT),
        (b"1e400", NOT_AN_OBJECT),
        (b'"text"', NOT_AN_OBJECT),
        (b"seats", NOT_JSON),
        (GOOD[:-1], NOT_JSON),
        (GOOD[: len(GOOD) // 2], NOT_JSON),
        (GOOD + b"}", NOT_JSON),
        (GOOD + GOOD, NOT_JSON),
        (GOOD[:-1] + b",}", NOT_JSON),
        (GOOD.replace(b'"', b"'"), NOT_JSON),
        (b"// a comment\n" + GOOD, NOT_JSON),
        (GOOD + b"\0", NOT_JSON),
        (b"\0" + GOOD, NOT_JSON),
        (b"\xef\xbb\xbf" + GOOD, NOT_JSON),
        (GOOD.decode().encode("utf-16"), NOT_JSON),
        (GOOD.decode().encode("utf-16-le"), NOT_JSON),
        (GOOD.decode().encode("utf-32"), NOT_JSON),
        (GOOD.replace(b"abc", b"\xe9"), NOT_JSON),
        (GOOD.replace(b"abc", b"\xed\xa0\x80"), NOT_JSON),
        (GOOD.replace(b"abc", b"\xc0\xaf"), NOT_JSON),
        (GOOD.replace(b"abc", b"a\nb"), NOT_JSON),
        (GOOD.replace(b"abc", b"\\x41"), NOT_JSON),
        (GOOD.replace(b"abc", b"\\ud8"), NOT_JSON),
        (GOOD.replace(b"3", b"03"), NOT_JSON),
        (GOOD.replace(b"3", b"+3"), NOT_JSON),
        (GOOD.replace(b"3", b"0x3"), NOT_JSON),
        (GOOD.replace(b"3", b"3."), NOT_JSON),
        (b"[" * 5000, NOT_JSON),
        (b"[" * 5000 + b"]" * 5000, None),
        (b'{"a":' * 2500 + b"1" + b"}" * 2500, None),
        (b'{"partnerId": ' + b"[" * 5000 + b"]" * 5000 + b', "seats": 3}', None),
        (b"partnerId=abc-corp&seats=3", NOT_JSON),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", NOT_JSON),
        (bytes(range(256)), NOT_JSON),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, bytes) else "",
)
def test_what_is_not_a_json_object_is_a_400(http, body, error):
    answer = post(http, body)
    assert_refused(answer, 400, "invalid_request", error)
    assert "fields" in answer.json


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_a_400(http, constant):
    answer = post(http, GOOD.replace(b"3", constant.encode()))
    assert_refused(answer, 400, "invalid_request", f"{constant} is not JSON", fields={})


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"partnerId": "abc-corp", "seats": 3, "seats": 3}', "seats"),
        (b'{"seats": 1, "partnerId": "abc-corp", "seats": 3}', "seats"),
        (b'{"partnerId": "a", "seats": 3, "partnerId": "b"}', "partnerId"),
        (b'{"partnerId": "a", "seats": 3, "\\u0073eats": 3}', "seats"),
        (b'{"partnerId": "a", "seats": {"b": 1, "b": 2}}', "b"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "\ud800"),
        (b'{"": 1, "": 2}', ""),
    ],
)
def test_a_member_that_appears_twice_is_a_400(http, body, name):
    answer = post(http, body)
    error = f"{name} appears more than once"
    assert_refused(answer, 400, "invalid_request", error, fields={name: [error]})


# --- Its members ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("0", SEATS),
        ("-0", SEATS),
        ("11", SEATS),
        ("-1", SEATS),
        ("9223372036854775808", SEATS),
        ("9" * 4000, SEATS),
        ("9" * 5000, SEATS),
        ("-" + "9" * 5000, SEATS),
        ("0.0", SEATS),
        ("11.0", SEATS),
        ("-1e1", SEATS),
        ("1e400", SEATS),
        ("-1e999999", SEATS),
        ("2.5", "seats must be an integer"),
        ("3.0000000000000000001", "seats must be an integer"),
        ("25e-1", "seats must be an integer"),
        ("1e-9", "seats must be an integer"),
        ("1e-400", "seats must be an integer"),
        ('"3.0"', "seats must be an integer"),
        ("0." + "3" * 5000, "seats must be an integer"),
        ('"3"', "seats must be an integer"),
        ('""', "seats must be an integer"),
        ("true", "seats must be an integer"),
        ("false", "seats must be an integer"),
        ("[]", "seats must be an integer"),
        ("[3]", "seats must be an integer"),
        ("{}", "seats must be an integer"),
        ("null", "seats must not be null"),
    ],
    ids=lambda text: text[:24],
)
def test_seats_that_are_not_an_integer_from_1_to_10_are_a_400(http, value, error):
    answer = post(http, b'{"partnerId": "abc-corp", "seats": %b}' % value.encode())
    assert_refused(answer, 400, "invalid_request", error, fields={"seats": [error]})


LENGTH = "partnerId must have 1 to 64 characters"
VISIBLE = "partnerId must have visible characters and plain spaces only"
ENDS = "partnerId must not begin or end with a space"
TEXT = "partnerId must be a string"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ('""', LENGTH),
        (json.dumps("x" * 65), LENGTH),
        (json.dumps("é" * 65), LENGTH),
        (json.dumps("x" * 16000), LENGTH),
        ('" "', ENDS),
        ('" abc-corp"', ENDS),
        ('"abc-corp "', ENDS),
        ('"\\u3000\\u00a0"', VISIBLE),
        ('"a\\u0000b"', VISIBLE),
        ('"\\u0000"', VISIBLE),
        ('"a\\nb"', VISIBLE),
        ('"\\t"', VISIBLE),
        ('"\\u001b[31m"', VISIBLE),
        ('"\\u007f"', VISIBLE),
        ('"\\u0085"', VISIBLE),
        ('"\\u2028"', VISIBLE),
        ('"\\ud800"', VISIBLE),
        ('"\\udc00\\ud800"', VISIBLE),
        ("7", TEXT),
        ("7.5", TEXT),
        ("true", TEXT),
        ("[]", TEXT),
        ('["abc-corp"]', TEXT),
        ('{"$ne": ""}', TEXT),
        ("null", "partnerId must not be null"),
    ],
    ids=lambda text: text[:24],
)
def test_a_partner_id_that_nobody_could_have_is_a_400(http, value, error):
    answer = post(http, b'{"partnerId": %b, "seats": 3}' % value.encode())
    assert_refused(answer, 400, "invalid_request", error, fields={"partnerId": [error]})


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"partnerId": ["partnerId is missing"], "seats": ["seats is missing"]}),
        ({"seats": 3}, {"partnerId": ["partnerId is missing"]}),
        ({"partnerId": "a"}, {"seats": ["seats is missing"]}),
        ({"partnerId": "a", "seats": 3, "seat": 1}, {"seat": ["seat is not known here"]}),
        (
            {"partnerid": "a", "seats": 3},
            {
                "partnerId": ["partnerId is missing"],
                "partnerid": ["partnerid is not known here"],
            },
        ),
        (
            {"partner_id": "a", "seats": 11, "status": "held"},
            {
                "partnerId": ["partnerId is missing"],
                "partner_id": ["partner_id is not known here"],
                "seats": [SEATS],
                "status": ["status is not known here"],
            },
        ),
        ({"partnerId": "a", "seats": 3, "": 1}, {"": [" is not known here"]}),
        ({"partnerId": "a", "seats": 3, "\ud800": 1}, {"\ud800": ["\ud800 is not known here"]}),
        ({"partnerId": "a", "seats": 3, "\0": 1}, {"\0": ["\0 is not known here"]}),
        (
            {"partnerId": "a", "seats": 3, "_schema": ["x"]},
            {"_schema": ["_schema is not known here"]},
        ),
        (
            {"partnerId": "a", "seats": 3, "reservationId": str(uuid4())},
            {"reservationId": ["reservationId is not known here"]},
        ),
    ],
    ids=lambda value: ",".join(value)[:40].encode("unicode_escape").decode(),
)
def test_missing_and_unknown_members_are_all_named(http, body, fields):
    answer = post(http, json.dumps(body).encode())
    assert_refused(answer, 400, "invalid_request", fields=fields)
    assert answer.json["error"] in [text for texts in fields.values() for text in texts]


def test_the_error_is_the_first_fault_and_the_fields_are_all_of_them(http):
    answer = post(http, b'{"partnerId": "", "seats": 11}')
    fields = {"partnerId": [LENGTH], "seats": [SEATS]}
    assert_refused(answer, 400, "invalid_request", LENGTH, fields=fields)


@pytest.mark.parametrize("value", ["0", "3601", "-1", "60.5", '"60"', "true", "null", "1e4"])
def test_a_hold_of_no_or_too_many_seconds_is_a_400(http, value):
    answer = post(http, b'{"partnerId": "a", "seats": 3, "holdSeconds": %b}' % value.encode())
    assert_refused(answer, 400, "invalid_request")
    assert list(answer.json["fields"]) == ["holdSeconds"]


# --- What a refusal costs -----------------------------------------------------------


def _document(members: dict) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


NAMES = [f"m{number}" for number in range(1500)]
WIDE = "\U0001f39f" * 4090  # which JSON writes as twelve bytes each
COSTLY = {
    "one of many twice": b"{" + b",".join(b'"%x":1' % (n % 1899) for n in range(1900)) + b"}",
    "many unknown": _document(dict.fromkeys(NAMES, 1)),
    "very many unknown": b"{" + b",".join(b'"%x":0' % n for n in range(2000)) + b"}",
    "a long name": _document({"x" * 16_000: 1}),
    "a wide name": b'{"%b": 1}' % WIDE.encode(),
    "a long name twice": b'{"%b": 1, "%b": 1}' % (b"x" * 8000, b"x" * 8000),
    "wide names": b"{%b}" % ",".join(f'"{WIDE[:60]}{n}":1' for n in range(60)).encode(),
    "long names": _document({f"{n:04}" + "x" * 100: 1 for n in range(140)}),
    "deep": b'{"partnerId":' + b"[" * 8000 + b"]" * 8000 + b"}",
    "deeper": b"[" * KIB_16,
    "deep objects": b'{"a":' * 3200 + b"1" + b"}" * 300,
    "digits": b'{"seats": %b}' % (b"9" * 16_000),
    "fraction": b'{"seats": 0.%b}' % (b"3" * 16_000),
    "exponents": b'{"seats": [%b1]}' % (b"1e999999," * 1700),
    "escapes": b'{"partnerId": "%b", "seats": 3}' % (b"\\ud800" * 2700),
    "accents": b'{"partnerId": "a%b", "seats": 3}' % ("\u0315\u0300" * 4000).encode(),
    "blanks": b'{"partnerId": "%b", "seats": 3}' % (b" " * 16_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_refusal_is_short_and_cheap_whatever_was_sent(http, client, name):
    body = COSTLY[name]
    assert KIB_16 // 4 < len(body) <= KIB_16
    answer = post(http, body)
    assert_refused(answer, 400, "invalid_request")
    assert len(answer.body) <= 4096
    assert answer.json["fields"] or name in ("deeper", "deep objects", "deep")
    # Of this thread alone, and the best of some, so that a busy machine does not count.
    spent = []
    for _ in range(5):
        before = time.thread_time()
        assert client.post(RESERVATIONS, data=body, content_type="application/json").json
        spent.append(time.thread_time() - before)
    assert min(spent) < 0.015


def test_a_refused_query_is_short_whatever_it_says(http):
    for query in ("&".join(f"a{n}" for n in range(600)), "x" * 3000, "&".join(["%00"] * 900)):
        answer = http.get(f"/api/v1/events?{query}")
        assert_refused(answer, 400, "invalid_request")
        assert len(answer.body) <= 4096


def test_the_faults_of_members_that_are_known_are_told_before_the_others(http):
    unknown = {f"unknown-{number}": 1 for number in range(500)}
    answer = post(http, json.dumps({**unknown, "seats": 11}).encode())
    fields = list(answer.json["fields"])
    assert answer.json["fields"]["seats"] == [SEATS]
    assert fields[:3] == ["partnerId", "seats", "unknown-0"] or fields[:2] == ["seats", "partnerId"]
    assert answer.json["error"] in (SEATS, "partnerId is missing")


# --- Media types and sizes --------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "json",
        "/",
        ";;;",
        "application/json\xff",
        "x" * 2000,
    ],
    ids=lambda text: repr(text)[:40],
)
def test_another_content_type_or_none_is_a_415(http, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = http.call("POST", RESERVATIONS, GOOD, headers)
    assert_refused(answer, 415, "unsupported_media_type")
    assert "application/json" in answer.json["error"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_a_415(http, encoding):
    answer = post(http, GOOD, content_encoding=encoding)
    assert_refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        GOOD.ljust(KIB_16 + 1),
        GOOD.ljust(3 * KIB_16),
        b"[" * (KIB_16 + 1),
        json.dumps({"partnerId": "x" * KIB_16, "seats": 3}).encode(),
    ],
    ids=["by one", "by far", "nested", "honest"],
)
def test_a_body_over_16_kib_is_a_413(http, body):
    assert_refused(post(http, body), 413, "payload_too_large", "The body is larger than 16 KiB")


def test_a_body_that_is_said_to_be_large_is_refused_before_it_is_sent(server):
    answer = send(server, head("Content-Length: 10000000000"))
    assert_refused(answer, 413, "payload_too_large")


@pytest.mark.parametrize("chunk", [1000, KIB_16, 10 * KIB_16])
@pytest.mark.parametrize("size", [KIB_16 + 1, 3 * KIB_16])
def test_a_chunked_body_over_16_kib_is_a_413(server, chunk, size):
    # What is within the limit is a perfect request: it must not be taken for the whole.
    body = GOOD.ljust(size)
    answer = send(server, head("Transfer-Encoding: chunked") + chunks(body, chunk))
    assert_refused(answer, 413, "payload_too_large", "The body is larger than 16 KiB")


@with_both_parsers
def test_a_chunked_body_is_judged_like_any_other(server):
    answer = send(
        server, head("Transfer-Encoding: chunked") + chunks(b'{"partnerId": "a", "seats": 0}', 7)
    )
    assert_refused(answer, 400, "invalid_request", SEATS)


# --- Addresses --------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "{{{0}}}",
        "%7B{0}%7D",
        "urn:uuid:{0}",
        "{0}%00",
        "%00{0}",
        "{0}%0A",
        "%20{0}",
        "{0}.",
        "{0}0",
        "'{0}'",
        "{0}%20OR%201=1",
        "%25{0}",
    ],
)
def test_an_id_with_something_around_it_is_not_found(http, reservation_id, form):
    for method in ("GET", "DELETE"):
        answer = http.call(method, f"{RESERVATIONS}/{form.format(reservation_id)}")
        assert_refused(answer, 404, "not_found", "Reservation not found")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda text: text.replace("-", ""),
        lambda text: text.replace("-", "%2D", 1)[:-1],
        lambda text: text[:-1],
        lambda text: text[1:],
        lambda text: text[:-1] + "g",
        lambda text: text[:-1] + "%D9%A1",  # ARABIC-INDIC DIGIT ONE
        lambda text: text.replace("-", "%E2%80%90"),  # HYPHEN
        lambda text: text[:-1] + "%FF",
        lambda text: text[:-1] + "%",
        lambda text: text[:-1] + "%zz",
        lambda text: "%00",
        lambda text: "%ED%A0%80",
        lambda text: "..",
        lambda text: "%s",
        lambda text: "-1",
        lambda text: "null",
        lambda text: "x" * 3000,
    ],
)
def test_a_malformed_id_is_not_found(http, reservation_id, mangle):
    for method in ("GET", "DELETE"):
        answer = http.call(method, f"{RESERVATIONS}/{mangle(reservation_id)}")
        assert_refused(answer, 404, "not_found", "Reservation not found")


@pytest.mark.parametrize(
    "spell",
    [
        str.upper,
        lambda text: text.replace("-", "%2d"),
        lambda text: "".join(f"%{ord(character):02X}" for character in text),
    ],
    ids=["upper-case", "encoded hyphens", "all encoded"],
)
def test_another_spelling_of_an_id_is_the_same_id(http, reservation_id, spell):
    answer = http.get(f"{RESERVATIONS}/{spell(reservation_id)}")
    assert (answer.status, answer.json["reservationId"]) == (200, reservation_id)


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/api/v1/%00",
        "/api/v1/reservations%00",
        "/%FF",
        "/%ED%A0%80",
        "/%0d%0aX-Injected:%20yes",
        "/%1b[31m",
        "/" + "x" * 3000,
    ],
)
def test_an_odd_address_is_a_404(http, path):
    for method in ("GET", "POST", "DELETE"):
        answer = http.call(method, path)
        assert_refused(answer, 404, "route_not_found")
        assert "X-Injected" not in answer.headers


@pytest.mark.parametrize("event_id", ["%00", "%FF", "UPPER", "a%20b", "x" * 65, "%s", "é"])
def test_a_malformed_event_id_is_not_found(http, event_id):
    address = f"/api/v1/events/{event_id.replace('é', '%C3%A9')}"
    assert_refused(http.get(address), 404, "event_not_found")
    assert_refused(
        http.post(address + "/reservations", {"partnerId": "a", "seats": 1}),
        404,
        "event_not_found",
    )


# --- HTTP itself ------------------------------------------------------------------


def head(*lines):
    """Return the start line and headers of a reserve, on a connection that stays open."""
    start = (f"POST {RESERVATIONS} HTTP/1.1", "Host: x", "Content-Type: application/json")
    return "\r\n".join((*start, *lines, "", "")).encode("latin-1")


def chunks(body, size):
    parts = [body[at : at + size] for at in range(0, len(body), size)] + [b""]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


class Answer:
    """What came back on a raw socket; it must be one whole HTTP response."""

    def __init__(self, raw):
        top, separator, rest = raw.partition(b"\r\n\r\n")
        assert separator, raw
        status_line, *lines = top.decode("latin-1").split("\r\n")
        assert status_line.startswith("HTTP/1.1 ")
        self.status = int(status_line.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)
        self.body = rest[: int(self.headers["Content-Length"])]
        self.json = json.loads(self.body)


def send(server, data, close=False):
    """Send bytes as they are and return the one answer to them."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        # The server may answer and close before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
        raw = b""
        while not _whole(raw):
            part = connection.recv(65536)
            if not part:
                break
            raw += part
    return Answer(raw)


def _whole(raw):
    top, separator, rest = raw.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", top)
    return bool(separator and length and len(rest) >= int(length[1]))


@with_both_parsers
@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / FTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\rb\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
        head("Content-Length: -1"),
        head("Content-Length: x"),
        head("Content-Length: 2, 3") + b"{}",
        head("Content-Length: 2", "Content-Length: 3") + b"{}",
        head("Content-Length: 2", "Transfer-Encoding: chunked") + b"{}",
        head("Transfer-Encoding: chunked, chunked") + chunks(b"{}", 9),
        head("Transfer-Encoding: gzip") + b"{}",
        head("Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"-2\r\n{}\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"\r\n{}\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"2\r\n{}XX\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + chunks(GOOD, 9)[:-2] + b"No colon\r\n\r\n",
    ],
    ids=lambda data: repr(data)[-40:],
)
def test_malformed_http_is_a_400_in_json(server, data):
    assert_refused(send(server, data), 400, "invalid_request")


@with_both_parsers
@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 100") + GOOD,
        head("Transfer-Encoding: chunked") + b"%x\r\n%b" % (len(GOOD) + 1, GOOD),
        head("Transfer-Encoding: chunked") + b"%x\r\n%b" % (len(GOOD), GOOD),
        head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(GOOD), GOOD),
    ],
    ids=["short of its length", "short of its chunk", "no end of the chunk", "no last chunk"],
)
def test_a_body_that_ends_early_is_a_400(server, data):
    assert_refused(send(server, data, close=True), 400, "invalid_request")


@with_both_parsers
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 5000), 414, "uri_too_long"),
        (
            b"GET /livez HTTP/1.1\r\n" + b"X-A: 1\r\n" * 60 + b"\r\n",
            431,
            "request_header_fields_too_large",
        ),
        (
            b"GET /livez HTTP/1.1\r\nX-A: %b\r\n\r\n" % (b"x" * 5000),
            431,
            "request_header_fields_too_large",
        ),
        (
            head("Transfer-Encoding: gzip, chunked") + chunks(GOOD, 9),
            501,
            "not_implemented",
        ),
        (head("Expect: the-unexpected", "Content-Length: 2") + b"{}", 417, "expectation_failed"),
    ],
    ids=["address", "many headers", "long header", "coding", "expectation"],
)
def test_too_much_of_http_is_refused_in_json(server, data, status, code):
    assert_refused(send(server, data), status, code)


@with_both_parsers
def test_a_refused_body_is_not_read_as_the_next_request(server):
    smuggled = b"DELETE /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    data = head(f"Content-Length: {len(smuggled)}").replace(b"application/json", b"text/plain")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            data + smuggled + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        raw = b""
        while part := connection.recv(65536):
            raw += part
    # Bodies end in a newline, so the next status line starts a line.
    assert re.findall(rb"^HTTP/1\.1 (\d+)", raw, re.MULTILINE) == [b"415", b"200"]
