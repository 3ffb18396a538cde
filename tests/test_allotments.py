"""Seats that a partner is sure of: granted, drawn, given back, released."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import past
import pytest
from serving import ADMIN, ADMIN_KEY

EVENT = "/api/v1/events/concert"
ALLOTMENTS = f"{EVENT}/allotments"
AUTH = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(autouse=True)
def _concert(store, verify):
    """Make an event of ten seats; afterwards its ledger gives every number."""
    store.create_event("concert", "Concert", 10)
    yield
    status, output = verify()
    assert status == 0, output


@pytest.fixture
def allot(client):
    def put(seats, partner="abc-corp", **members):
        body = {"partnerId": partner, "seats": seats, **members}
        return client.put(ALLOTMENTS, json=body, headers=AUTH)

    return put


@pytest.fixture
def reserve(client):
    def post(seats, partner="abc-corp", **members):
        body = {"partnerId": partner, "seats": seats, **members}
        return client.post(f"{EVENT}/reservations", json=body)

    return post


@pytest.fixture
def summary(client):
    def get():
        answer = client.get(EVENT).json
        assert answer["availableSeats"] + answer["reservedSeats"] == answer["totalSeats"]
        return (
            answer["availableSeats"],
            answer.get("allottedSeats", 0),
            answer["reservationCount"],
            answer["version"],
        )

    return get


@pytest.fixture
def end(sql):
    """Give a function that lets what is held, or allotted, end now."""
    return lambda: past.end_holds(sql)


def feed(client):
    items = client.get(f"{EVENT}/changes").json["items"]
    return [(item["type"], item["seats"], item["availableSeats"]) for item in items]


def release(client, partner="abc-corp"):
    return client.delete(f"{ALLOTMENTS}?partnerId={partner}", headers=AUTH).status_code


def test_an_allotment_takes_seats_out_of_the_pool_for_its_partner(allot, reserve, summary, client):
    made = allot(4)
    assert made.status_code == 201
    assert made.json == {
        "eventId": "concert",
        "partnerId": "abc-corp",
        "seats": 4,
        "drawnSeats": 0,
        "version": 1,
    }
    assert summary() == (6, 4, 0, 1)
    refused = reserve(7, "xyz-inc")
    assert (refused.json["code"], refused.json["availableSeats"]) == ("sold_out", 6)
    drawn = reserve(3)
    assert (drawn.status_code, drawn.json["allotted"], drawn.json["version"]) == (201, True, 3)
    assert summary() == (6, 1, 1, 3)
    listed = client.get(ALLOTMENTS, headers=AUTH).json
    assert listed == {"items": [{**made.json, "drawnSeats": 3, "version": 2}], "next": None}
    assert feed(client) == [("allotted", 4, 6), ("allotted", 1, 9), ("reserved", 3, 6)]


def test_what_an_allotment_has_not_enough_for_comes_from_the_pool(allot, reserve, summary):
    allot(2)
    assert "allotted" not in reserve(3).json
    assert summary() == (5, 2, 1, 2)
    assert reserve(6).json["code"] == "sold_out"


@pytest.mark.parametrize("atomic", [False, True])
def test_a_batch_over_two_events_draws_from_the_allotment_of_each(client, store, allot, atomic):
    """Both are read for it, and a partner's of one event is none of another."""
    store.create_event("recital", "Recital", 10)
    put = {"partnerId": "abc-corp", "seats": 10}
    for place in (ALLOTMENTS, "/api/v1/events/recital/allotments"):
        assert client.put(place, json=put, headers=AUTH).status_code == 201
    one = {"op": "reserve", "partnerId": "abc-corp", "seats": 1}
    operations = [{**one, "eventId": name} for name in ("concert", "recital") * 2]
    answer = client.post("/api/v1/batch", json={"operations": operations, "atomic": atomic})
    assert [(item["status"], item.get("allotted")) for item in answer.json["items"]] == [
        (201, True)
    ] * 4


@pytest.mark.parametrize(
    "give_back",
    [
        lambda client, place: client.delete(place),
        lambda client, place: client.patch(place, json={"seats": 1}),
    ],
    ids=["cancel", "reduce"],
)
def test_what_is_given_back_goes_to_the_allotment_while_it_lives(
    allot, reserve, summary, client, give_back
):
    allot(4)
    place = reserve(3).headers["Location"]
    assert give_back(client, place).status_code in (200, 204)
    available, allotted, count, version = summary()
    assert (available, allotted, version) == (6, 4 if count == 0 else 3, 5)
    assert feed(client)[-1][0] == "allotted"
    # Of one that is released it goes to the pool.
    second = reserve(1).headers["Location"]
    assert release(client) == 204
    client.delete(second)
    assert summary()[:2] == (10 if count == 0 else 9, 0)


def test_a_hold_that_ends_goes_back_to_its_allotment(allot, reserve, summary, client, sql):
    allot(4)
    reserve(3, holdSeconds=60)
    past.end_holds(sql, "drawn_from IS NOT NULL")
    assert summary() == (6, 4, 0, 5)
    assert [each[0] for each in feed(client)[-2:]] == ["expired", "allotted"]


def test_an_allotment_releases_itself_at_its_instant(allot, reserve, summary, end, client):
    allot(4, releaseAt="2100-01-01T00:00:00Z")
    kept = reserve(1).headers["Location"]
    end()
    assert summary() == (9, 0, 1, 4)
    assert reserve(9, "xyz-inc").status_code == 201
    assert client.get(kept).json["allotted"] is True
    assert client.get(ALLOTMENTS, headers=AUTH).json["items"] == []


def test_a_draw_and_its_allotment_that_end_together_end_in_the_pool(allot, reserve, summary, end):
    allot(4, releaseAt="2100-01-01T00:00:00Z")
    reserve(3, holdSeconds=60)
    end()
    assert summary()[:3] == (10, 0, 0)


def test_a_repetition_changes_nothing_and_another_number_what_it_must(
    allot, reserve, summary, client
):
    allot(4)
    reserve(3)
    again = allot(4)
    assert (again.status_code, again.json["drawnSeats"], summary()) == (200, 3, (6, 1, 1, 3))
    assert allot(6).json["seats"] == 6
    assert summary() == (4, 3, 1, 4)
    # Too many go back, but never what is drawn.
    less = allot(1)
    assert (less.json["seats"], less.json["drawnSeats"]) == (3, 3)
    assert summary() == (7, 0, 1, 5)
    assert allot(1).json["version"] == 5
    assert allot(11).json["code"] == "sold_out"
    later = allot(3, releaseAt="2100-01-01T00:00:00Z")
    assert later.json["releaseAt"] == "2100-01-01T00:00:00.000000Z"
    assert summary() == (7, 0, 1, 6)
    assert (release(client), release(client), summary()) == (204, 204, (7, 0, 1, 7))


def test_an_allotment_is_no_reservation(allot, client, sql, server):
    allot(4)
    ((id,),) = sql("SELECT reservation_id FROM reservations")
    place = f"/api/v1/reservations/{id}"
    assert client.get(place).status_code == 404
    assert client.delete(place).json["code"] == "not_found"
    for path, body in (("/confirm", None), ("/extend", {"holdSeconds": 9})):
        assert client.post(place + path, json=body).json["code"] == "not_found"
    assert client.patch(place, json={"seats": 1}).json["code"] == "not_found"
    cancel = {"operations": [{"op": "cancel", "reservationId": str(id)}]}
    assert client.post("/api/v1/batch", json=cancel).json["items"][0]["code"] == "not_found"
    assert client.get(f"{EVENT}/reservations").json["items"] == []
    assert client.get(f"{EVENT}/changes").json["items"][0]["reservationId"] is None


def test_a_package_may_draw(allot, client, summary):
    allot(4)
    operation = {"op": "reserve", "eventId": "concert", "partnerId": "abc-corp", "seats": 2}
    body = {"operations": [operation] * 3, "atomic": True}
    answer = client.post("/api/v1/batch", json=body).json
    assert [item.get("allotted") for item in answer["items"]] == [True, True, None]
    assert summary() == (4, 0, 3, 6)


def test_the_size_of_an_event_keeps_room_for_what_is_allotted(allot, client):
    allot(4)
    headers = {**AUTH, "If-Match": '"1"'}
    refused = client.patch(EVENT, json={"totalSeats": 3}, headers=headers)
    assert refused.json["minimumSeats"] == 4
    assert client.patch(EVENT, json={"totalSeats": 4}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"partnerId": "abc-corp", "seats": 0}, "invalid_request"),
        ({"partnerId": "abc-corp", "seats": 10_000_001}, "invalid_request"),
        ({"partnerId": "abc-corp"}, "invalid_request"),
        ({"partnerId": "abc-corp ", "seats": 1}, "invalid_request"),
        ({"partnerId": "abc\u200bcorp", "seats": 1}, "invalid_request"),
        ({"partnerId": "a", "seats": 1, "releaseAt": "2020-01-01T00:00:00Z"}, "invalid_request"),
        ({"partnerId": "a", "seats": 1, "releaseAt": "soon"}, "invalid_request"),
        ({"partnerId": "a", "seats": 1, "until": None}, "invalid_request"),
        ({"partnerId": "a", "seats": 11}, "sold_out"),
    ],
)
def test_what_cannot_be_allotted_is_refused(client, body, code, summary):
    assert client.put(ALLOTMENTS, json=body, headers=AUTH).json["code"] == code
    assert summary() == (10, 0, 0, 0)


def test_allotting_needs_an_admin_and_an_event(client):
    body = {"partnerId": "abc-corp", "seats": 1}
    assert client.put(ALLOTMENTS, json=body).status_code == 401
    assert client.delete(f"{ALLOTMENTS}?partnerId=a").status_code == 401
    none = "/api/v1/events/none/allotments"
    assert client.put(none, json=body, headers=AUTH).json["code"] == "event_not_found"
    assert client.get(none, headers=AUTH).json["code"] == "event_not_found"


def test_allotments_are_listed_by_pages(allot, client):
    partners = [f"partner-{number}" for number in range(5)] + ["日本"]
    for partner in partners:
        allot(1, partner)
    found, after = [], ""
    while after is not None:
        page = client.get(f"{ALLOTMENTS}?limit=2{after and '&after=' + after}", headers=AUTH).json
        found += [item["partnerId"] for item in page["items"]]
        after = page["next"]
    assert found == sorted(partners, key=str.encode)


def test_the_command_line_allots_and_releases(application, client):
    runner = application.test_cli_runner()

    def run(*arguments):
        return runner.invoke(args=["events", "allot", "concert", *arguments])

    assert run("abc-corp", "4", "--release-at", "2100-01-01T00:00:00Z").exit_code == 0
    (made,) = client.get(ALLOTMENTS, headers=AUTH).json["items"]
    assert (made["seats"], made["releaseAt"][:4]) == (4, "2100")
    assert run("abc-corp", "--release").exit_code == 0
    assert client.get(ALLOTMENTS, headers=AUTH).json["items"] == []
    assert {item["actor"] for item in client.get(f"{EVENT}/changes").json["items"]} == {"command"}
    assert run("abc-corp").exit_code == 2
    assert run("abc-corp", "4", "--release").exit_code == 2
    assert "Not enough seats" in run("abc-corp", "11").output


# --- Many at once -------------------------------------------------------------------


def test_draws_of_many_end_exactly_at_nothing_and_never_touch_the_pool(server, store, sql):
    """Eight clients of one partner over two processes, while others take from the pool."""
    store.create_event("hall", "Hall", 100)
    http = server.client()
    place = "/api/v1/events/hall"
    body = {"partnerId": "abc-corp", "seats": 40}
    assert http.call("PUT", f"{place}/allotments", body, ADMIN).status == 201

    def take(partner):
        client = server.client()
        answers = []
        while True:
            answer = client.post(
                f"{place}/reservations",
                {"partnerId": partner, "seats": 1},
                idempotency_key="" if False else f"{threading.get_ident()}-{len(answers)}",
            )
            if answer.status != 201:
                return answers, answer.json["code"]
            answers.append(answer.json)

    with ThreadPoolExecutor(12) as pool:
        partners = ["abc-corp"] * 8 + ["xyz-inc"] * 4
        taken = list(pool.map(take, partners))
    assert {code for _, code in taken} == {"sold_out"}
    drawn = [each for answers, _ in taken for each in answers if each.get("allotted")]
    assert len(drawn) == 40
    assert {each["partnerId"] for each in drawn} == {"abc-corp"}
    assert sum(len(answers) for answers, _ in taken) == 100
    assert sql("SELECT available_seats, allotted_seats FROM events WHERE event_id = 'hall'") == [
        (0, 0)
    ]


def test_of_a_draw_and_a_release_at_one_instant_one_is_first(server, store, sql):
    """Allotments that end one by one while their partner draws; the sums always agree."""
    http = server.client()
    for number in range(12):
        event_id = f"instant-{number}"
        store.create_event(event_id, "Instant", 4)
        place = f"/api/v1/events/{event_id}"
        ((now, soon),) = sql("SELECT clock_timestamp(), clock_timestamp() + interval '60 ms'")
        body = {"partnerId": "abc-corp", "seats": 4, "releaseAt": soon.isoformat()}
        if http.call("PUT", f"{place}/allotments", body, ADMIN).status != 201:
            continue  # it took longer than that, and the end was in the past
        ((left,),) = sql("SELECT extract(epoch FROM %s - clock_timestamp())::float", [soon])
        time.sleep(max(0, left - 0.002))
        made = http.post(f"{place}/reservations", {"partnerId": "abc-corp", "seats": 4})
        assert made.status == 201
        shown = http.get(place).json
        assert (shown["availableSeats"], shown["reservationCount"]) == (0, 1)
        assert "allottedSeats" not in shown
