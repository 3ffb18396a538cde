"""The base contract, to the letter: what a partner's client may rely on."""

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import uuid4

import past
import pytest
from serving import ADMIN_KEY, connect

from ticketboss import create_app
from ticketboss.config import Config

RESERVATIONS = "/api/v1/reservations"
HEALTH = "/api/v1/health"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
CLIENTS = 64
NOBODYS = "f8e3e16b-0941-4179-a63c-b47bbc7c02e9"


@pytest.fixture
def http(server):
    with contextlib.closing(server.client()) as client:
        yield client


@pytest.fixture
def capacity(sql):
    """Give a function that sets the seats of the default event before anything is sold."""
    return lambda seats: past.create(
        sql,
        "UPDATE events SET initial_seats = %(n)s, total_seats = %(n)s, available_seats = %(n)s",
        {"n": seats},
    )


def reserve(http, seats=3, partner="abc-corp", **headers):
    return http.post(RESERVATIONS, {"partnerId": partner, "seats": seats}, **headers)


def assert_error(answer, status, error, code, **members):
    """Check an error's body as a whole: no member may be missing, wrong or too many."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    request_id = answer.headers["X-Request-Id"]
    assert answer.json == {"error": error, "code": code, "requestId": request_id, **members}


def at_once(server, count, work):
    """Run work(number, client) in threads that start together; return their results."""
    barrier = threading.Barrier(count)

    def run(number):
        with contextlib.closing(server.client()) as client:
            client.get("/livez")  # connected before the start
            barrier.wait(timeout=30)
            return work(number, client)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


# --- 1. The summary -------------------------------------------------------------


def test_the_summary_of_an_untouched_event_says_exactly_what_the_contract_says(http):
    answer = http.get(RESERVATIONS)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {
        "eventId": "node-meetup-2025",
        "name": "Node.js Meet-up",
        "totalSeats": 500,
        "availableSeats": 500,
        "reservationCount": 0,
        "reservedSeats": 0,
        "version": 0,
    }


def test_the_summary_counts_what_is_live_and_every_change(http):
    first = reserve(http, 3).headers["Location"]
    reserve(http, 10)
    http.post(RESERVATIONS, {"partnerId": "x", "seats": 2, "holdSeconds": 60})
    assert http.delete(first).status == 204
    summary = http.get(RESERVATIONS).json
    assert summary["reservationCount"] == 2
    assert summary["reservedSeats"] == 12
    assert summary["availableSeats"] == 488
    assert summary["version"] == 4


def test_a_refusal_is_not_a_change(http, capacity):
    capacity(2)
    reserve(http, 3)
    reserve(http, 11)
    http.delete(f"{RESERVATIONS}/{uuid4()}")
    assert http.get(RESERVATIONS).json["version"] == 0


# --- 2. Reserving -----------------------------------------------------------------


def test_a_reservation_is_answered_with_201_its_address_and_all_its_members(http, sql):
    before = sql("SELECT now()")[0][0]
    answer = reserve(http, 3)
    after = sql("SELECT now()")[0][0]
    assert answer.status == 201
    body = answer.json
    assert UUID.match(body["reservationId"])
    assert answer.headers["Location"] == f"{RESERVATIONS}/{body['reservationId']}"
    assert TIME.match(body["createdAt"])
    # The time is the database's, so it lies between two of its own.
    created = datetime.fromisoformat(body["createdAt"].replace("Z", "+00:00"))
    assert before <= created <= after
    assert body == {
        "reservationId": body["reservationId"],
        "eventId": "node-meetup-2025",
        "partnerId": "abc-corp",
        "seats": 3,
        "status": "confirmed",
        "version": 1,
        "createdAt": body["createdAt"],
        "confirmedAt": body["createdAt"],
    }


@pytest.mark.parametrize("seats", range(1, 11))
def test_every_number_of_seats_from_1_to_10_can_be_reserved(http, seats):
    answer = reserve(http, seats)
    assert answer.status == 201
    assert answer.json["seats"] == seats
    assert http.get(RESERVATIONS).json["reservedSeats"] == seats


@pytest.mark.parametrize(
    ("written", "seats"),
    [("3.0", 3), ("3e0", 3), ("1e1", 10), ("1E+0", 1), ("0.3e1", 3), ("30e-1", 3), ("3.000", 3)]
    + [("1." + "0" * 5000, 1), ("0." + "0" * 99 + "3e100", 3)],
    ids=lambda value: str(value)[:12],
)
def test_a_whole_number_is_one_however_json_writes_it(http, written, seats):
    body = b'{"partnerId": "abc-corp", "seats": %b, "holdSeconds": 60.0}' % written.encode()
    answer = http.post(RESERVATIONS, body, content_type="application/json")
    assert (answer.status, answer.json["seats"]) == (201, seats)
    assert b'"seats":%d,' % seats in answer.body
    place = answer.headers["Location"]
    for method, path, body in [
        ("POST", place + "/extend", b'{"holdSeconds": 9e1}'),
        ("PATCH", place, b'{"seats": 1.0}'),
    ]:
        headers = {"Content-Type": "application/json"}
        assert http.call(method, path, body, headers).status == 200


@pytest.mark.parametrize(
    "partner",
    ["a", "x" * 64, "Ünïcode Ltd", "日本" * 32, "🎟" * 64, "a  b", "'; DROP TABLE events; --", "%s"],
)
def test_a_partner_id_comes_back_as_it_was_sent(http, partner):
    answer = reserve(http, 1, partner)
    assert answer.status == 201
    assert answer.json["partnerId"] == partner
    assert http.get(answer.headers["Location"]).json["partnerId"] == partner


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'],
)
def test_json_is_taken_under_every_spelling_of_its_media_type(http, content_type):
    body = b'{"partnerId": "abc-corp", "seats": 1}'
    assert http.post(RESERVATIONS, body, content_type=content_type).status == 201


def test_a_body_of_exactly_16_kib_is_taken(http):
    body = b'{"partnerId": "abc-corp", "seats": 1}'.ljust(16 * 1024)
    assert http.post(RESERVATIONS, body, content_type="application/json").status == 201


def test_too_few_seats_left_is_a_409_that_says_how_many_there_are(http, capacity):
    capacity(2)
    assert_error(
        reserve(http, 3),
        409,
        "Not enough seats left",
        "sold_out",
        requestedSeats=3,
        availableSeats=2,
        version=0,
    )
    assert reserve(http, 2).status == 201
    assert_error(
        reserve(http, 1),
        409,
        "Not enough seats left",
        "sold_out",
        requestedSeats=1,
        availableSeats=0,
        version=1,
    )


@pytest.mark.parametrize("seats", [0, 11, -1, 10**18])
def test_seats_out_of_range_are_a_400_with_the_sentence_of_the_contract(http, seats):
    sentence = "number of seats must be between 1 and 10"
    assert_error(
        reserve(http, seats), 400, sentence, "invalid_request", fields={"seats": [sentence]}
    )


def test_seats_out_of_range_are_a_400_also_when_sold_out(http, capacity):
    capacity(0)
    assert reserve(http, 11).status == 400


# --- 3. Cancelling ----------------------------------------------------------------


def test_a_cancelled_reservation_gives_its_seats_back_once(http):
    address = reserve(http, 3).headers["Location"]
    answer = http.delete(address)
    assert answer.status == 204
    assert answer.body == b""
    assert "Content-Length" not in answer.headers  # RFC 9110, section 8.6
    summary = http.get(RESERVATIONS).json
    assert (summary["availableSeats"], summary["version"]) == (500, 2)

    cancelled_at = http.get(address).json["cancelledAt"]
    for _ in range(2):
        assert_error(
            http.delete(address),
            404,
            "Reservation not found",
            "already_cancelled",
            cancelledAt=cancelled_at,
        )
    assert http.get(RESERVATIONS).json == summary


def test_seats_given_back_can_be_sold_again(http, capacity):
    capacity(3)
    address = reserve(http, 3).headers["Location"]
    assert reserve(http, 1).status == 409
    assert http.delete(address).status == 204
    assert reserve(http, 3).status == 201


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "reservation_id", [NOBODYS, "1", "not-a-uuid", "00000000-0000-0000-0000-000000000000"]
)
def test_an_unknown_reservation_is_not_found(http, method, reservation_id):
    answer = http.call(method, f"{RESERVATIONS}/{reservation_id}")
    assert_error(answer, 404, "Reservation not found", "not_found")


def test_a_hold_that_has_expired_cannot_be_cancelled_any_more(http, sql):
    held = http.post(RESERVATIONS, {"partnerId": "x", "seats": 2, "holdSeconds": 60})
    assert held.json["status"] == "held"
    past.end_holds(sql)
    answer = http.delete(held.headers["Location"])
    assert_error(answer, 404, "Reservation not found", "hold_expired")
    assert http.get(RESERVATIONS).json["availableSeats"] == 500


# --- 4. Health --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"), [(HEALTH, "TicketBoss API is running"), ("/livez", "TicketBoss is alive")]
)
def test_health_is_ok_and_never_cached(http, path, message):
    answer = http.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json
    told.pop("version", None)  # of the release, in /livez
    assert told == {"status": "ok", "message": message}


@pytest.mark.parametrize("path", [HEALTH, "/livez"])
def test_health_takes_head_and_options(http, path):
    head = http.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == http.get(path).headers["Content-Length"]
    assert head.headers["Cache-Control"] == "no-store"
    options = http.call("OPTIONS", path)
    assert (options.status, options.body) == (200, b"")
    assert methods(options) == {"GET", "HEAD", "OPTIONS"}


def test_health_needs_no_key_and_ignores_a_wrong_one(http):
    assert http.get(HEALTH, authorization="Bearer wrong").status == 200


def test_sold_out_is_healthy(http, capacity):
    capacity(0)
    assert reserve(http, 1).status == 409
    assert http.get(HEALTH).status == 200


def test_health_is_503_while_the_database_does_not_answer_and_200_again_after(http, dsn):
    with contextlib.closing(connect(dsn)) as rival:
        with rival.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")
        answer = until(http, HEALTH, 503)
        assert answer.json["status"] == "unavailable"
        assert answer.headers["Cache-Control"] == "no-store"
        assert int(answer.headers["Retry-After"]) >= 1
        assert http.get("/livez").status == 200
    assert until(http, HEALTH, 200).json["status"] == "ok"


def until(http, path, status):
    """Ask until the answer has this status; every answer must come within a second."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        asked = time.monotonic()
        answer = http.get(path)
        assert time.monotonic() - asked < 1
        if answer.status == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{path} never answered {status}")


# --- 6. One reservation -----------------------------------------------------------


def test_a_reservation_can_be_read_as_it_was_answered(http):
    made = reserve(http, 3)
    read = http.get(made.headers["Location"])
    assert read.status == 200
    assert read.json == made.json


def test_a_cancelled_reservation_can_still_be_read(http):
    made = reserve(http, 3)
    reserve(http, 1)
    http.delete(made.headers["Location"])
    read = http.get(made.headers["Location"]).json
    assert TIME.match(read["cancelledAt"])
    assert read["cancelledAt"] > read["createdAt"]
    assert read == {
        **made.json,
        "status": "cancelled",
        "version": 3,
        "cancelledAt": read["cancelledAt"],
    }


def test_the_letters_of_a_reservation_id_may_be_upper_case(http):
    made = reserve(http, 3)
    read = http.get(f"{RESERVATIONS}/{made.json['reservationId'].upper()}")
    assert (read.status, read.json) == (200, made.json)


# --- What every answer has --------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 64])
@pytest.mark.parametrize("path", [RESERVATIONS, HEALTH, "/livez", "/nowhere"])
def test_a_clients_request_id_comes_back(http, given, path):
    assert http.get(path, x_request_id=given).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a/b", "a,b", "é", '"a"', "a\tb", None])
def test_any_other_request_id_is_replaced_by_a_new_one(http, given):
    headers = {} if given is None else {"x_request_id": given}
    ids = {http.get(RESERVATIONS, **headers).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(REQUEST_ID.match(made) and made != given for made in ids)


def test_errors_repeat_the_request_id_in_their_body(http):
    answer = reserve(http, 0, x_request_id="my-id.1")
    assert (answer.headers["X-Request-Id"], answer.json["requestId"]) == ("my-id.1", "my-id.1")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1",
        "/api/v2/reservations",
        "/api/v1/reservation",
        f"/api/v1/reservations/{NOBODYS}/seats",
        "/API/v1/health",
        "/static/logs.py",
    ],
)
def test_an_unknown_address_is_a_404_in_json(http, method, path):
    answer = http.call(method, path)
    assert_error(answer, 404, "There is nothing at this address", "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", RESERVATIONS, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", RESERVATIONS, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("TRACE", RESERVATIONS, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("BREW", RESERVATIONS, {"GET", "HEAD", "OPTIONS", "POST"}),
        (
            "POST",
            f"{RESERVATIONS}/{NOBODYS}",
            {"GET", "HEAD", "OPTIONS", "DELETE", "PATCH"},
        ),
        ("POST", HEALTH, {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/livez", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_allowed_is_a_405_that_says_which_are(http, method, path, allowed):
    answer = http.call(method, path)
    assert_error(answer, 405, "This address does not take this method", "method_not_allowed")
    assert methods(answer) == allowed


def methods(answer):
    return set(re.split(r",\s*", answer.headers["Allow"]))


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_database_that_does_not_answer_in_time_is_a_503_with_retry_after(http, dsn, sql, method):
    address = reserve(http, 3).headers["Location"]
    with contextlib.closing(connect(dsn)) as rival:
        with rival.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE events, reservations IN ACCESS EXCLUSIVE MODE")
        answer = {
            "GET": lambda: http.get(RESERVATIONS),
            "POST": lambda: reserve(http, 1),
            "DELETE": lambda: http.delete(address),
        }[method]()
    sentence = "The service cannot reach its database; try again"
    assert_error(answer, 503, sentence, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert sql("SELECT version, available_seats FROM events") == [(1, 497)]


@pytest.mark.parametrize(
    "call",
    [
        lambda http: http.get(RESERVATIONS),
        lambda http: reserve(http, 3),
        lambda http: http.get(f"{RESERVATIONS}/{uuid4()}"),
        lambda http: http.delete(f"{RESERVATIONS}/{uuid4()}"),
    ],
    ids=["summary", "reserve", "show", "cancel"],
)
def test_a_schema_that_somebody_broke_is_a_500_that_shows_nothing(http, sql, call):
    sql("ALTER TABLE events RENAME COLUMN version TO versions")
    sql("ALTER TABLE reservations RENAME COLUMN seats TO seat")
    try:
        answer = call(http)
    finally:
        sql("ALTER TABLE events RENAME COLUMN versions TO version")
        sql("ALTER TABLE reservations RENAME COLUMN seat TO seats")
    assert_error(answer, 500, "Something went wrong on our side", "internal_error")
    assert http.get(RESERVATIONS).json["version"] == 0


def test_a_bug_is_a_500_that_shows_nothing(dsn):
    application = create_app(Config(database_url=dsn, admin_key=ADMIN_KEY))
    application.add_url_rule("/bug", view_func=lambda: {}["/a/path password=secret"])
    answer = application.test_client().get("/bug")
    assert answer.status_code == 500
    assert answer.json == {
        "error": "Something went wrong on our side",
        "code": "internal_error",
        "requestId": answer.headers["X-Request-Id"],
    }


# --- Many clients at once ---------------------------------------------------------


def test_64_clients_on_the_last_seats_sell_every_seat_and_none_twice(
    server, http, sql, capacity, verify
):
    capacity(100)

    def buy(number, client):
        """Reserve fewer and fewer seats until not even one is left."""
        answers = []
        seats = 4
        for _ in range(200):
            answers.append(reserve(client, seats, f"partner-{number}"))
            if answers[-1].status != 201:
                seats -= 1
            if seats == 0:
                break
        return answers

    each = at_once(server, CLIENTS, buy)
    answers = [answer for client in each for answer in client]
    assert {answer.status for answer in answers} == {201, 409}
    accepted = [answer.json for answer in answers if answer.status == 201]
    assert sum(reservation["seats"] for reservation in accepted) == 100
    assert sorted(reservation["version"] for reservation in accepted) == list(
        range(1, len(accepted) + 1)
    )
    assert len({reservation["reservationId"] for reservation in accepted}) == len(accepted)

    # A refusal is true: fewer seats than asked for, as many as there were at one
    # moment, and at none before this client's own last reservation.
    available = {0: 100, **dict(sql("SELECT version, available_seats FROM ledger"))}
    for client in each:
        version = 0
        for answer in client:
            if answer.status == 201:
                version = answer.json["version"]
            else:
                assert answer.json["code"] == "sold_out"
                assert answer.json["availableSeats"] < answer.json["requestedSeats"]
                assert answer.json["version"] >= version
                assert answer.json["availableSeats"] == available[answer.json["version"]]

    summary = http.get(RESERVATIONS).json
    assert summary["availableSeats"] == 0
    assert summary["reservedSeats"] == 100
    assert summary["reservationCount"] == len(accepted)
    assert verify()[0] == 0


def test_64_clients_on_plenty_of_seats_are_all_served(server, http, verify):
    answers = at_once(server, CLIENTS, lambda _, client: [reserve(client, 1) for _ in range(5)])
    assert {answer.status for client in answers for answer in client} == {201}
    summary = http.get(RESERVATIONS).json
    assert summary["reservationCount"] == summary["reservedSeats"] == 5 * CLIENTS
    assert verify()[0] == 0


def test_of_many_cancels_of_one_reservation_exactly_one_succeeds(server, http, verify):
    for version in (2, 4, 6):
        address = reserve(http, 7).headers["Location"]
        answers = at_once(server, 32, lambda _, client, address=address: client.delete(address))
        assert sorted(answer.status for answer in answers) == [204] + [404] * 31
        refused = [answer.json for answer in answers if answer.status == 404]
        assert {body["code"] for body in refused} == {"already_cancelled"}
        assert len({body["cancelledAt"] for body in refused}) == 1
        summary = http.get(RESERVATIONS).json
        assert (summary["availableSeats"], summary["version"]) == (500, version)
    assert verify()[0] == 0


def test_every_summary_read_during_a_sale_adds_up(server, http, capacity, verify):
    capacity(60)

    def trade(number, client):
        for _ in range(15):
            answer = reserve(client, 1 + number % 10)
            if answer.status == 201:
                assert client.delete(answer.headers["Location"]).status == 204

    def watch(number, client):
        summaries = [client.get(RESERVATIONS).json for _ in range(40)]
        versions = [summary["version"] for summary in summaries]
        assert versions == sorted(versions)
        for summary in summaries:
            assert summary["availableSeats"] + summary["reservedSeats"] == 60
            assert 0 <= summary["reservationCount"] <= summary["reservedSeats"]

    at_once(
        server, 24, lambda number, client: (watch if number % 4 == 0 else trade)(number, client)
    )
    summary = http.get(RESERVATIONS).json
    assert (summary["availableSeats"], summary["reservationCount"]) == (60, 0)
    assert verify()[0] == 0
