"""Many events: create, list, edit, resize, sales windows, the admin key, the command line."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import past
import pytest
from serving import ADMIN, ADMIN_KEY, ROOT
from test_conditions import eventually, one_batch
from test_lists import read_all

from ticketboss import create_app
from ticketboss.config import Config

EVENTS = "/api/v1/events"
DEFAULT = EVENTS + "/node-meetup-2025"
CONCERT = EVENTS + "/concert"
PAST, FUTURE = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


@pytest.fixture
def create(client):
    def create(event_id="concert", total_seats=10, **members):
        body = {"eventId": event_id, "name": "A Concert", "totalSeats": total_seats, **members}
        return client.post(EVENTS, json=body, headers=ADMIN)

    return create


@pytest.fixture
def edit(client):
    """Edit the concert, on the version given, or on the one that it has."""

    def edit(if_match=None, **members):
        tags = if_match or client.get(CONCERT).headers["ETag"]
        return client.patch(CONCERT, json=members, headers={**ADMIN, "If-Match": tags})

    return edit


@pytest.fixture
def reserve(client):
    def reserve(seats=1, **headers):
        body = {"partnerId": "abc-corp", "seats": seats}
        return client.post(CONCERT + "/reservations", json=body, headers=headers)

    return reserve


# --- Create and list --------------------------------------------------------------


def test_a_created_event_is_there_with_all_its_seats(client, create, verify):
    made = create(salesOpenAt="2025-11-01T15:00:00+01:00", salesCloseAt=FUTURE)
    assert (made.status_code, made.location, made.headers["ETag"]) == (201, CONCERT, '"0"')
    assert made.json == {
        "eventId": "concert",
        "name": "A Concert",
        "totalSeats": 10,
        "availableSeats": 10,
        "reservationCount": 0,
        "reservedSeats": 0,
        "version": 0,
        "salesOpenAt": "2025-11-01T14:00:00.000000Z",
        "salesCloseAt": "2100-01-01T00:00:00.000000Z",
    }
    assert client.get(CONCERT).json == made.json
    assert verify() == (0, "concert: 0 changes, ok\nnode-meetup-2025: 0 changes, ok\n")


def test_an_event_is_created_once_however_many_ask(server, sql):
    def race(number):
        body = {"eventId": "concert", "name": f"Number {number}", "totalSeats": number}
        return server.client().call("POST", EVENTS, body, ADMIN)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(8)))
    assert sorted(answer.status for answer in answers) == [201] + 7 * [409]
    assert {answer.json["code"] for answer in answers if answer.status == 409} == {"event_exists"}
    (made,) = (answer.json for answer in answers if answer.status == 201)
    assert sql("SELECT name, total_seats FROM events WHERE event_id = 'concert'") == [
        (made["name"], made["totalSeats"])
    ]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05.000000Z"),
        ("2030-01-02t03:04:05.1z", "2030-01-02T03:04:05.100000Z"),
        ("2030-01-02T03:04:05.1234567Z", "2030-01-02T03:04:05.123456Z"),
        ("2030-01-02T03:04:05.123456789+05:30", "2030-01-01T21:34:05.123456Z"),
        ("2030-01-02T03:04:05.999999999999Z", "2030-01-02T03:04:05.999999Z"),
        ("2030-01-02T03:04:05." + "9" * 99 + "Z", "2030-01-02T03:04:05.999999Z"),
        ("2030-01-02T03:04:05-00:00", "2030-01-02T03:04:05.000000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T15:59:60.5-08:00", "2017-01-01T00:00:00.500000Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-01-01T00:00:00+14:00", "9998-12-31T10:00:00.000000Z"),
        ("1969-07-20T20:17:40Z", "1969-07-20T20:17:40.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_every_instant_of_rfc_3339_is_taken_and_cut_to_microseconds(
    client, create, edit, written, shown
):
    made = create(salesOpenAt=written)
    assert (made.status_code, made.json["salesOpenAt"]) == (201, shown)
    assert edit(salesOpenAt=None, salesCloseAt=written).json["salesCloseAt"] == shown
    assert client.get(CONCERT).json["salesCloseAt"] == shown


def test_times_are_the_same_whatever_time_zone_the_database_has(dsn, sql):
    """At the ends of the calendar another zone is in a year that Python does not have."""
    ((database,),) = sql("SELECT current_database()")
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        sql(f"ALTER DATABASE {database} SET timezone = '{zone}'")
        try:
            client = create_app(Config(database_url=dsn, admin_key=ADMIN_KEY)).test_client()
            for time in ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z"):
                members = {"salesOpenAt": time, "salesCloseAt": None}
                headers = {**ADMIN, "If-Match": "*"}
                edited = client.patch(DEFAULT, json=members, headers=headers)
                assert (edited.status_code, edited.json["salesOpenAt"]) == (200, time)
                assert client.get(EVENTS).json["items"][0]["salesOpenAt"] == time
        finally:
            sql(f"ALTER DATABASE {database} RESET timezone")


WRONG = {
    "eventId": ["", "A", "a b", ".", "..", "a" * 65, "a\n", "é", "a/b", 1, None],
    "name": ["", "  ", "x" * 201, "a\x00b", " a", "a ", "\u200d", "a\u200b", 5, None],
    "totalSeats": [-1, 10_000_001, 1.5, "1", True, None],
    "salesOpenAt": ["", "tomorrow", "2025-11-01", "2025-11-01T15:00:00", "2025-13-01T00:00:00Z", 5]
    + ["2100-01-01T00:00:00.000001Z", "2030-01-01T00:00:60Z", "2030-12-31T22:59:60Z"]
    + ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01"]
    + ["2030-01-01T00:00:00.Z", "2030-01-01T00:00:00+24:00", "2030-01-01 00:00:00Z"]
    + ["2030-02-30T00:00:00Z", "2030-01-01T24:00:00Z", "٢030-01-01T00:00:00Z"],
    "totalseats": [5],
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_event_that_cannot_be_is_refused_by_the_name_of_its_fault(create, sql, fault):
    for value in WRONG[fault]:
        refused = create(**{"salesCloseAt": FUTURE, fault: value})
        assert (refused.status_code, refused.json["code"]) == (400, "invalid_request"), value
        assert list(refused.json["fields"]) == [fault]
        assert fault in refused.json["error"]
    assert sql("SELECT count(*) FROM events") == [(1,)]


def test_events_are_listed_page_by_page_in_the_order_of_their_ids(client, create):
    names = ["a", "a-b", "b.c", "b_c", "zz"]
    for name in reversed(names):
        assert create(name).status_code == 201
    for limit in (1, 2, 3, 4, 6, 7, 100):
        listed, sizes = read_all(client.get, f"{EVENTS}?limit={limit}")
        assert [event["eventId"] for event in listed] == sorted([*names, "node-meetup-2025"])
        # No page is empty, not even the last.
        assert sizes == [limit] * (6 // limit) + [6 % limit] * bool(6 % limit)
    assert listed == [client.get(f"{EVENTS}/{event['eventId']}").json for event in listed]


def test_without_events_the_list_is_empty(client, sql):
    sql("TRUNCATE events, reservations, ledger")
    assert client.get(EVENTS).json == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nobody"),
        ("GET", "/nobody/reservations"),
        ("GET", "/nobody/changes"),
        ("GET", "/No%20Body"),
        ("GET", "/%00/reservations"),
        ("POST", "/nobody/reservations"),
        ("POST", "/%FF/reservations"),
        ("PATCH", "/nobody"),
        ("PATCH", "/NOBODY"),
    ],
)
def test_an_event_that_does_not_exist_is_not_found(client, method, path):
    body = {"POST": {"partnerId": "abc-corp", "seats": 1}, "PATCH": {"name": "B"}}.get(method)
    headers = {**ADMIN, "If-Match": "*"}
    answer = client.open(EVENTS + path, method=method, json=body, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (404, "event_not_found")


def test_events_do_not_share_seats_versions_or_reservations(client, create, reserve, verify):
    create()
    made = reserve(4)
    assert made.json["eventId"] == "concert"
    assert client.get(CONCERT).json["availableSeats"] == 6
    assert client.get(DEFAULT).json["version"] == 0
    assert client.get(DEFAULT + "/reservations").json["items"] == []
    assert client.delete(made.location).status_code == 204
    assert client.get(CONCERT).json["version"] == 2
    assert verify()[0] == 0


# --- Edit -------------------------------------------------------------------------


def test_an_edit_is_a_change_like_any_other(client, create, edit, verify):
    create()
    edited = edit(name="Another", totalSeats=20, salesOpenAt=PAST)
    assert (edited.status_code, edited.headers["ETag"]) == (200, '"1"')
    assert edited.json == client.get(CONCERT).json
    assert edited.json["name"] == "Another"
    assert (edited.json["totalSeats"], edited.json["availableSeats"]) == (20, 20)
    assert edited.json["salesOpenAt"] == "2020-01-01T00:00:00.000000Z"
    (change,) = client.get(CONCERT + "/changes").json["items"]
    assert (change["version"], change["type"], change["seats"]) == (1, "event_updated", 20)
    assert (change["availableSeats"], change["reservationId"]) == (20, None)
    assert edit(salesOpenAt=None).json.keys() == edited.json.keys() - {"salesOpenAt"}
    assert client.get(CONCERT).json["name"] == "Another"
    assert verify()[0] == 0


def test_an_edit_needs_the_version_that_it_is_made_on(client, create, edit, reserve):
    create()
    blind = client.patch(CONCERT, json={"name": "B"}, headers=ADMIN)
    assert (blind.status_code, blind.json["code"]) == (428, "precondition_required")
    reserve()
    stale = edit('"0"', name="B")
    assert (stale.status_code, stale.json["code"]) == (412, "precondition_failed")
    assert stale.json["version"] == 1
    assert client.get(CONCERT).json["name"] == "A Concert"
    assert edit('"1"', name="B").json["version"] == 2


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({}, None),
        ({"eventId": "other"}, "eventId"),
        ({"availableSeats": 5}, "availableSeats"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"totalSeats": -1}, "totalSeats"),
        ({"totalSeats": None}, "totalSeats"),
        ({"salesCloseAt": "soon"}, "salesCloseAt"),
        ({"salesOpenAt": FUTURE, "salesCloseAt": PAST}, "salesOpenAt"),
        ({"salesCloseAt": PAST}, "salesOpenAt"),
        ({"salesCloseAt": "2050-01-01T00:00:00Z"}, "salesOpenAt"),
    ],
)
def test_a_wrong_edit_names_its_fault_and_changes_nothing(client, create, edit, members, fault):
    create(salesOpenAt="2050-01-01T00:00:00Z")
    before = client.get(CONCERT).data
    refused = edit(**members)
    assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
    assert list(refused.json["fields"]) == ([fault] if fault else [])
    if fault:
        assert fault in refused.json["error"]
        assert all(fault in sentence for sentence in refused.json["fields"][fault])
    assert client.get(CONCERT).data == before


def test_an_event_cannot_shrink_below_what_is_sold(client, create, edit, reserve, verify):
    create()
    reserve(4), reserve(3)
    refused = edit(totalSeats=6)
    assert (refused.status_code, refused.json["code"]) == (409, "capacity_below_reserved")
    assert (refused.json["minimumSeats"], refused.json["version"]) == (7, 2)
    assert client.get(CONCERT).json["version"] == 2
    shrunk = edit(totalSeats=7)
    assert (shrunk.status_code, shrunk.json["availableSeats"]) == (200, 0)
    assert reserve().json["code"] == "sold_out"
    assert edit(totalSeats=8).json["availableSeats"] == 1
    assert reserve().status_code == 201
    assert verify()[0] == 0


def test_what_has_expired_does_not_keep_an_event_from_shrinking(client, create, edit, sql):
    create()
    hold = {"partnerId": "abc-corp", "seats": 8, "holdSeconds": 60}
    assert client.post(CONCERT + "/reservations", json=hold).status_code == 201
    past.end_holds(sql)
    assert edit('"1"', totalSeats=5).json["version"] == 2  # the hold's end came first
    assert edit('"2"', totalSeats=5).json["totalSeats"] == 5


def test_resizes_and_sales_that_wait_together_are_judged_in_the_order_of_their_arrival(
    application, write_path, create, verify
):
    create()

    def reserve(seats):
        body = {"partnerId": "abc-corp", "seats": seats}
        return lambda: application.test_client().post(CONCERT + "/reservations", json=body)

    def resize(seats):
        return lambda: application.test_client().patch(
            CONCERT, json={"totalSeats": seats}, headers={**ADMIN, "If-Match": "*"}
        )

    calls = [reserve(6), resize(5), resize(7), reserve(2), reserve(1), resize(12), reserve(5)]
    answers = one_batch(write_path, calls, "concert")
    assert [answer.status_code for answer in answers] == [201, 409, 200, 409, 201, 200, 201]
    assert answers[1].json["minimumSeats"] == 6
    assert (answers[3].json["code"], answers[3].json["availableSeats"]) == ("sold_out", 1)
    assert answers[5].json["availableSeats"] == 5
    assert verify()[0] == 0


def test_a_resize_never_races_with_a_sale(server, create, verify):
    create(total_seats=40)
    done = threading.Event()

    def sell(number):
        client = server.client()
        body = {"partnerId": f"partner-{number}", "seats": 1 + number % 3}
        answers = []
        for _ in range(25):
            answers.append(client.post(CONCERT + "/reservations", body))
            if answers[-1].status == 201 and number % 2:
                client.delete(answers[-1].headers["Location"])
        return answers

    def resize():
        client, seen = server.client(), []
        for turn in range(10_000):
            if done.is_set():
                return seen
            event = client.get(CONCERT).json
            body = {"totalSeats": 60 if turn % 2 else event["reservedSeats"]}
            headers = {**ADMIN, "If-Match": "*" if turn % 3 else f'"{event["version"]}"'}
            seen.append(client.call("PATCH", CONCERT, body, headers))
        raise AssertionError("the sale did not end")

    with ThreadPoolExecutor(5) as pool:
        resizing = pool.submit(resize)
        try:
            sold = [answer for answers in pool.map(sell, range(4)) for answer in answers]
        finally:
            done.set()
        resized = resizing.result()
    assert {answer.status for answer in sold} <= {201, 409}
    assert {answer.json["code"] for answer in sold if answer.status == 409} <= {"sold_out"}
    assert {answer.status for answer in resized} <= {200, 409, 412}
    assert any(answer.status == 200 for answer in resized)
    for answer in resized:
        if answer.status == 200:
            event = answer.json
            assert event["availableSeats"] + event["reservedSeats"] == event["totalSeats"]
        elif answer.status == 409:
            assert answer.json["code"] == "capacity_below_reserved"
    assert verify()[0] == 0


# --- The sales window ---------------------------------------------------------------


def test_nothing_is_sold_before_sales_open(client, create, reserve):
    create(salesOpenAt=FUTURE)
    refused = reserve()
    assert (refused.status_code, refused.json["code"]) == (409, "sales_not_open")
    assert refused.json["salesOpenAt"] == "2100-01-01T00:00:00.000000Z"
    assert refused.json["version"] == client.get(CONCERT).json["version"] == 0


def test_nothing_is_sold_after_sales_close_but_what_was_sold_can_be_cancelled(
    client, create, edit, reserve, verify
):
    create()
    kept, given_back = reserve(3), reserve(4)
    edit(salesCloseAt=PAST)
    refused = reserve()
    assert (refused.status_code, refused.json["code"]) == (409, "sales_closed")
    assert refused.json["version"] == 3
    assert client.delete(given_back.location).status_code == 204
    assert client.patch(kept.location, json={"seats": 1}).status_code == 200
    assert verify()[0] == 0


def test_a_hold_cannot_be_extended_once_sales_have_closed(client, create, edit, verify):
    create()
    hold = {"partnerId": "abc-corp", "seats": 8, "holdSeconds": 60}
    place = client.post(CONCERT + "/reservations", json=hold).location
    edit(salesCloseAt=PAST)
    refused = client.post(place + "/extend", json={"holdSeconds": 60})
    assert (refused.status_code, refused.json["code"]) == (409, "sales_closed")
    assert refused.json["salesCloseAt"] == "2020-01-01T00:00:00.000000Z"
    assert refused.json["version"] == client.get(CONCERT).json["version"] == 2
    assert client.patch(place, json={"seats": 3}).status_code == 200
    # Before sales open again is not after their close.
    edit(salesOpenAt=FUTURE, salesCloseAt=None)
    assert client.post(place + "/extend", json={"holdSeconds": 60}).status_code == 200
    assert verify()[0] == 0


@pytest.mark.parametrize(("offset", "status"), [("0", 409), ("1 minute", 200)])
def test_a_hold_can_be_extended_until_the_instant_of_the_close(client, create, sql, offset, status):
    create()
    hold = {"partnerId": "abc-corp", "seats": 8, "holdSeconds": 60}
    place = client.post(CONCERT + "/reservations", json=hold).location
    close = f"UPDATE events SET sales_close_at = now() + interval '{offset}'"
    sql(close + " WHERE event_id = 'concert'")
    assert client.post(place + "/extend", json={"holdSeconds": 60}).status_code == status


def test_an_extension_behind_an_edit_that_closes_sales_is_refused(
    application, write_path, client, create, verify
):
    create()
    hold = {"partnerId": "abc-corp", "seats": 1, "holdSeconds": 60}
    place = client.post(CONCERT + "/reservations", json=hold).location

    def extend():
        return application.test_client().post(place + "/extend", json={"holdSeconds": 60})

    def close_sales():
        headers = {**ADMIN, "If-Match": "*"}
        members = {"salesCloseAt": PAST}
        return application.test_client().patch(CONCERT, json=members, headers=headers)

    answers = one_batch(write_path, [extend, close_sales, extend], "concert")
    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert answers[2].json["code"] == "sales_closed"
    assert verify()[0] == 0


def test_a_hold_made_in_time_can_be_confirmed_after_sales_close(client, create, edit):
    create()
    hold = {"partnerId": "abc-corp", "seats": 8, "holdSeconds": 60}
    made = client.post(CONCERT + "/reservations", json=hold)
    edit(salesCloseAt=PAST)
    assert client.post(made.location + "/confirm").json["status"] == "confirmed"


@pytest.mark.parametrize(
    ("column", "offset", "status"),
    [
        ("sales_open_at", "0", 201),
        ("sales_open_at", "1 minute", 409),
        ("sales_close_at", "0", 409),
        ("sales_close_at", "1 minute", 201),
    ],
)
def test_the_window_is_open_from_its_first_instant_to_before_its_last(
    create, reserve, sql, column, offset, status
):
    create()
    sql(f"UPDATE events SET {column} = now() + interval '{offset}' WHERE event_id = 'concert'")
    assert reserve().status_code == status


def test_sales_open_at_their_instant_for_everybody(server, create, sql, verify):
    """Clients that keep asking while sales open: none is served before, all are after."""
    create(total_seats=1000)
    opens = "UPDATE events SET sales_open_at = now() + interval '400 ms'"
    past.create(sql, f"{opens} WHERE event_id = 'concert'")

    def ask(number):
        client, refused = server.client(), 0
        body = {"partnerId": f"partner-{number}", "seats": 1}
        while (answer := client.post(CONCERT + "/reservations", body)).status == 409:
            assert answer.json["code"] == "sales_not_open"
            refused += 1
        return answer.status, refused

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert [status for status, _ in answers] == [201] * 6
    assert all(refused for _, refused in answers)
    assert sql(
        "SELECT min(reservations.created_at) >= min(sales_open_at)"
        " FROM reservations JOIN events USING (event_id)"
    ) == [(True,)]
    assert verify()[0] == 0


def test_an_edit_that_opens_sales_lets_those_in_who_wait_behind_it(
    application, write_path, create, verify
):
    create(salesOpenAt=FUTURE)

    def reserve():
        body = {"partnerId": "abc-corp", "seats": 1}
        return application.test_client().post(CONCERT + "/reservations", json=body)

    def open_sales():
        headers = {**ADMIN, "If-Match": '"0"'}
        return application.test_client().patch(CONCERT, json={"salesOpenAt": None}, headers=headers)

    answers = one_batch(write_path, [reserve, open_sales, reserve], "concert")
    assert [answer.status_code for answer in answers] == [409, 200, 201]
    assert verify()[0] == 0


def test_an_edit_that_closes_sales_keeps_those_out_who_wait_behind_it(
    application, write_path, create, verify
):
    create()

    def reserve():
        body = {"partnerId": "abc-corp", "seats": 1}
        return application.test_client().post(CONCERT + "/reservations", json=body)

    def close_sales():
        headers = {**ADMIN, "If-Match": "*"}
        return application.test_client().patch(
            CONCERT, json={"salesCloseAt": PAST}, headers=headers
        )

    answers = one_batch(write_path, [reserve, close_sales, reserve], "concert")
    assert [answer.status_code for answer in answers] == [201, 200, 409]
    assert answers[2].json["code"] == "sales_closed"
    assert verify()[0] == 0


def test_who_arrives_after_the_opening_is_not_refused_by_an_older_clock(
    application, write_path, create, sql, verify
):
    """The event was read before sales opened, and is remembered while they open."""
    create(salesOpenAt=FUTURE)
    opens = "UPDATE events SET sales_open_at = now() + interval '300 ms'"
    past.create(sql, f"{opens} WHERE event_id = 'concert'")

    def rename():
        headers = {**ADMIN, "If-Match": "*"}
        return application.test_client().patch(CONCERT, json={"name": "B"}, headers=headers)

    def reserve():
        body = {"partnerId": "abc-corp", "seats": 1}
        return application.test_client().post(CONCERT + "/reservations", json=body)

    opened = "SELECT now() >= sales_open_at FROM events WHERE event_id = 'concert'"
    answers = one_batch(
        write_path,
        [rename, reserve],
        "concert",
        first=lambda: eventually(lambda: sql(opened) == [(True,)]),
    )
    assert [answer.status_code for answer in answers] == [200, 201]
    assert verify()[0] == 0


# --- The admin key ------------------------------------------------------------------


@pytest.fixture(scope="session")
def without_key(dsn):
    return create_app(Config(database_url=dsn)).test_client()


@pytest.mark.parametrize("key", [None, "", "Bearer ", "Bearer None", ADMIN["authorization"]])
def test_while_no_admin_key_is_configured_nobody_is_the_admin(without_key, sql, key):
    headers = {"If-Match": "*", **({} if key is None else {"Authorization": key})}
    body = {"eventId": "concert", "name": "A Concert", "totalSeats": 10}
    for refused in (
        without_key.post(EVENTS, json=body, headers=headers),
        without_key.patch(DEFAULT, json={"name": "B"}, headers=headers),
    ):
        assert (refused.status_code, refused.json["code"]) == (401, "unauthorized")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert sql("SELECT event_id, version FROM events") == [("node-meetup-2025", 0)]


def test_a_wrong_admin_key_is_refused(server, sql):
    body = {"eventId": "concert", "name": "A Concert", "totalSeats": 10}
    wrong = (
        *("", "Bearer", "Bearer ", ADMIN_KEY, f"Basic {ADMIN_KEY}", f"Bearer {ADMIN_KEY}x"),
        *(f"Bearer {ADMIN_KEY[:-1]}", f"Bearer {ADMIN_KEY.upper()}"),
        *(f"Bearer {ADMIN_KEY} {ADMIN_KEY}", "Bearer cl\xe9", f"Bearer {ADMIN_KEY}\xff"),
        *("Bearer \xb9", "Bearer " + "\xff" * 2000, None),
    )
    for number, authorization in enumerate(wrong, start=1):
        client = server.client(source=f"127.0.1.{number}")  # so many from one would be guesses
        headers = {"If-Match": "*"}
        if authorization is not None:
            headers["Authorization"] = authorization
        for refused in (
            client.call("POST", EVENTS, body, headers),
            client.call("POST", EVENTS, {"nonsense": 1}, headers),
            client.call("PATCH", DEFAULT, {"name": "B"}, headers),
        ):
            assert (refused.status, refused.json["code"]) == (401, "unauthorized"), authorization
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert ADMIN_KEY not in refused.body.decode()
        client.close()
    assert sql("SELECT event_id, version FROM events") == [("node-meetup-2025", 0)]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_of_the_admin_key_has_no_case(client, scheme):
    headers = {"Authorization": f"{scheme} {ADMIN_KEY}", "If-Match": "*"}
    assert client.patch(DEFAULT, json={"name": "B"}, headers=headers).status_code == 200


# --- The command line ---------------------------------------------------------------


@pytest.fixture
def command(application):
    """Run `flask events` and return its exit status and its lines."""

    def command(*arguments):
        result = application.test_cli_runner().invoke(args=["events", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output.splitlines()

    return command


HEAD = ["EVENT", "NAME", "SEATS", "AVAILABLE", "RESERVATIONS", "VERSION", "SALES"]


def test_events_are_created_listed_shown_and_edited_from_the_command_line(
    command, client, reserve, verify
):
    code, lines = command("create", "concert", "--name", "A Concert", "--total-seats", "10")
    assert code == 0
    assert lines[0].split() == HEAD
    assert lines[1].split() == ["concert", "A", "Concert", *("10", "10", "0", "0"), "always"]
    assert len(lines) == 2
    reserve(4)
    assert command("show", "concert") == (
        0,
        [
            "EVENT    NAME       SEATS  AVAILABLE  RESERVATIONS  VERSION  SALES",
            "concert  A Concert     10          6             1        1  always",
        ],
    )
    times = ("--sales-open-at", PAST, "--sales-close-at", FUTURE)
    code, lines = command("edit", "concert", "--name", "Another", "--total-seats", "4", *times)
    assert code == 0
    assert lines[1].split() == [
        *("concert", "Another", "4", "0", "1", "2"),
        *("2020-01-01T00:00:00Z", "to", "2100-01-01T00:00:00Z"),
    ]
    code, lines = command("list")
    assert code == 0
    assert [line.split()[0] for line in lines] == ["EVENT", "concert", "node-meetup-2025"]
    # A table: every column ends, or starts, at one place.
    assert len({line.rstrip().rfind("  ") for line in lines}) <= 2
    assert lines[0].index("SALES") == lines[1].index("2020") == lines[2].index("always")
    assert client.get(CONCERT).json["name"] == "Another"
    assert verify()[0] == 0


def test_an_empty_time_takes_the_time_away(command, client, create):
    create(salesOpenAt=PAST, salesCloseAt=FUTURE)
    code, lines = command("edit", "concert", "--sales-open-at", "")
    assert (code, lines[1].split()[-3:]) == (0, ["now", "to", "2100-01-01T00:00:00Z"])
    assert "salesOpenAt" not in client.get(CONCERT).json


def test_the_command_line_lists_more_events_than_fit_a_page(command, sql):
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " SELECT 'event-' || lpad(n::text, 3, '0'), 'E', 1, 1, 1 FROM generate_series(1, 250) n"
    )
    code, lines = command("list")
    assert code == 0
    assert [line.split()[0] for line in lines[1:-1]] == [f"event-{n:03}" for n in range(1, 251)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "nobody"], 1, ["Event not found"]),
        (["show", "NOT AN ID"], 1, ["Event not found"]),
        (["edit", "nobody", "--name", "B"], 1, ["Event not found"]),
        (["edit", "concert"], 2, ["name at least one thing"]),
        (["edit", "concert", "--name", ""], 1, ["name must have 1 to 200 characters"]),
        (["edit", "concert", "--total-seats", "2"], 1, ["More seats are reserved", "3"]),
        (["edit", "concert", "--total-seats", "many"], 2, ["--total-seats", "many"]),
        (["edit", "concert", "--total-seats", "-1"], 1, ["between 0 and 10000000"]),
        (["edit", "concert", "--sales-open-at", "soon"], 1, ["salesOpenAt", "RFC 3339"]),
        (["create", "concert", "--name", "B", "--total-seats", "1"], 1, ["id exists"]),
        (["create", "CONCERT", "--name", "B", "--total-seats", "1"], 1, ["1 to 64 of a-z"]),
        (["create", "other", "--name", "B"], 1, ["totalSeats is missing"]),
        (["create"], 2, ["EVENT_ID"]),
        (["remove", "concert"], 2, ["remove"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_the_command_line_refuses_is_said_in_a_line(
    command, client, create, reserve, arguments, code, words
):
    create()
    reserve(3)
    before = client.get(EVENTS).data
    status, lines = command(*arguments)
    assert status == code
    error = lines[-1]
    assert error.startswith("Error: ")
    assert all(word in error for word in words), error
    assert client.get(EVENTS).data == before


def test_the_command_works_as_it_is_documented(dsn):
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "events", "show", "node-meetup-2025"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "node-meetup-2025  Node.js Meet-up    500" in done.stdout
