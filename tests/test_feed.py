"""The change feed: gapless, cheap, and enough to know everything (API.md, section 9)."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import past
import pytest
from serving import ADMIN
from test_lists import read_all

from ticketboss.data.statements import statement
from ticketboss.rules.changes import Cancel, Confirm, Edit, Extend, Reduce, Reserve

RESERVATIONS = "/api/v1/reservations"
EVENT = "/api/v1/events/node-meetup-2025"
CHANGES = EVENT + "/changes"
MEMBERS = {
    *("version", "type", "reservationId", "partnerId", "seats", "availableSeats", "at", "actor")
}


class Follower:
    """An event as a client knows it that reads nothing but its feed."""

    def __init__(self, total_seats):
        self.total_seats = self.available_seats = total_seats
        self.version = 0
        self.live = {}  # seats by reservation
        self.statuses = {}

    def follow(self, change):
        assert change.keys() - {"event"} == MEMBERS
        assert ("event" in change) == (change["type"] == "event_updated")
        assert change["version"] == self.version + 1
        self.version = change["version"]
        kind, reservation, seats = change["type"], change["reservationId"], change["seats"]
        if kind == "event_updated":
            assert (reservation, change["partnerId"]) == (None, None)
            self.available_seats += seats - self.total_seats
            self.total_seats = seats
            assert change["event"]["totalSeats"] == seats
        elif kind in ("cancelled", "expired"):
            assert self.live.pop(reservation) == seats
            self.available_seats += seats
        else:
            held = self.live.get(reservation, 0)
            assert (held == 0) == (kind in ("reserved", "held"))
            assert kind != "reduced" or seats < held
            assert kind not in ("confirmed", "extended") or seats == held
            self.live[reservation] = seats
            self.available_seats += held - seats
        if reservation:
            was = self.statuses.get(reservation)
            self.statuses[reservation] = {
                "reserved": "confirmed",
                "extended": "held",
                "reduced": was,
            }.get(kind, kind)
        assert change["availableSeats"] == self.available_seats >= 0

    def summary(self):
        return {
            "totalSeats": self.total_seats,
            "availableSeats": self.available_seats,
            "reservationCount": len(self.live),
            "reservedSeats": sum(self.live.values()),
            "version": self.version,
        }


def numbers(summary):
    return {
        name: value
        for name, value in summary.items()
        if name not in ("eventId", "name", "salesOpenAt", "salesCloseAt")
    }


@pytest.fixture
def every_kind(client, sql):
    """Make one change of every kind; return the summary afterwards."""

    def reserve(**members):
        body = {"partnerId": "abc-corp", "seats": 5, **members}
        return client.post(RESERVATIONS, json=body).location

    sold, held, lost = reserve(), reserve(holdSeconds=60), reserve(seats=2, holdSeconds=60)
    client.post(held + "/extend", json={"holdSeconds": 90})
    client.post(held + "/confirm")
    client.patch(sold, json={"seats": 4})
    client.delete(held)
    edit = {"totalSeats": 50, "name": "Smaller"}
    assert client.patch(EVENT, json=edit, headers={**ADMIN, "If-Match": "*"}).status_code == 200
    past.end_holds(sql, f"reservation_id = '{lost.rpartition('/')[2]}'")
    summary = client.get(EVENT).json
    assert summary["version"] == 9
    return summary


def test_the_feed_tells_every_change_in_the_order_of_the_versions(client, every_kind):
    page = client.get(CHANGES).json
    assert page.keys() == {"items", "next"}
    changes = page["items"]
    assert [(c["version"], c["type"], c["seats"], c["availableSeats"]) for c in changes] == [
        (1, "reserved", 5, 495),
        (2, "held", 5, 490),
        (3, "held", 2, 488),
        (4, "extended", 5, 488),
        (5, "confirmed", 5, 488),
        (6, "reduced", 4, 489),
        (7, "cancelled", 5, 494),
        (8, "event_updated", 50, 44),
        (9, "expired", 2, 46),
    ]
    assert page["next"] == 9
    times = [change["at"] for change in changes if change["version"] != 3]  # put into the past
    assert times == sorted(times)
    assert {change["partnerId"] for change in changes} == {"abc-corp", None}
    for change in changes[-1:] + changes[:1]:
        reservation = client.get(f"{RESERVATIONS}/{change['reservationId']}").json
        assert reservation["version"] >= change["version"]
    made = client.get(f"{RESERVATIONS}/{changes[0]['reservationId']}").json
    assert made["createdAt"] == changes[0]["at"]


def test_the_feed_replayed_gives_every_number_of_the_summary(client, every_kind):
    follower = Follower(500)
    for change in client.get(CHANGES).json["items"]:
        follower.follow(change)
    assert follower.summary() == numbers(every_kind)


def test_the_feed_is_read_from_any_version_in_pages(client, every_kind):
    everything = client.get(CHANGES).json["items"]
    for limit in (1, 2, 8, 9, 10, 1000):
        for after in (0, 1, 8, 9):
            page = client.get(f"{CHANGES}?after={after}&limit={limit}").json
            assert page["items"] == everything[after : after + limit]
            assert page["next"] == (page["items"][-1]["version"] if page["items"] else after)


def test_a_page_of_the_feed_has_100_changes_unless_the_client_says_otherwise(client):
    for _ in range(51):
        place = client.post(RESERVATIONS, json={"partnerId": "a", "seats": 1}).location
        client.delete(place)
    assert [change["version"] for change in client.get(CHANGES).json["items"]] == [*range(1, 101)]


def test_every_change_tells_who_made_it(client, every_kind):
    actors = {change["version"]: change["actor"] for change in client.get(CHANGES).json["items"]}
    assert actors == {**dict.fromkeys(range(1, 8)), 8: "admin", 9: "expiry"}


def test_a_change_is_entered_with_whoever_makes_it(client, write_path):
    name, sale, hold = "node-meetup-2025", uuid4(), uuid4()
    changes = (
        Reserve(sale, name, "abc-corp", 2, actor="one"),
        Reserve(hold, name, "abc-corp", 2, 60, actor="two"),
        Extend(hold, 90, actor="three"),
        Confirm(hold, actor="four"),
        Reduce(sale, 1, actor="five"),
        Cancel(sale, actor="six"),
        Edit({"name": "Other"}, actor="seven"),
    )
    for change in changes:
        write_path.submit(name, change)
    told = [change["actor"] for change in client.get(CHANGES).json["items"]]
    assert told == [change.actor for change in changes]


def test_an_edit_tells_all_members_of_the_event_after_it(client, application):
    opens = "2030-01-01T12:00:00.500000Z"

    def edit(version, **members):
        headers = {**ADMIN, "If-Match": f'"{version}"'}
        assert client.patch(EVENT, json=members, headers=headers).status_code == 200

    edit(0, name="Smaller", totalSeats=50)
    edit(1, salesOpenAt="2030-01-01T13:00:00.5+01:00")
    edit(2, salesOpenAt=None, salesCloseAt=opens)
    command = ["events", "edit", "node-meetup-2025", "--name", "Last"]
    assert application.test_cli_runner().invoke(args=command).exit_code == 0
    items = client.get(CHANGES).json["items"]
    smaller = {"name": "Smaller", "totalSeats": 50}
    assert [item["event"] for item in items] == [
        smaller,
        {**smaller, "salesOpenAt": opens},
        {**smaller, "salesCloseAt": opens},
        {**smaller, "name": "Last", "salesCloseAt": opens},
    ]
    assert [item["actor"] for item in items] == ["admin", "admin", "admin", "command"]


def test_where_there_is_nothing_new_the_page_is_empty_and_the_place_stays(client, every_kind):
    answer = client.get(CHANGES + "?after=9")
    assert (answer.status_code, answer.json) == (200, {"items": [], "next": 9})


@pytest.mark.parametrize("after", [10, 500, 2**63 - 1])
@pytest.mark.parametrize("tag", ["{}", "9", "*"])
def test_a_cursor_that_the_event_has_not_got_to_is_not_one_of_this_feed(
    client, every_kind, after, tag
):
    """From before a restore, or of another environment: silence would lose what comes next."""
    seen = {"If-None-Match": "*" if tag == "*" else f'"{tag.format(after)}"'}
    answer = client.get(f"{CHANGES}?after={after}", headers=seen)
    assert (answer.status_code, answer.json["code"]) == (409, "cursor_ahead")
    assert answer.json["version"] == 9


def test_a_cursor_ahead_of_the_end_of_a_hold_is_told_the_version_that_this_makes(client, sql):
    hold = {"partnerId": "abc-corp", "seats": 2, "holdSeconds": 60}
    assert client.post(RESERVATIONS, json=hold).status_code == 201
    sql("UPDATE reservations SET expires_at = now()")
    ahead = client.get(CHANGES + "?after=5")
    assert (ahead.json["code"], ahead.json["version"]) == ("cursor_ahead", 2)


def test_the_feed_of_an_event_without_changes_is_empty(client):
    assert client.get(CHANGES).json == {"items": [], "next": 0}


@pytest.mark.parametrize("query", ["", "?after=7", "?after=9", "?limit=3", "?after=4&limit=2"])
def test_who_has_a_page_is_told_that_it_has_not_changed(client, every_kind, query):
    page = client.get(CHANGES + query)
    seen = {"If-None-Match": page.headers["ETag"]}
    again = client.get(CHANGES + query, headers=seen)
    assert (again.status_code, again.data) == (304, b"")
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
    later = client.get(CHANGES + query, headers=seen)
    grows = "limit" not in query
    assert later.status_code == (200 if grows else 304)
    assert client.get(CHANGES + query).json["next"] == page.json["next"] + grows


def test_a_wrong_query_is_refused_by_the_name_of_its_fault(client):
    for fault, values in {
        "after": ["-1", "1.5", "x", "", "1e3", str(2**63), "9" * 99, "1&after=2"],
        "limit": ["0", "1001", "-1", "x", ""],
        "since": ["1"],
    }.items():
        for value in values:
            refused = client.get(f"{CHANGES}?{fault}={value}")
            assert (refused.status_code, refused.json["code"]) == (400, "invalid_request"), value
            assert list(refused.json["fields"]) == [fault]
            assert fault in refused.json["error"]


def test_reading_the_feed_costs_one_indexed_read_at_any_position(sql, every_kind):
    """However many changes there are: the plan looks at no more rows than it returns."""
    sql(
        "INSERT INTO ledger SELECT 'node-meetup-2025', n, 'event_updated', NULL, NULL, 50, 46,"
        " now(), gen_random_uuid() FROM generate_series(10, 20000) n"
    )
    sql("ANALYZE ledger")
    for after in (0, 10_000, 20_000):
        plan = sql(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
            + statement("list_changes").rstrip("; \n"),
            {"event_id": "node-meetup-2025", "scope": None, "after": after, "limit": 10},
        )
        lines = [line for (line,) in plan if " on ledger" in line]
        assert all("Index" in line for line in lines), plan
        rows = 0 if after == 20_000 else 10
        assert any(f"rows={rows}" in line for line in lines), lines


def test_who_follows_the_feed_through_a_storm_ends_with_the_servers_state(
    server, client, sql, verify
):
    """Every kind of change from many sides at once, over both processes."""
    past.create(sql, "UPDATE events SET initial_seats = 60, total_seats = 60, available_seats = 60")
    done = threading.Event()

    def storm(number):
        chance, http, mine, seen = random.Random(number), server.client(), [], set()
        for turn in range(70):
            place = chance.choice(mine) if mine else None
            kind = chance.choice(
                ["reserve", "hold", "hold", "confirm", "extend", "reduce", "cancel", "expire"]
                + ["retry", "edit"]
            )
            body = {"partnerId": f"partner-{number}", "seats": chance.randint(1, 4)}
            if kind == "reserve":
                answer = http.post(RESERVATIONS, body)
            elif kind == "hold":
                answer = http.post(RESERVATIONS, {**body, "holdSeconds": 30})
            elif kind == "retry":
                retried = {"partnerId": f"partner-{number}", "seats": 1}
                answer = http.post(RESERVATIONS, retried, idempotency_key=f"key-{turn // 20}")
            elif kind == "edit":
                answer = http.call(
                    "PATCH",
                    EVENT,
                    {"totalSeats": chance.randint(40, 80)},
                    {**ADMIN, "If-Match": "*"},
                )
            elif place is None:
                continue
            elif kind == "expire":
                past.end_holds(sql, f"reservation_id = '{place.rpartition('/')[2]}'")
                answer = http.get(place)
            elif kind == "cancel":
                answer = http.delete(place)
            elif kind == "reduce":
                answer = http.patch(place, {"seats": 1})
            else:
                members = {"holdSeconds": 60} if kind == "extend" else None
                answer = http.post(f"{place}/{kind}", members)
            assert answer.status in (200, 201, 204, 404, 409), (kind, answer.body)
            if answer.status == 201:
                mine.append(answer.headers["Location"])
            seen.add(kind)
        return seen

    def follow():
        http, follower, tag = server.client(), Follower(60), '""'
        for _ in range(100_000):
            over = done.is_set()
            page = http.get(f"{CHANGES}?after={follower.version}&limit=17", if_none_match=tag)
            tag = page.headers["ETag"]
            assert page.status == (200 if page.body else 304)
            items = page.json["items"] if page.body else []
            for change in items:
                follower.follow(change)
            assert page.status == 304 or page.json["next"] == follower.version
            if over and not items:
                return follower
        raise AssertionError("the storm did not end")

    with ThreadPoolExecutor(7) as pool:
        following = [pool.submit(follow) for _ in range(2)]
        try:
            kinds = set().union(*pool.map(storm, range(5)))
        finally:
            done.set()
        followers = [each.result() for each in following]
    assert len(kinds) == 9

    summary = client.get(EVENT)
    assert summary.headers["ETag"] == f'"{followers[0].version}"'
    items, _ = read_all(client.get, EVENT + "/reservations?limit=100")
    for follower in followers:
        assert follower.summary() == numbers(summary.json)
        assert follower.statuses == {item["reservationId"]: item["status"] for item in items}
        assert follower.live == {
            item["reservationId"]: item["seats"]
            for item in items
            if item["status"] in ("held", "confirmed")
        }
    types = {row[0] for row in sql("SELECT DISTINCT type FROM ledger")}
    assert len(types) == 9
    assert verify() == (0, f"node-meetup-2025: {followers[0].version} changes, ok\n")
