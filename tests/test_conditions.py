"""Conditional requests: entity tags, If-None-Match, If-Match (API.md, section 9)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import ADMIN

from ticketboss.rules.changes import Look

RESERVATIONS = "/api/v1/reservations"
EVENTS = "/api/v1/events"
EVENT = EVENTS + "/node-meetup-2025"
SECONDS = 20  # no wait takes this long


def eventually(condition):
    """Return what `condition` returns once it is true."""
    deadline = time.monotonic() + SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return result


class Gate(Look):
    """A change that changes nothing and holds up the line behind it."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def apply(self, plan):
        self.reached.set()
        assert self.opened.wait(SECONDS)


def one_batch(write_path, calls, event_id="node-meetup-2025", first=lambda: None):
    """Make calls that arrive in this order and are decided in one batch; return their results.

    The event is read before they arrive, and remembered; `first` is called between the two.
    """
    gate = Gate()
    with ThreadPoolExecutor(len(calls) + 1) as pool:
        pool.submit(write_path.submit, event_id, gate)
        try:
            assert gate.reached.wait(SECONDS)
            first()
            results = []
            for place, call in enumerate(calls, 1):
                results.append(pool.submit(call))
                eventually(lambda place=place: write_path.length == place)
        finally:
            gate.opened.set()
        return [result.result() for result in results]


@pytest.fixture
def reserve(client):
    def reserve(seats=1, headers=None, **members):
        body = {"partnerId": "abc-corp", "seats": seats, **members}
        return client.post(RESERVATIONS, json=body, headers=headers)

    return reserve


@pytest.fixture
def version(client):
    return lambda: client.get(RESERVATIONS).json["version"]


@pytest.fixture
def addresses(reserve):
    """Give the addresses of everything that has a version, which is 1."""
    return [RESERVATIONS, EVENT, reserve().location, EVENT + "/changes"]


def test_the_version_is_the_entity_tag(client, addresses):
    for address in addresses:
        answer = client.get(address)
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')


@pytest.mark.parametrize(
    "tags", ['"1"', '"7", "1"', '"7","1" , "9"', 'W/"1"', '"7", W/"1"', "*"], ids=repr
)
def test_who_has_this_version_is_told_so_without_a_body(client, addresses, tags):
    for address in addresses:
        answer = client.get(address, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == '"1"'
        assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "tags",
    ['"0"', '"11"', '"01"', '"7", "8"', 'W/"0"', "", '"', ",", "W/", '"1', "\xb9", "x" * 3000],
    ids=lambda tags: repr(tags)[:12],
)
def test_who_has_another_version_or_names_none_gets_the_body(client, addresses, tags):
    for address in addresses:
        answer = client.get(address, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
        assert answer.json


def test_a_change_ends_every_304(client, reserve):
    made = reserve(seats=2)
    seen = {"If-None-Match": '"1"'}
    addresses = (RESERVATIONS, EVENT, made.location, EVENT + "/changes")
    assert [client.get(a, headers=seen).status_code for a in addresses] == [304] * 4
    assert client.patch(made.location, json={"seats": 1}).headers["ETag"] == '"2"'
    assert [client.get(a, headers=seen).status_code for a in addresses] == [200] * 4
    assert [client.get(a).headers["ETag"] for a in addresses] == ['"2"'] * 4


def test_a_change_of_something_else_leaves_a_reservations_tag_alone(client, reserve):
    made = reserve()
    reserve()
    assert client.get(made.location, headers={"If-None-Match": '"1"'}).status_code == 304


def test_a_read_with_both_conditions_gets_the_thing_or_an_error_that_says_so(client, reserve):
    reserve()
    for if_match in ('"1"', '"9"', "*", 'W/"1"'):
        for if_none_match in ('"1"', '"9"', "*"):
            conditions = {"If-Match": if_match, "If-None-Match": if_none_match}
            answer = client.get(RESERVATIONS, headers=conditions)
            if if_match in ('"9"', 'W/"1"'):
                assert (answer.status_code, answer.json["version"]) == (412, 1)
                assert answer.json["code"] == "precondition_failed"
            else:
                assert answer.status_code == (200 if if_none_match == '"9"' else 304), conditions


@pytest.mark.parametrize("address", ["/", "/docs", "/openapi.json", EVENTS])
def test_what_has_a_tag_and_no_version_takes_conditions_too(client, address):
    plain = client.get(address)
    tag = plain.headers["ETag"]
    for conditions, status in (
        ({"If-Match": tag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"7"'}, 412),
        ({"If-Match": f"W/{tag}"}, 412),
        ({"If-Match": "7"}, 400),
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f"W/{tag}"}, 304),
        ({"If-None-Match": '"7"'}, 200),
        ({"If-Match": '"7"', "If-None-Match": tag}, 412),
    ):
        answer = client.get(address, headers=conditions)
        assert answer.status_code == status, conditions
        if status >= 400:
            weak = conditions["If-Match"].startswith("W/")
            assert ("never matches a weak tag" in answer.json["error"]) is weak
            codes = {400: "invalid_request", 412: "precondition_failed"}
            assert answer.json["code"] == codes[status]
        else:
            assert answer.headers["ETag"] == tag
            assert answer.data == (plain.data if status == 200 else b"")


# --- If-Match -------------------------------------------------------------------


@pytest.fixture(
    params=[
        "reserve",
        "reserve of a named event",
        "edit",
        "reduce",
        "cancel",
        "confirm",
        "extend",
    ]
)
def conditional(request, client, reserve):
    """Give a change that takes If-Match; what it is about has version 1."""
    place = reserve(seats=2, holdSeconds=60).location
    body = {"partnerId": "abc-corp", "seats": 1}

    def call(tags):
        condition = {"If-Match": tags}
        return {
            "reserve": lambda: client.post(RESERVATIONS, json=body, headers=condition),
            "reserve of a named event": lambda: client.post(
                EVENT + "/reservations", json=body, headers=condition
            ),
            "edit": lambda: client.patch(EVENT, json={"name": "B"}, headers={**ADMIN, **condition}),
            "reduce": lambda: client.patch(place, json={"seats": 1}, headers=condition),
            "cancel": lambda: client.delete(place, headers=condition),
            "confirm": lambda: client.post(place + "/confirm", headers=condition),
            "extend": lambda: client.post(
                place + "/extend", json={"holdSeconds": 9}, headers=condition
            ),
        }[request.param]()

    return call


@pytest.mark.parametrize("tags", ['"0", "1",W/"3"', "*"], ids=repr)
def test_a_change_conditional_on_the_current_version_is_made(conditional, version, tags):
    assert conditional(tags).status_code in (200, 201, 204)
    assert version() == 2


def test_a_change_conditional_on_another_version_is_refused(conditional, client, verify):
    before = client.get(EVENT).data
    for tags in ('"0"', '"2"', '"0", "2"', 'W/"1"'):
        refused = conditional(tags)
        assert refused.status_code == 412, tags
        assert (refused.json["code"], refused.json["version"]) == ("precondition_failed", 1)
    assert client.get(EVENT).data == before
    assert verify()[0] == 0


NO_TAG = [
    "",
    '"',
    ",",
    " , ",
    "W/",
    "1",
    "14",
    "\xb9",
    '" 1"',
    '"1"x',
    '"1" "2"',
    "'1'",
    '"1',
    "w/" + '"1"',
]
NO_TAG += ['*, "1"', '"1", *', "**", '"1";"2"', '"a\x7fb"', "," * 3000, '"1",' * 700 + "x"]


@pytest.mark.parametrize("tags", NO_TAG, ids=lambda tags: repr(tags)[:20])
def test_a_condition_that_is_no_entity_tag_is_a_400(conditional, client, version, tags):
    refused = conditional(tags)
    assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
    assert "If-Match" in refused.json["error"]
    assert version() == 1
    assert client.get(EVENT, headers={"If-Match": tags}).status_code == 400


@pytest.mark.parametrize(
    "tags",
    ['"abc"', '"01"', '"+1"', '"-1"', '"1.0"', '"\xb9"', '"1_0"', '""', '"*"', '"a,b"', '"0",,"2",']
    + ['"' + "1" * 20 + '"', '"' + "9" * 4000 + '"'],
    ids=lambda tags: repr(tags)[:20],
)
def test_a_tag_that_is_not_the_current_one_fails_whatever_it_is(reserve, version, tags):
    reserve()
    refused = reserve(headers={"If-Match": tags})
    assert (refused.status_code, refused.json["code"]) == (412, "precondition_failed")
    assert refused.json["error"] == "If-Match names another version than the current one"
    assert version() == 1


@pytest.mark.parametrize("tags", ['W/"1"', 'W/"0"', 'W/"1", W/"2"', '"0", W/"1"'])
def test_a_weak_tag_is_told_that_it_can_never_match(conditional, version, tags):
    refused = conditional(tags)
    assert (refused.status_code, refused.json["code"]) == (412, "precondition_failed")
    assert "never matches a weak tag" in refused.json["error"]
    assert refused.json["version"] == version() == 1


def test_a_reserve_in_a_batch_is_judged_on_the_version_that_it_would_itself_see(
    application, write_path, sql, verify
):
    def reserve(tags=None):
        return lambda: application.test_client().post(
            RESERVATIONS,
            json={"partnerId": "abc-corp", "seats": 1},
            headers={"If-Match": tags} if tags else {},
        )

    calls = [reserve(), reserve('"1"'), reserve('"0"'), reserve('"2"'), reserve('"3"'), reserve()]
    answers = one_batch(write_path, calls)
    assert [answer.status_code for answer in answers] == [201, 201, 412, 201, 201, 201]
    assert answers[2].json["version"] == 2
    made = [answer.json for answer in answers if answer.status_code == 201]
    assert [reservation["version"] for reservation in made] == [1, 2, 3, 4, 5]
    assert sql("SELECT count(DISTINCT batch_id), count(*) FROM ledger WHERE version > 0") == [
        (1, 5)
    ]
    assert verify()[0] == 0


def test_of_two_that_insist_on_the_same_version_one_wins_over_all_processes(server, verify):
    def race(number):
        client = server.client()
        body = {"partnerId": f"partner-{number}", "seats": 1}
        return client.post(RESERVATIONS, body, if_match='"0"')

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(race, range(12)))
    assert sorted(answer.status for answer in answers) == [201] + 11 * [412]
    assert {answer.json["version"] for answer in answers} == {1}
    assert verify()[0] == 0


def test_a_stale_condition_is_told_before_a_lack_of_seats(client, reserve, sql):
    sql("UPDATE events SET initial_seats = 0, total_seats = 0, available_seats = 0")
    assert reserve(headers={"If-Match": '"7"'}).status_code == 412
    assert reserve(headers={"If-Match": '"0"'}).json["code"] == "sold_out"


# --- The list of events -----------------------------------------------------------------


def test_a_page_of_events_has_a_tag_that_changes_with_each_change_on_it(client, reserve):
    def tag(query=""):
        given = client.get(EVENTS + query).headers["ETag"]
        unchanged = client.get(EVENTS + query, headers={"If-None-Match": f"W/{given}"})
        assert (unchanged.status_code, unchanged.data) == (304, b"")
        assert unchanged.headers["ETag"] == given
        return given

    tags = [tag()]
    reserve()
    tags.append(tag())
    body = {"eventId": "other", "name": "Other", "totalSeats": 5}
    assert client.post(EVENTS, json=body, headers=ADMIN).status_code == 201
    tags.append(tag())
    # The same event as before, but with more to come, is not the same page.
    tags.append(tag("?limit=1"))
    changed = client.patch(
        f"{EVENTS}/other", json={"name": "Another"}, headers=ADMIN | {"If-Match": "*"}
    )
    assert changed.status_code == 200
    tags.append(tag())
    assert len(set(tags)) == 5
