"""The SQL itself: every file runs on the schema, by index, and the schema refuses what is wrong."""

import contextlib
import re
import time
from importlib import resources
from uuid import uuid4

import psycopg2
import pytest
from serving import ADMIN_KEY, connect, run_sql

from ticketboss.data.database import Database
from ticketboss.data.migrations import migrations
from ticketboss.data.statements import functions, statement, without_comments
from ticketboss.data.store import Store, Written
from ticketboss.rules.changes import Cancel, Reserve
from ticketboss.rules.plan import Plan

FILES = sorted(
    file.name.removesuffix(".sql")
    for file in resources.files("ticketboss.sql").iterdir()
    if file.name.endswith(".sql")
)
MIGRATIONS = sorted(
    file.name
    for file in resources.files("ticketboss.sql.migrations").iterdir()
    if file.name.endswith(".sql")
)
# What requests never send, with values for it: the start of the service defines
# and migrates, and `verify` replays.
PIECES = {
    "event_ids": ["small-1", "small-2", "big"],
    "first_versions": [0, 0, 10_000],
    "last_versions": [0, 0, 12_000],
    "ends": [True, True, False],
}
DEFINITIONS = {  # EXPLAIN takes none of these
    "create_schema_migrations",
    *(f"create_archived_{table}" for table in ("events", "reservations", "ledger")),
}
ARCHIVED = {"event_id": "big", "after": 0, "limit": 10}
ELSEWHERE = {
    "create_migration": {"version": 1000, "name": "1000_test", "serves": 1},
    "find_function": {"name": "write_batch"},
    "find_lock_holder": {"seconds": 0.1},
    "find_schema_migrations": {},
    "list_migrations": {},
    "lock_migrations": {},
    "lock_event": {},
    "list_replayed_events": {"event_id": None, "after": "", "limit": 10},
    "list_ledger": PIECES,
    "list_strayed_reservations": PIECES,
    "read_archived_event": {"event_id": "big"},
    "list_archived_reservations": ARCHIVED,
    "list_archived_ledger": ARCHIVED,
    "remove_reservations": ARCHIVED,
    "remove_ledger": ARCHIVED,
    "forget_keys": ARCHIVED,
    "restore_event": {"event": "{}"},
    "restore_reservations": {"rows": "[]"},
    "restore_ledger": {"rows": "[]"},
}

RESERVATIONS = 20_000
BIG = "/api/v1/events/big"


@pytest.fixture
def sent(monkeypatch):
    """Record every message to the database, and its parameters, on their way."""
    messages = []

    def recording(plain):
        def send(self, sql, parameters=None, **more):
            messages.append((sql, parameters))
            return plain(self, sql, parameters, **more)

        return send

    for name in ("read", "read_durably", "write"):
        monkeypatch.setattr(Database, name, recording(getattr(Database, name)))
    return messages


@pytest.fixture
def many(sql):
    """Fill the tables: one event with 20,000 reservations, and a hundred small ones."""
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,"
        " reservation_count, version)"
        " SELECT 'small-' || n, 'Small', 10, 10, 10, 0, 0 FROM generate_series(1, 100) AS n"
        " UNION ALL SELECT 'big', 'Big', 50000, 50000, 50000 - %(n)s, %(n)s, %(n)s",
        {"n": RESERVATIONS},
    )
    sql(
        "INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, expires_at, requested_seats, idempotency_key)"
        " SELECT 'big', n, lpad(to_hex(n), 32, '0')::uuid, 'partner-' || n %% 100, 1,"
        " CASE WHEN n %% 20 = 0 THEN 'cancelled' WHEN n %% 40 = 1 THEN 'expired'"
        " WHEN n %% 100 = 2 THEN 'held' ELSE 'confirmed' END,"
        " n, now(), now() + interval '1 hour', 1, 'key-' || n"
        " FROM generate_series(1, %(n)s) AS n",
        {"n": RESERVATIONS},
    )
    sql(
        "INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,"
        " available_seats, at, batch_id)"
        " SELECT event_id, created_version, 'reserved', reservation_id, partner_id, 1,"
        " 50000 - created_version, now(), reservation_id FROM reservations"
    )
    sql(
        "INSERT INTO keys (key_id, digest, kind, partner_id, created_at, revoked_at)"
        " SELECT lpad(n::text, 12, '0'), sha256('nobody'), 'partner', 'partner-' || n %% 100,"
        " now() - n * interval '1 hour', CASE WHEN n > 1000 THEN now() END"
        " FROM generate_series(1, %(n)s) AS n",
        {"n": RESERVATIONS},
    )
    sql("ANALYZE events, reservations, ledger, keys")


# --- Every statement --------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_starts_with_what_it_is_for_and_holds_one_statement(name):
    text = resources.files("ticketboss.sql").joinpath(f"{name}.sql").read_text("utf-8")
    assert re.match(r"-- [A-Z]", text)
    assert text.endswith(";\n")
    loaded = statement(name)
    assert loaded.count(";") == 1
    assert "--" not in loaded and "/*" not in loaded


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_is_numbered_and_says_what_it_is_for(name):
    assert re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name)
    text = resources.files("ticketboss.sql.migrations").joinpath(name).read_text("utf-8")
    assert re.match(r"-- [A-Z]", text)


def test_migrations_are_numbered_from_one_without_gaps_and_say_whom_they_serve():
    assert [int(name[:4]) for name in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    for version, migration in migrations().items():
        assert 1 <= migration.serves <= version


@pytest.mark.parametrize("name", functions())
def test_a_function_says_what_it_is_for_and_is_called_by_a_digest_of_its_text(name):
    text = resources.files("ticketboss.sql.functions").joinpath(f"{name}.sql").read_text("utf-8")
    assert re.match(r"-- [A-Z]", text)
    assert text.count("{" + name + "}") == 1
    function = functions()[name]
    assert re.fullmatch(name + "_[0-9a-f]{8}", function.name)
    assert f"CREATE FUNCTION {function.name}(" in function.sql
    assert any(f"FROM {function.name}(" in statement(file) for file in FILES)


def test_the_loader_drops_comments_that_the_driver_would_interpolate(dsn):
    loaded = without_comments(
        "-- 100 % sure, or %(nothing)s, or %s; %\n"
        "\n"
        "SELECT %(seats)s\n"
        "    -- indented: %(partner_id)s\n"
        "       + 1;\n"
        "--%(event_id)s"
    )
    assert loaded == "SELECT %(seats)s\n       + 1;"
    assert run_sql(dsn, loaded, {"seats": 3}) == [(4,)]


@pytest.mark.parametrize(("name", "parameters"), ELSEWHERE.items())
def test_a_statement_that_no_request_needs_fits_the_schema(dsn, name, parameters):
    assert run_sql(dsn, "EXPLAIN " + statement(name), parameters)


def test_the_definitions_can_run_again(dsn):
    for name in DEFINITIONS:
        run_sql(dsn, statement(name))


def test_no_statement_of_a_request_reads_a_whole_table(client, store, dsn, many, sent):
    store.database.last_write = float("-inf")  # so that /health asks
    call_everything(client, dsn)
    lost = Plan.supposing("big")
    Reserve(uuid4(), "big", "partner-7", 1).apply(lost)
    assert store.find_batch(lost, uuid4()) is None  # as after a write whose answer was lost
    some = "SELECT reservation_id FROM reservations WHERE event_id = 'big' AND status = 'confirmed'"
    cancel = Cancel(run_sql(dsn, some + " LIMIT 1")[0][0])
    lost = Plan.supposing("big", store.read_reservations([(cancel.reads, None)], [])[0])
    cancel.apply(lost)
    assert store.find_batch(lost, uuid4()) is None
    found, offenders = set(), []
    for sql, parameters in sent:
        for name in FILES:
            if statement(name) not in sql:
                continue
            found.add(name)
            plan = run_sql(dsn, "EXPLAIN (FORMAT JSON) " + statement(name), parameters)
            scanned = {
                node["Relation Name"]
                for node in nodes(plan[0][0][0]["Plan"])
                if node["Node Type"] == "Seq Scan"
            }
            if scanned & {"reservations", "ledger", "keys"}:
                offenders.append((name, scanned, parameters))
    assert offenders == []
    # Every statement was among them, so none has gone unseen.
    assert found == set(FILES) - set(ELSEWHERE) - DEFINITIONS


def test_a_page_of_events_that_has_not_changed_costs_one_statement(client, many, sent):
    tag = client.get("/api/v1/events?limit=100").headers["ETag"]
    sent.clear()
    answer = client.get("/api/v1/events?limit=100", headers={"If-None-Match": tag})
    assert answer.status_code == 304
    assert [sql for sql, _ in sent] == [statement("list_events")]


@pytest.mark.parametrize("name", ["list_ledger", "list_strayed_reservations"])
def test_no_page_of_a_replay_reads_a_whole_table(dsn, many, name):
    plan = run_sql(dsn, "EXPLAIN (FORMAT JSON) " + statement(name), PIECES)
    scanned = {
        node["Relation Name"]
        for node in nodes(plan[0][0][0]["Plan"])
        if node["Node Type"] == "Seq Scan"
    }
    assert scanned == set(), plan


def call_everything(client, dsn):
    """Make every kind of request, so that every statement of the service is sent."""

    def call(status, method, path, json=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = client.open(path, method=method, json=json, headers=headers)
        assert answer.status_code == status, answer.json
        return answer

    def reserve(**members):
        members = {"partnerId": "partner-7", "seats": 2, **members}
        return call(201, "POST", BIG + "/reservations", members).location

    admin = f"Bearer {ADMIN_KEY}"
    call(200, "GET", "/api/v1/health")
    call(200, "GET", "/metrics")
    call(200, "GET", BIG)
    call(200, "GET", "/api/v1/events?limit=100")
    cursor = call(200, "GET", "/api/v1/events?limit=50").json["next"]
    call(200, "GET", f"/api/v1/events?after={cursor}")
    event = {"eventId": "new", "name": "New", "totalSeats": 10}
    call(201, "POST", "/api/v1/events", event, authorization=admin)
    call(200, "PATCH", BIG, {"name": "Bigger"}, authorization=admin, if_match="*")

    rules = {"maxSeatsPerPartner": 1000}
    call(200, "PATCH", BIG, rules, authorization=admin, if_match="*")
    allotment = {"partnerId": "partner-7", "seats": 3}
    call(201, "PUT", BIG + "/allotments", allotment, authorization=admin)
    call(200, "GET", BIG + "/allotments", authorization=admin)
    reserve()
    call(204, "DELETE", BIG + "/allotments?partnerId=partner-7", authorization=admin)
    rules = {"maxSeatsPerPartner": None}
    call(200, "PATCH", BIG, rules, authorization=admin, if_match="*")

    sale = reserve()
    call(200, "GET", sale)
    call(200, "PATCH", sale, {"seats": 1})
    call(204, "DELETE", sale)
    hold = reserve(holdSeconds=60)
    call(200, "POST", hold + "/extend", {"holdSeconds": 90})
    call(200, "POST", hold + "/confirm")
    call(200, "POST", hold + "/confirm")
    for _ in range(2):
        again = {"partnerId": "partner-7", "seats": 1}
        call(201, "POST", BIG + "/reservations", again, idempotency_key="again")

    for query in ("", "?limit=100", "?partnerId=partner-7", "?partnerId=nobody"):
        cursor = call(200, "GET", BIG + "/reservations" + query).json["next"]
        if cursor:
            more = f"{query}&after={cursor}" if query else f"?after={cursor}"
            call(200, "GET", BIG + "/reservations" + more)
    for status in ("held", "confirmed", "cancelled", "expired"):
        call(200, "GET", f"{BIG}/reservations?status={status}")
        call(200, "GET", f"{BIG}/reservations?partnerId=partner-7&status={status}")
    for after in (0, RESERVATIONS // 2, RESERVATIONS - 5, RESERVATIONS):
        call(200, "GET", f"{BIG}/changes?after={after}&limit=1000")

    key = call(201, "POST", "/api/v1/keys", {"admin": True}, authorization=admin).json
    admin = f"Bearer {key['key']}"
    for query in ("", "?limit=100", "?partnerId=partner-7&limit=1"):
        cursor = call(200, "GET", "/api/v1/keys" + query, authorization=admin).json["next"]
        more = f"{query}&after={cursor}" if query else f"?after={cursor}"
        call(200, "GET", "/api/v1/keys" + more, authorization=admin)
    call(204, "DELETE", f"/api/v1/keys/{key['keyId']}", authorization=admin)

    # Holds that have expired, first while they cannot be settled.
    run_sql(dsn, "UPDATE reservations SET expires_at = now() WHERE created_version < 500")
    with contextlib.closing(connect(dsn)) as rival, rival.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM events WHERE event_id = 'big' FOR UPDATE")
        call(200, "GET", BIG)
    call(200, "GET", BIG)


def report(store: Store) -> None:
    """Let the pool's only busy connection report what it has counted."""
    ((number,),) = store.database.read("SELECT current_setting('server_version_num')::integer")
    if number >= 150_000:
        store.database.read("SELECT pg_stat_force_next_flush()")
    else:  # it does so by itself, with the first statement after half a second
        time.sleep(0.6)
        store.database.read("SELECT")
        time.sleep(0.6)


def test_the_write_finds_its_rows_by_index_even_where_there_are_few(store, sql):
    """The plan of a function is kept: one made for a small table must do for a large one."""

    def whole_tables_read(writes: int) -> int:
        for _ in range(writes):
            reservation = Reserve(uuid4(), "node-meetup-2025", "abc-corp", 2)
            event = store.read_event("node-meetup-2025")
            made = Plan(event, [], event.read_at)
            reservation.apply(made)
            assert store.write([made], uuid4())
            event = store.read_event("node-meetup-2025")
            cancelled = Plan(event, list(made.created.values()), event.read_at)
            Cancel(reservation.reservation_id).apply(cancelled)
            assert store.write([cancelled], uuid4())
        report(store)
        ((count,),) = sql(
            "SELECT sum(seq_scan)::integer FROM pg_stat_user_tables"
            " WHERE relname IN ('reservations', 'ledger')"
        )
        return count

    # Known to be small, a table is read as a whole wherever the planner may do so.
    sql("ANALYZE events, reservations, ledger")
    before = whole_tables_read(0)
    assert whole_tables_read(10) == before
    write_batch = functions()["write_batch"].name
    sql(
        f"ALTER FUNCTION {write_batch} RESET enable_seqscan;"
        " DROP INDEX reservations_held_by_end, reservations_by_status"
    )
    try:
        assert whole_tables_read(10) > before  # so this test can fail
    finally:
        sql(
            f"ALTER FUNCTION {write_batch} SET enable_seqscan = off;"
            " CREATE INDEX reservations_held_by_end"
            " ON reservations (event_id, expires_at) WHERE status = 'held';"
            " CREATE INDEX reservations_by_status"
            " ON reservations (event_id, status, created_version)"
        )


@pytest.mark.parametrize("made", [0, 5, 50])
def test_the_write_reads_no_more_however_the_event_has_grown(dsn, sql, made):
    """Its plan was made, and is kept, while there were `made` reservations."""
    event_id = "node-meetup-2025"
    sql("UPDATE events SET initial_seats = 9999, total_seats = 9999, available_seats = 9999")
    store = Store(Database(dsn, size=1))

    def write(count: int) -> None:
        plan = Plan.supposing(event_id)
        for _ in range(count):
            key = str(uuid4())
            change = Reserve(uuid4(), event_id, "abc-corp", 1, 3600, idempotency_key=key)
            change.apply(plan)
        assert isinstance(store.write([plan], uuid4())[event_id], Written)

    def rows_read(writes: int) -> int:
        before = counted()
        for _ in range(writes):
            write(2)
        return counted() - before

    def counted() -> int:
        report(store)
        rows = sql("SELECT sum(idx_tup_read)::integer FROM pg_stat_user_indexes")
        return rows[0][0]

    if made:
        write(made)
    sql("ANALYZE events, reservations, ledger")
    write(1)  # makes the plan
    for _ in range(10):
        write(100)
    # The event three times, once for each foreign key, and the first of the holds.
    assert rows_read(10) <= 150
    sql("DROP INDEX reservations_held_by_end")
    try:
        assert rows_read(10) > 1000  # so this test can fail
    finally:
        sql(
            "CREATE INDEX reservations_held_by_end"
            " ON reservations (event_id, expires_at) WHERE status = 'held'"
        )
    store.database.close()


def test_a_whole_table_would_be_noticed(dsn, many):
    plan = run_sql(dsn, "EXPLAIN (FORMAT JSON) SELECT count(seats) FROM reservations")
    found = {node["Node Type"] for node in nodes(plan[0][0][0]["Plan"])}
    assert "Seq Scan" in found


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


# --- The constraints --------------------------------------------------------------

RESERVED = (
    "INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
    " status, version, created_at, expires_at, requested_seats, idempotency_key)"
)
ENTERED = (
    "INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,"
    " available_seats, at, batch_id)"
)
OTHER = "'00000000-0000-0000-0000-000000000002'"
ONE = "'00000000-0000-0000-0000-000000000001'"

# What each constraint forbids, on one event of five seats, two of them sold.
FORBIDDEN = [
    ("events_never_oversold", "UPDATE events SET available_seats = -1"),
    ("events_never_oversold", "UPDATE events SET available_seats = available_seats - 4"),
    ("events_total_seats_in_range", "UPDATE events SET total_seats = 10000001"),
    ("events_count_matches_seats", "UPDATE events SET reservation_count = 0"),
    ("events_count_matches_seats", "UPDATE events SET reservation_count = 3"),
    ("events_count_matches_seats", "UPDATE events SET available_seats = total_seats"),
    # These two are oversold as well; PostgreSQL names the first constraint it meets.
    ("events_count_matches_seats", "UPDATE events SET available_seats = total_seats + 1"),
    ("events_count_matches_seats", "UPDATE events SET total_seats = 2"),
    ("events_count_matches_seats", "UPDATE events SET allotted_seats = -1"),
    ("events_count_matches_seats", "UPDATE events SET allotted_seats = 3"),
    ("events_caps_in_range", "UPDATE events SET max_seats_per_partner = 0"),
    ("events_caps_in_range", "UPDATE events SET max_held_seats_per_partner = 10000001"),
    (
        "reservations_allotment_is_held_until_it_ends",
        "UPDATE reservations SET allotment = true WHERE status = 'confirmed'",
    ),
    ("events_version_not_negative", "UPDATE events SET version = -1"),
    ("events_archived_stays", "UPDATE events SET archived_version = version + 1"),
    (
        "events_sales_open_before_close",
        "UPDATE events SET sales_open_at = now(), sales_close_at = now()",
    ),
    ("events_id_is_printable", "UPDATE events SET event_id = 'Event 1'"),
    ("events_id_is_printable", "UPDATE events SET event_id = repeat('x', 65)"),
    ("events_id_is_printable", r"UPDATE events SET event_id = E'e\n'"),
    (
        "events_one_per_id",
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " VALUES ('e', 'Again', 9, 9, 9)",
    ),
    (
        "reservations_one_per_version",
        f"{RESERVED} VALUES ('e', 1, {OTHER}, 'p', 1, 'confirmed', 2, now(), NULL, 1, NULL)",
    ),
    (
        "reservations_one_per_id",
        f"{RESERVED} VALUES ('e', 2, {ONE}, 'p', 1, 'confirmed', 2, now(), NULL, 1, NULL)",
    ),
    (
        "reservations_one_per_idempotency_key",
        f"{RESERVED} VALUES ('e', 2, {OTHER}, 'p', 1, 'confirmed', 2, now(), NULL, 1, 'key')",
    ),
    (
        "reservations_belong_to_an_event",
        f"{RESERVED} VALUES ('none', 1, {OTHER}, 'p', 1, 'confirmed', 1, now(), NULL, 1, NULL)",
    ),
    ("reservations_belong_to_an_event", "DELETE FROM events"),
    ("reservations_seats_positive", "UPDATE reservations SET seats = 0"),
    ("reservations_seats_positive", "UPDATE reservations SET seats = requested_seats + 1"),
    ("reservations_status_known", "UPDATE reservations SET status = 'paid'"),
    (
        "reservations_hold_has_an_end",
        "UPDATE reservations SET status = 'held', expires_at = NULL",
    ),
    ("reservations_version_not_before_created", "UPDATE reservations SET version = 0"),
    (
        "ledger_one_change_per_version",
        f"{ENTERED} VALUES ('e', 1, 'cancelled', {ONE}, 'p', 2, 5, now(), {OTHER})",
    ),
    (
        "ledger_belongs_to_an_event",
        f"{ENTERED} VALUES ('none', 1, 'reserved', {ONE}, 'p', 2, 5, now(), {OTHER})",
    ),
    ("ledger_version_not_negative", "UPDATE ledger SET version = -1"),
    ("ledger_starts_with_the_creation", "UPDATE ledger SET version = 0"),
    (
        "ledger_starts_with_the_creation",
        "UPDATE ledger SET type = 'event_created', reservation_id = NULL, partner_id = NULL",
    ),
    ("ledger_available_not_negative", "UPDATE ledger SET available_seats = -1"),
    ("ledger_type_known", "UPDATE ledger SET type = 'sold'"),
    ("ledger_names_what_changed", "UPDATE ledger SET reservation_id = NULL"),
    ("ledger_names_what_changed", "UPDATE ledger SET partner_id = NULL"),
    ("ledger_names_what_changed", "UPDATE ledger SET type = 'event_updated'"),
    (
        "keys_one_per_id",
        "INSERT INTO keys (key_id, digest, kind) VALUES ('k', sha256('other'), 'admin')",
    ),
    ("keys_digest_is_one", "UPDATE keys SET digest = 'the key itself'"),
    ("keys_kind_known", "UPDATE keys SET kind = 'master'"),
    ("keys_partner_has_a_name", "UPDATE keys SET partner_id = NULL"),
    ("keys_partner_has_a_name", "UPDATE keys SET kind = 'admin'"),
]


@pytest.fixture
def sold(sql):
    """Leave one event of five seats, two of them sold."""
    sql("TRUNCATE events, reservations, ledger")
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,"
        " reservation_count, version) VALUES ('e', 'Event', 5, 5, 3, 1, 1)"
    )
    sql(f"{RESERVED} VALUES ('e', 1, {ONE}, 'p', 2, 'confirmed', 1, now(), NULL, 2, 'key')")
    sql(f"{ENTERED} VALUES ('e', 1, 'reserved', {ONE}, 'p', 2, 3, now(), {ONE})")
    sql(
        "INSERT INTO keys (key_id, digest, kind, partner_id)"
        " VALUES ('k', sha256('a key'), 'partner', 'p')"
    )


@pytest.mark.parametrize(("constraint", "wrong"), FORBIDDEN)
def test_the_database_itself_refuses_what_is_wrong(sql, sold, constraint, wrong):
    with pytest.raises(psycopg2.IntegrityError) as refusal:
        sql(wrong)
    assert refusal.value.diag.constraint_name == constraint


def test_every_constraint_of_the_schema_is_tested(sql):
    names = sql(
        "SELECT conname FROM pg_constraint"
        " WHERE conrelid = ANY ('{events,reservations,ledger,keys}'::regclass[])"
        " AND contype IN ('c', 'f', 'p', 'u', 'x')"
        " UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique"
        " AND indrelid = ANY ('{events,reservations,ledger,keys}'::regclass[])"
    )
    assert {name for (name,) in names} == {constraint for constraint, _ in FORBIDDEN}


def test_what_the_constraints_protect_can_be_sold_to_the_last_seat(sql, sold):
    sql("UPDATE events SET available_seats = 0, version = 2, reservation_count = 2")
    assert sql("SELECT available_seats FROM events") == [(0,)]


# --- The hottest row --------------------------------------------------------------


def test_no_column_of_an_event_that_changes_is_indexed(sql):
    # A heap-only update is possible only then.
    columns = sql(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid"
        " AND attnum = ANY (indkey) WHERE indrelid = 'events'::regclass"
    )
    assert columns == [("event_id",)]
    assert sql(
        "SELECT count(*) FROM pg_index WHERE indrelid = 'events'::regclass"
        " AND (indexprs IS NOT NULL OR indpred IS NOT NULL)"
    ) == [(0,)]


def test_updates_of_the_hottest_row_stay_heap_only(client, store, dsn):
    changes = 300

    def updates():
        report(store)
        with contextlib.closing(connect(dsn)) as own, own.cursor() as cursor:
            cursor.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'events'"
            )
            return cursor.fetchone()

    before = updates()
    for _ in range(changes):
        made = client.post("/api/v1/reservations", json={"partnerId": "a", "seats": 1})
        assert made.status_code == 201
    after = updates()
    written, heap_only = after[0] - before[0], after[1] - before[1]
    assert written >= changes
    assert heap_only >= 0.95 * written
