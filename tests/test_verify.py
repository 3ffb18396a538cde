"""`verify` proves every number from the ledger, and catches what was changed behind its back."""

import past
import pytest
from serving import ADMIN_KEY

from ticketboss import cli
from ticketboss.data import verify as replays

RESERVATIONS = "/api/v1/reservations"
EVENT = "/api/v1/events/node-meetup-2025"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
EVERY_ROW = (
    "SELECT events::text FROM events UNION ALL SELECT reservations::text FROM reservations"
    " UNION ALL SELECT ledger::text FROM ledger ORDER BY 1"
)
TYPES = (
    *("reserved", "reserved", "cancelled", "held", "held", "extended", "confirmed"),
    *("reduced", "held", "expired", "event_updated", "held", "cancelled", "reserved"),
)
HEALTHY = "node-meetup-2025: 14 changes, ok\n"


# What was made once, to be put back for every test.
_made = []


@pytest.fixture
def history(client, sql):
    """Leave an event that has seen every kind of change; versions 1 to 14."""
    tables = ("events", "reservations", "ledger")
    if not _made:
        make_every_change(client, sql)
        (rows,) = sql(
            "SELECT " + ", ".join(f"(SELECT json_agg({name})::text FROM {name})" for name in tables)
        )
        _made.extend(rows)
    else:
        sql("TRUNCATE events, reservations, ledger")
        sql(
            ";".join(
                f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, %s)"
                for name in tables
            ),
            _made,
        )


def make_every_change(client, sql):

    def post(path, expected, json=None, **headers):
        answer = client.post(path, json=json, headers=headers)
        assert answer.status_code == expected, answer.json
        return answer

    def reserve(partner, seats, key=None, **members):
        body = {"partnerId": partner, "seats": seats, **members}
        headers = {"Idempotency-Key": key} if key else {}
        return post(RESERVATIONS, 201, body, **headers).location

    sold = reserve("sold", 3, "order-1")  # 1
    cancelled = reserve("cancelled", 4)  # 2
    assert client.delete(cancelled).status_code == 204  # 3
    reserve("held", 5, holdSeconds=600)  # 4
    confirmed = reserve("confirmed", 6, holdSeconds=600)  # 5
    post(confirmed + "/extend", 200, {"holdSeconds": 900})  # 6
    post(confirmed + "/confirm", 200)  # 7
    assert client.patch(sold, json={"seats": 2}).status_code == 200  # 8
    reserve("expired", 7, holdSeconds=600)  # 9
    past.end_holds(sql, "partner_id = 'expired'")
    assert client.get(RESERVATIONS).json["version"] == 10
    members = {"totalSeats": 400, "salesOpenAt": "2000-01-01T00:00:00Z"}
    edit = client.patch(EVENT, json=members, headers=ADMIN | {"If-Match": '"10"'})
    assert edit.status_code == 200  # 11
    released = reserve("released", 8, holdSeconds=600)  # 12
    assert client.delete(released).status_code == 204  # 13
    reserve("last", 9)  # 14


def test_a_healthy_ledger_is_one_line_and_status_0(history, verify):
    assert verify() == (0, HEALTHY)


def test_the_feed_tells_the_same_history_to_its_end(history, client):
    feed = client.get(EVENT + "/changes").json
    assert feed["next"] == client.get(EVENT).json["version"] == 14
    assert [(item["version"], item["type"]) for item in feed["items"]] == list(
        enumerate(TYPES, start=1)
    )


@pytest.mark.parametrize("rows", [1, 2, 5, 14, 15, 16])
def test_a_healthy_ledger_is_healthy_however_it_is_cut(history, store, verify, monkeypatch, rows):
    monkeypatch.setattr(replays, "ROWS", rows)
    monkeypatch.setattr(replays, "EVENTS", 2)
    names = [f"event-{number}" for number in range(5)]
    for name in names:
        store.create_event(name, "Small", 10)
    assert verify() == (0, "".join(f"{name}: 0 changes, ok\n" for name in names) + HEALTHY)


def test_one_event_is_verified_alone(history, store, sql, verify):
    store.create_event("other", "Other", 10)
    assert verify("other") == (0, "other: 0 changes, ok\n")
    sql("UPDATE events SET name = 'Another' WHERE event_id = 'other'")
    assert verify("node-meetup-2025") == (0, HEALTHY)
    assert verify("other")[0] == 1
    assert verify("nobody") == (1, "Error: Event not found\n")
    assert verify("NOT AN ID") == (1, "Error: Event not found\n")


def test_quiet_says_nothing_of_what_agrees(history, store, sql, verify, monkeypatch):
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", -1)
    store.create_event("other", "Other", 10)
    assert verify("--quiet") == (0, "")
    sql("UPDATE events SET name = 'Another' WHERE event_id = 'other'")
    status, output = verify("--quiet")
    assert (status, output.splitlines()[0]) == (1, "other: 0 changes, 1 differences")


def test_a_replay_that_takes_long_says_how_far_it_is(
    history, application, small_pages, monkeypatch
):
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", -1)
    done = application.test_cli_runner().invoke(args=["verify"])
    assert done.stdout == HEALTHY
    assert done.stderr.splitlines() == [f"0 events, {n} changes so far" for n in (5, 10, 15)]
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", 2)
    assert application.test_cli_runner().invoke(args=["verify"]).stderr == ""


def test_what_changes_while_it_is_verified_is_for_the_next_time(
    history, client, store, sql, small_pages
):
    """And no page keeps a snapshot for the next."""
    snapshots = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND backend_xmin IS NOT NULL"
    )
    open_ones = []

    def meanwhile(changes):
        open_ones.append(sql(snapshots + " AND pid <> pg_backend_pid()"))
        for item in client.get(EVENT + "/reservations?status=confirmed").json["items"]:
            client.patch(f"{RESERVATIONS}/{item['reservationId']}", json={"seats": 1})
        place = client.post(RESERVATIONS, json={"partnerId": "late", "seats": 2}).location
        assert client.delete(place).status_code == 204
        version = client.get(EVENT).json["version"]
        edit = {"name": f"At {version}", "totalSeats": 400 + version}
        headers = ADMIN | {"If-Match": f'"{version}"'}
        assert client.patch(EVENT, json=edit, headers=headers).status_code == 200

    (replay,) = replays.replay_ledgers(store.database, advance=meanwhile)
    assert (replay.version, replay.differences) == (14, [])
    assert open_ones == [[(0,)]] * 3
    (replay,) = replays.replay_ledgers(store.database)
    assert (replay.version, replay.differences) == (client.get(EVENT).json["version"], [])


def test_an_untouched_event_is_healthy(verify):
    assert verify() == (0, "node-meetup-2025: 0 changes, ok\n")


def test_no_event_at_all_is_healthy(sql, verify):
    sql("TRUNCATE events, reservations, ledger")
    assert verify() == (0, "")


CORRUPTIONS = {
    # The event's row.
    "a seat of the event vanished": "UPDATE events SET available_seats = available_seats - 1",
    "a seat of the event came back": "UPDATE events SET available_seats = available_seats + 1",
    "the event grew": "UPDATE events SET total_seats = 500",
    "the event grew with its free seats": (
        "UPDATE events SET total_seats = 500, available_seats = available_seats + 100"
    ),
    "the event's first size changed": "UPDATE events SET initial_seats = 499",
    "the event counts one more": "UPDATE events SET reservation_count = reservation_count + 1",
    "the event counts one less": "UPDATE events SET reservation_count = reservation_count - 1",
    "the event's version ran ahead": "UPDATE events SET version = version + 1",
    "the event's version fell back": "UPDATE events SET version = version - 1",
    # A reservation's row.
    "a reservation shrank": "UPDATE reservations SET seats = 1 WHERE partner_id = 'sold'",
    "a reservation grew": "UPDATE reservations SET seats = 3 WHERE partner_id = 'sold'",
    "a reservation changed hands": (
        "UPDATE reservations SET partner_id = 'thief' WHERE partner_id = 'sold'"
    ),
    "a reservation came back to life": (
        "UPDATE reservations SET status = 'confirmed' WHERE partner_id = 'cancelled'"
    ),
    "a reservation died": (
        "UPDATE reservations SET status = 'cancelled' WHERE partner_id = 'sold'"
    ),
    "a hold was confirmed": (
        "UPDATE reservations SET status = 'confirmed' WHERE partner_id = 'held'"
    ),
    "a sale became a hold": (
        "UPDATE reservations SET status = 'held', expires_at = now() + interval '1 hour'"
        " WHERE partner_id = 'last'"
    ),
    "an expired hold was cancelled": (
        "UPDATE reservations SET status = 'cancelled' WHERE partner_id = 'expired'"
    ),
    "a reservation's version moved": (
        "UPDATE reservations SET version = version + 1 WHERE partner_id = 'sold'"
    ),
    "a reservation's beginning moved": (
        "UPDATE reservations SET created_version = 3 WHERE partner_id = 'last'"
    ),
    "a reservation is gone": "DELETE FROM reservations WHERE partner_id = 'sold'",
    "a cancelled reservation is gone": "DELETE FROM reservations WHERE partner_id = 'cancelled'",
    "a reservation has another id": (
        "UPDATE reservations SET reservation_id = gen_random_uuid() WHERE partner_id = 'sold'"
    ),
    "a reservation came from nowhere": (
        "INSERT INTO reservations SELECT event_id, 3, gen_random_uuid(), partner_id, seats,"
        " status, version, created_at, expires_at, confirmed_at, cancelled_at, requested_seats"
        " FROM reservations WHERE partner_id = 'last'"
    ),
    # What an answer shows, in one table or in both.
    **{
        f"{table}'s {column} changed, {which}": (
            f"UPDATE {table} SET {column} = {column} + interval '1 microsecond' WHERE {where}"
        )
        for table, column, which, where in (
            ("events", "created_at", "always", "true"),
            ("reservations", "created_at", "of a sale", "partner_id = 'sold'"),
            ("reservations", "created_at", "of what is gone", "partner_id = 'expired'"),
            ("reservations", "confirmed_at", "of a sale", "partner_id = 'sold'"),
            ("reservations", "confirmed_at", "of a hold", "partner_id = 'confirmed'"),
            ("reservations", "confirmed_at", "of what is gone", "partner_id = 'cancelled'"),
            ("reservations", "cancelled_at", "of a sale", "partner_id = 'cancelled'"),
            ("reservations", "cancelled_at", "of a hold", "partner_id = 'released'"),
            ("reservations", "expires_at", "of a hold", "partner_id = 'held'"),
            ("reservations", "expires_at", "of what is gone", "partner_id = 'expired'"),
            ("ledger", "expires_at", "of a hold", "version = 4"),
            ("ledger", "expires_at", "of an extension", "version = 6"),
        )
    },
    **{
        f"{column} is {value} in row {where}": (
            f"UPDATE reservations SET {column} = {value} WHERE partner_id = '{where}'"
        )
        for column, value, where in (
            ("expires_at", "now()", "sold"),
            ("expires_at", "now()", "confirmed"),
            ("confirmed_at", "now()", "held"),
            ("confirmed_at", "NULL", "sold"),
            ("cancelled_at", "now()", "sold"),
            ("cancelled_at", "now()", "expired"),
            ("cancelled_at", "NULL", "cancelled"),
            ("requested_seats", "4", "sold"),
            ("hold_seconds", "601", "held"),
            ("hold_seconds", "600", "sold"),
            ("hold_seconds", "NULL", "expired"),
            ("idempotency_key", "'other'", "sold"),
            ("idempotency_key", "NULL", "sold"),
            ("idempotency_key", "'new'", "cancelled"),
        )
    },
    "the event has another name": "UPDATE events SET name = 'Node.js Meet-Up'",
    "sales open at another time": "UPDATE events SET sales_open_at = '2001-01-01'",
    "sales always were open": "UPDATE events SET sales_open_at = NULL",
    "sales close": "UPDATE events SET sales_close_at = '2100-01-01'",
    "a partner is another in both tables": (
        "UPDATE reservations SET partner_id = 'thief' WHERE partner_id = 'sold';"
        " UPDATE ledger SET partner_id = 'thief' WHERE partner_id = 'sold'"
    ),
    "a key is another in both tables": (
        "UPDATE reservations SET idempotency_key = 'other' WHERE idempotency_key = 'order-1';"
        " UPDATE ledger SET idempotency_key = 'other' WHERE idempotency_key = 'order-1'"
    ),
    "a hold was made at another time in both tables": (
        "UPDATE reservations SET created_at = '2001-01-01', hold_seconds = 60,"
        " expires_at = '2001-01-01 00:01' WHERE partner_id = 'held';"
        " UPDATE ledger SET at = '2001-01-01', expires_at = '2001-01-01 00:01'"
        " WHERE partner_id = 'held'"
    ),
    "a hold ends at another time in both tables": (
        "UPDATE reservations SET expires_at = '2100-01-01' WHERE partner_id = 'released';"
        " UPDATE ledger SET expires_at = '2100-01-01' WHERE version = 12"
    ),
    "an event has another name in both tables": (
        "UPDATE events SET name = 'Other'; UPDATE ledger SET details ="
        " jsonb_set(details, '{event,name}', '\"Other\"') WHERE details IS NOT NULL"
    ),
    # A row of the ledger.
    **{
        f"change {version} has another {column}": (
            f"UPDATE ledger SET {column} = {value} WHERE version = {version}"
        )
        for version in range(15)
        for column, value in (
            ("at", "at + interval '1 microsecond'"),
            ("batch_id", "gen_random_uuid()"),
            ("actor", "'somebody else'"),
            ("expires_at", "'2100-01-01'"),
            ("idempotency_key", "'other'"),
            ("details", '\'{"event": {"name": "Other", "total_seats": 400}}\''),
            ("checksum", "checksum + 1"),
        )
    },
    **{
        f"change {version} tells no {column}": (
            f"UPDATE ledger SET {column} = NULL WHERE version = {version}"
        )
        for column, versions in {
            "actor": (10, 11),
            "expires_at": (4, 5, 6, 9, 12),
            "idempotency_key": (1,),
            "details": (0, 11),
        }.items()
        for version in versions
    },
    "an edit replaced something else": (
        "UPDATE ledger SET details = jsonb_set(details, '{before,name}', '\"Other\"')"
        f" WHERE version = 11; {past.SEAL}"
    ),
    "an edit left another size": (
        "UPDATE ledger SET details = jsonb_set(details, '{event,total_seats}', '401')"
        f" WHERE version = 11; {past.SEAL}"
    ),
    "the creation is of another size": (
        "UPDATE ledger SET seats = 499, available_seats = 499,"
        " details = jsonb_set(details, '{event,total_seats}', '499')"
        f" WHERE version = 0; {past.SEAL}"
    ),
    "the creation is of another time": (
        f"UPDATE ledger SET at = '2001-01-01' WHERE version = 0; {past.SEAL}"
    ),
    **{
        f"change {version} has no checksum": (
            f"UPDATE ledger SET checksum = NULL WHERE version = {version}"
        )
        # They tell what is never told without one.
        for version in (0, 1, 4, 5, 6, 9, 10, 11, 12)
    },
    **{
        f"change {version} is missing": f"DELETE FROM ledger WHERE version = {version}"
        for version in range(15)
    },
    "the ledger is empty": "DELETE FROM ledger",
    "the ledger goes on": (
        "INSERT INTO ledger SELECT event_id, 15, type, gen_random_uuid(), partner_id, seats,"
        " available_seats - seats, at, batch_id FROM ledger WHERE version = 14"
    ),
    **{
        f"change {version} has another number of seats": (
            f"UPDATE ledger SET seats = seats + 1 WHERE version = {version}"
        )
        for version in range(15)
    },
    **{
        f"change {version} left another number of seats": (
            f"UPDATE ledger SET available_seats = available_seats + 1 WHERE version = {version}"
        )
        for version in range(15)
    },
    **{
        f"change {version} is of another reservation": (
            f"UPDATE ledger SET reservation_id = gen_random_uuid() WHERE version = {version}"
        )
        for version in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14)
    },
    **{
        f"change {version} is of another partner": (
            f"UPDATE ledger SET partner_id = 'thief' WHERE version = {version}"
        )
        for version in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14)
    },
    "a reserve became a cancel": "UPDATE ledger SET type = 'cancelled' WHERE version = 1",
    "a cancel became an expiry": "UPDATE ledger SET type = 'expired' WHERE version = 3",
    "a hold became a sale": "UPDATE ledger SET type = 'reserved' WHERE version = 5",
    "a confirm became an extension": "UPDATE ledger SET type = 'extended' WHERE version = 7",
    "an expiry became a cancel": "UPDATE ledger SET type = 'cancelled' WHERE version = 10",
    "the last sale became a hold": "UPDATE ledger SET type = 'held' WHERE version = 14",
}


@pytest.fixture
def small_pages(monkeypatch):
    """Let a ledger of this size be cut as those of large events are."""
    monkeypatch.setattr(replays, "ROWS", 5)
    monkeypatch.setattr(replays, "EVENTS", 2)


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corruption_is_caught(history, small_pages, sql, verify, corruption):
    before = sql(EVERY_ROW)
    sql(corruption)
    assert sql(EVERY_ROW) != before
    status, output = verify()
    assert status == 1, output
    first, *differences = output.splitlines()
    assert first.startswith("node-meetup-2025: ")
    assert first.endswith(f", {len(differences)} differences") or len(differences) == 10
    assert differences


def test_a_reservation_that_moved_to_another_event_is_missed_there_and_here(
    history, store, sql, verify
):
    store.create_event("other", "Other", 10)
    sql("UPDATE reservations SET event_id = 'other' WHERE partner_id = 'sold'")
    status, output = verify()
    assert status == 1
    heads = [line for line in output.splitlines() if not line.startswith("  ")]
    assert heads == [
        "node-meetup-2025: 14 changes, 2 differences",
        "other: 0 changes, 1 differences",
    ]


def test_what_a_release_without_checksums_entered_is_counted_and_verified(history, sql, verify):
    """It told neither the end of a hold, nor a key, nor what was edited, nor who did it."""
    sql(
        "UPDATE ledger SET actor = NULL, expires_at = NULL, idempotency_key = NULL,"
        " details = NULL, checksum = NULL WHERE version > 1"
    )
    older = "node-meetup-2025: 14 changes, 13 without a checksum"
    assert verify() == (0, f"{older}, ok\n")
    sql("UPDATE reservations SET confirmed_at = now() WHERE partner_id = 'confirmed'")
    sql("UPDATE events SET available_seats = available_seats - 1")
    status, output = verify()
    assert (status, output.splitlines()[0]) == (1, f"{older}, 3 differences")


def test_a_checksum_is_the_same_on_every_release_of_postgresql(sql):
    """Or an upgrade would make every row look altered. (Both 15 and 18 gave this one.)"""
    row = (
        "'concert'::text, 3::bigint, 'held'::text, md5('')::uuid, 'Ünïcode & Söhne'::text, 3, 497,"
        " '2030-01-01 12:00:00.5Z'::timestamptz, md5('')::uuid, NULL::text,"
        " '2030-01-01 12:10:00.5Z'::timestamptz, 'order-1'::text,"
        """ '{"event": {"name": "x", "total_seats": 500, "more": [1.5, null, true]}}'::jsonb"""
    )
    checksum = sql(f"SELECT hash_record_extended(ROW({row}), 0)")
    assert checksum == [(-5829801487737955007,)]


def test_one_corrupt_event_among_many_is_named_and_the_others_are_not(history, client, sql, verify):
    for name in ("a-first", "z-last"):
        body = {"eventId": name, "name": name, "totalSeats": 10}
        assert client.post("/api/v1/events", json=body, headers=ADMIN).status_code == 201
    body = {"partnerId": "a", "seats": 2}
    made = client.post("/api/v1/events/z-last/reservations", json=body)
    assert made.status_code == 201
    assert verify() == (0, f"a-first: 0 changes, ok\n{HEALTHY}z-last: 1 changes, ok\n")
    sql("UPDATE events SET available_seats = 7 WHERE event_id = 'z-last'")
    status, output = verify()
    assert status == 1
    first, second, third, *differences = output.splitlines()
    assert [first, second] == ["a-first: 0 changes, ok", HEALTHY.strip()]
    assert third == f"z-last: 1 changes, {len(differences)} differences"
    assert "  available seats: stored 7, replayed 8" in differences


def test_a_repaired_event_is_healthy_again(history, sql, verify):
    sql("UPDATE events SET available_seats = available_seats - 1")
    assert verify()[0] == 1
    sql("UPDATE events SET available_seats = available_seats + 1")
    assert verify() == (0, HEALTHY)
