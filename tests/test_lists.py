"""Lists of an event's reservations (API.md, section 5)."""

import base64
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import past
import pytest
from serving import ADMIN

from ticketboss.data.statements import statement
from ticketboss.data.store import IN_ORDER
from ticketboss.rules.model import STATUSES

RESERVATIONS = "/api/v1/reservations"
EVENTS = "/api/v1/events"
LIST = EVENTS + "/node-meetup-2025/reservations"


def read_all(get, address):
    """Follow a list to its end; return its items and the sizes of its pages."""
    joint = "&" if "?" in address else "?"
    items, sizes, after = [], [], ""
    while after is not None:
        page = get(address + (f"{joint}after={after}" if after else "")).json
        assert set(page) == {"items", "next"}
        items += page["items"]
        sizes.append(len(page["items"]))
        after = page["next"]
    return items, sizes


@pytest.fixture
def reserve(client):
    def reserve(partner="abc-corp", seats=1, event="node-meetup-2025", **members):
        body = {"partnerId": partner, "seats": seats, **members}
        return client.post(f"{EVENTS}/{event}/reservations", json=body)

    return reserve


@pytest.fixture
def everything(client, reserve, sql):
    """Make reservations of two partners in every status; return them as they are, in order."""
    places = []
    for number in range(12):
        hold = {"holdSeconds": 60} if number % 4 in (1, 2) else {}
        partner = ("abc-corp", "other-corp")[number % 3 == 0]
        places.append(reserve(partner, 1 + number % 3, **hold).location)
    for place in places[2::4]:
        expired = place.rpartition("/")[2]
        past.end_holds(sql, f"reservation_id = '{expired}'")
    for place in places[3::4]:
        assert client.delete(place).status_code == 204
    return [client.get(place).json for place in places]


def test_a_list_is_read_page_by_page_newest_last(client, everything):
    for limit in (1, 5, 6, 11, 12, 13, 100):
        items, sizes = read_all(client.get, f"{LIST}?limit={limit}")
        assert items == everything
        assert sizes == [limit] * (12 // limit) + [12 % limit] * bool(12 % limit)


@pytest.mark.parametrize("partner", [None, "abc-corp", "other-corp", "nobody"])
def test_a_list_can_be_filtered(client, everything, partner):
    for status in (None, "held", "confirmed", "cancelled", "expired"):
        filters = {"partnerId": partner, "status": status}
        wanted = [
            reservation
            for reservation in everything
            if all(value in (None, reservation[name]) for name, value in filters.items())
        ]
        assert partner == "nobody" or wanted
        query = "".join(f"&{name}={value}" for name, value in filters.items() if value)
        for limit in (1, 2, 100):
            items, sizes = read_all(client.get, f"{LIST}?limit={limit}{query}")
            assert items == wanted
            assert all(size == limit for size in sizes[:-1])


def test_a_partner_is_found_whatever_its_name(client, reserve):
    for partner in ("a&b=c", "100%", "ä ö", "'; --", "\\", "x" * 64, "\U0001f39f"):
        made = reserve(partner).json
        assert client.get(LIST, query_string={"partnerId": partner}).json["items"] == [made]


def test_a_page_has_50_items_unless_the_client_says_otherwise(client, reserve):
    for _ in range(51):
        reserve()
    assert read_all(client.get, LIST)[1] == [50, 1]


def test_an_event_without_reservations_has_an_empty_list(client):
    assert client.get(LIST).json == {"items": [], "next": None}


WRONG = {
    "limit": ["0", "101", "-1", "1.0", "x", "", "1e1", "9" * 40, "%D9%A1", "1&limit=2", "+1"],
    "status": ["", "HELD", "sold", "held,confirmed", "held&status=held"],
    "partnerId": ["", "%00", "%20", "x" * 65],
    "partner": ["abc-corp"],
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_query_is_refused_by_the_name_of_its_fault(client, fault):
    for value in WRONG[fault]:
        refused = client.get(f"{LIST}?{fault}={value}")
        assert (refused.status_code, refused.json["code"]) == (400, "invalid_request"), value
        assert list(refused.json["fields"]) == [fault]
        assert fault in refused.json["error"]


def _encoded(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


FORGED = [
    "",
    "x",
    "0",
    "1",
    "null",
    "%00",
    "===",
    "a" * 2000,
    "%FF%FE",
    _encoded("1"),
    _encoded(""),
    _encoded("no-such-event"),
    _encoded("' OR true --"),
    _encoded("\x00"),
    _encoded("é"),
    _encoded(str(uuid.UUID(int=0))),
    _encoded("0"),
]


@pytest.mark.parametrize("address", [LIST, EVENTS])
def test_a_forged_cursor_is_refused(client, reserve, address):
    reserve()
    for cursor in FORGED:
        refused = client.get(f"{address}?after={cursor}")
        assert (refused.status_code, refused.json["code"]) == (400, "invalid_request"), cursor
        assert list(refused.json["fields"]) == ["after"]


def test_a_cursor_of_another_list_is_refused(client, reserve):
    body = {"eventId": "other", "name": "Other", "totalSeats": 10}
    assert client.post(EVENTS, json=body, headers=ADMIN).status_code == 201
    for partner in ("abc-corp", "other-corp"):
        for event in ("node-meetup-2025", "other"):
            reserve(partner, event=event)
    other = EVENTS + "/other/reservations"
    of_events = client.get(EVENTS + "?limit=1").json["next"]
    of_list = client.get(LIST + "?limit=1").json["next"]
    assert of_events
    assert of_list
    for address, cursor in (
        (LIST, of_events),
        (EVENTS, of_list),
        (other, of_list),
        (LIST + "?partnerId=other-corp", of_list),
    ):
        joint = "&" if "?" in address else "?"
        refused = client.get(f"{address}{joint}after={cursor}")
        assert (refused.status_code, list(refused.json["fields"])) == (400, ["after"])


def test_a_cursor_outlives_the_reservation_that_it_stands_on(client, reserve):
    places = [reserve().location for _ in range(3)]
    for status in ("", "&status=confirmed"):
        first = client.get(f"{LIST}?limit=1{status}").json
        assert client.delete(RESERVATIONS + "/" + first["items"][0]["reservationId"]).status_code
        rest = client.get(f"{LIST}?limit=10{status}&after={first['next']}").json["items"]
        assert rest[-1]["reservationId"] == places[-1].rpartition("/")[2]
        assert first["items"][0] not in rest


FILTERS = [
    (partner, status) for partner in (None, "a", "b", "nobody") for status in (None, *STATUSES)
]


@pytest.fixture
def lopsided(sql):
    """Fill an event with 30,000 cancelled reservations of one partner, and hide a few others.

    Another event is the opposite, so that statistics of the whole table mislead.
    """
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,"
        " reservation_count, version)"
        " SELECT name, 'Event', 99999, 99999, 99999 - 30000, 30000, 30000"
        " FROM unnest(ARRAY['lopsided', 'opposite']) AS name;"
        " INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, expires_at, requested_seats)"
        " SELECT 'lopsided', n, gen_random_uuid(),"
        " CASE WHEN n IN (7, 15000, 29000) THEN 'b' ELSE 'a' END, 1,"
        " CASE WHEN n = 7 OR n > 29990 THEN 'confirmed' WHEN n = 20000 THEN 'held'"
        " ELSE 'cancelled' END,"
        " n, now(), now() + interval '1 hour', 1 FROM generate_series(1, 30000) AS n"
        " UNION ALL SELECT 'opposite', n, gen_random_uuid(), 'b', 1, 'confirmed', n, now(), NULL, 1"
        " FROM generate_series(1, 60000) AS n"
    )


@pytest.mark.parametrize("analyzed", [False, True], ids=["before statistics", "with statistics"])
def test_a_page_costs_the_same_however_much_there_is_that_it_does_not_show(sql, lopsided, analyzed):
    """Every filter, alone and combined, at every place: 50 rows, not 30,000."""
    if analyzed:
        sql("ANALYZE reservations")
    costs = {}
    for partner, status in FILTERS:
        for after in (0, 15_000, 29_900):
            page = {"event_id": "lopsided", "partner_id": partner, "status": status}
            page |= {"after": after, "limit": 51, "computed": False}
            explain = IN_ORDER + "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
            (((plans,),),) = [sql(explain + statement("list_reservations"), page)]
            plan = plans[0]["Plan"]
            costs[partner, status, after] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert max(costs.values()) < 150, costs


@pytest.mark.parametrize(("partner", "status"), FILTERS)
def test_a_lopsided_list_shows_what_is_in_it_in_its_order(client, lopsided, sql, partner, status):
    wanted = sql(
        "SELECT version::integer FROM reservations WHERE event_id = 'lopsided'"
        " AND partner_id = coalesce(%s, partner_id) AND status = coalesce(%s, status)"
        " ORDER BY created_version LIMIT 250",
        [partner, status],
    )
    filters = {n: v for n, v in {"partnerId": partner, "status": status}.items() if v}
    found, after = [], {}
    while after is not None and len(found) < 250:
        query = {**filters, **after, "limit": 50}
        page = client.get(EVENTS + "/lopsided/reservations", query_string=query).json
        found += [(item["version"],) for item in page["items"]]
        after = {"after": page["next"]} if page["next"] else None
    assert found == wanted


def test_what_was_there_at_the_beginning_is_seen_exactly_once_while_a_sale_is_running(
    server, client, verify, sql
):
    """Reserves and cancels go on all the while; nothing is skipped, and nothing comes twice."""
    seats = "UPDATE events SET initial_seats = %(n)s, total_seats = %(n)s, available_seats = %(n)s"
    past.create(sql, seats, {"n": 100_000})
    done = threading.Event()

    def sell(number):
        http, last = server.client(), None
        for turn in range(100_000):
            if done.is_set():
                return
            body = {"partnerId": f"partner-{number}", "seats": 1}
            made = http.post(RESERVATIONS, body)
            assert made.status == 201
            if turn % 2:
                assert http.delete(last).status == 204
            last = made.headers["Location"]
        raise AssertionError("the reader did not end")

    with ThreadPoolExecutor(3) as pool:
        sales = [pool.submit(sell, number) for number in range(3)]
        try:
            http = server.client()
            while http.get(RESERVATIONS).json["version"] < 60:
                assert not any(sale.done() for sale in sales)
            for limit in (3, 7, 100):
                there = {
                    str(row[0]) for row in sql("SELECT reservation_id FROM reservations ORDER BY 1")
                }
                # Pages of 3 would never catch up with a sale; what matters is its beginning.
                seen, after = [], ""
                while not there <= set(seen):
                    assert after is not None, "the list ended before what was there"
                    page = http.get(
                        f"{LIST}?limit={limit}" + (f"&after={after}" if after else "")
                    ).json
                    seen += [item["reservationId"] for item in page["items"]]
                    after = page["next"]
                assert len(seen) == len(set(seen))
        finally:
            done.set()
        for sale in sales:
            sale.result()
    everything = sql("SELECT reservation_id::text FROM reservations ORDER BY created_version")
    items, _ = read_all(client.get, f"{LIST}?limit=100")
    assert [(item["reservationId"],) for item in items] == everything
    assert verify()[0] == 0
