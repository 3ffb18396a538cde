"""What is counted: /metrics, over all processes of an instance, and what is made of it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from proxy import UNANSWERED, Proxy
from serving import ADMIN, ADMIN_KEY, ROOT, connect
from test_conditions import eventually
from test_documents import bare, table

from ticketboss import create_app, metrics
from ticketboss.config import Config
from ticketboss.rules.changes import Reserve

RESERVATIONS = "/api/v1/reservations"
EVENT = "node-meetup-2025"
RESERVE = {"partnerId": "abc-corp", "seats": 2}

SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def samples(text: str) -> dict[str, float]:
    """Return every number of an exposition by its name and labels as they stand there."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in lines)
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture
def scrape(client):
    """Give a function that returns what has grown since the test began."""
    before = samples(client.get("/metrics").text)

    def scrape():
        now = samples(client.get("/metrics").text)
        return Counter({name: now[name] - before.get(name, 0) for name in now})

    return scrape


def of(server) -> dict[str, float]:
    with contextlib.closing(server.client()) as http:
        answer = http.get("/metrics")
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return samples(answer.body.decode())


# --- What is counted ----------------------------------------------------------------


def test_requests_changes_and_refusals_are_counted_by_names_that_are_known(client, scrape):
    made = client.post(RESERVATIONS, json=RESERVE | {"holdSeconds": 60}).location
    assert client.post(made + "/confirm").status_code == 200
    assert client.delete(made).status_code == 204
    assert client.post(RESERVATIONS, json={}).status_code == 400
    event = {"eventId": "gala", "name": "Gala", "totalSeats": 5}
    for status in (201, 409):
        assert client.post("/api/v1/events", json=event, headers=ADMIN).status_code == status
    operations = [{"op": "reserve", **RESERVE}, {"op": "juggle"}]
    assert client.post("/api/v1/batch", json={"operations": operations}).status_code == 200
    seen = scrape()

    def requests(method, route, status):
        labels = f'route="{route}",method="{method}"'
        assert seen[f"ticketboss_request_seconds_count{{{labels}}}"] >= 1
        return seen[f'ticketboss_requests_total{{{labels},status="{status}"}}']

    assert requests("POST", RESERVATIONS, 201) == 1
    assert requests("POST", RESERVATIONS, 400) == 1
    assert requests("DELETE", RESERVATIONS + "/<reservation_id>", 204) == 1
    for kind in ("held", "confirmed", "cancelled", "reserved", "event_created"):
        assert seen[f'ticketboss_changes_total{{type="{kind}"}}'] == 1
    assert seen['ticketboss_refusals_total{code="invalid_request"}'] == 2
    assert seen["ticketboss_batch_changes_count"] == seen["ticketboss_batch_changes_sum"] == 4
    assert seen["ticketboss_line_seconds_count"] == 4
    assert 0 < seen["ticketboss_line_seconds_sum"] < 60
    assert seen["ticketboss_database_seconds_count"] >= 4
    assert seen["ticketboss_pool_seconds_count"] >= 4


def test_no_client_makes_up_a_label(client, scrape):
    known = set(scrape())
    for n in range(20):
        client.open(f"/made/up/{n}", method=f"VERB{n}")
        client.open(RESERVATIONS, method=f"VERB{n}")
        client.get(f"/api/v1/events/made-up-{n}")
        client.get(RESERVATIONS, headers={"X-Request-Id": f"made-up-{n}"})
    seen = scrape()
    assert not [name for name in seen if re.search("made.up|VERB", name)]
    assert seen['ticketboss_requests_total{route="other",method="other",status="404"}'] == 20
    assert seen['ticketboss_requests_total{route="other",method="other",status="405"}'] == 20
    assert {name.partition("{")[0] for name in seen} == {n.partition("{")[0] for n in known}


def test_a_series_that_is_not_known_is_counted_as_other_ones(scrape):
    metrics.REFUSALS.add("a-code-of-tomorrow")
    assert scrape()['ticketboss_refusals_total{code="other"}'] == 1


def test_a_histogram_has_in_each_bucket_what_is_not_above_its_bound():
    histogram = metrics.Histogram("test", "For a test", (1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.observe(value)
    told = histogram.family(metrics.slots.sums()).samples
    assert [(s.suffix, s.labels.get("le"), s.value) for s in told] == [
        ("_bucket", 1, 2),
        ("_bucket", 2, 3),
        ("_bucket", "+Inf", 4),
        ("_sum", None, 6),
        ("_count", None, 4),
    ]


def test_an_event_on_sale_is_told_as_it_is_and_no_other(client, scrape, sql):
    assert client.post(RESERVATIONS, json=RESERVE).status_code == 201
    assert client.post(RESERVATIONS, json=RESERVE | {"holdSeconds": 60}).status_code == 201
    allotment = {"partnerId": "xyz-inc", "seats": 5}
    address = f"/api/v1/events/{EVENT}/allotments"
    assert client.put(address, json=allotment, headers=ADMIN).status_code == 201
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,"
        " sales_open_at, sales_close_at) VALUES"
        " ('over', 'Over', 9, 9, 9, NULL, now() - interval '1 s'),"
        " ('soon', 'Soon', 9, 9, 9, now() + interval '1 h', NULL)"
    )
    seen = samples(client.get("/metrics").text)
    label = f'{{event="{EVENT}"}}'
    assert {name: n for name, n in seen.items() if "_event_" in name} == {
        f"ticketboss_event_seats{label}": 500,
        f"ticketboss_event_available_seats{label}": 491,
        f"ticketboss_event_held_seats{label}": 2,
        f"ticketboss_event_allotted_seats{label}": 5,
        f"ticketboss_event_version{label}": 3,
    }


def test_at_most_200_events_are_told_by_one_statement(client, sql, statements):
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " SELECT 'event-' || n, 'Event', 10, 10, 10 FROM generate_series(1, 300) AS n"
    )
    seen = samples(client.get("/metrics").text)
    assert sum(name.startswith("ticketboss_event_seats") for name in seen) == 200
    assert len(statements) == 1


def test_holds_that_would_take_long_to_sum_up_are_left_out(client, sql):
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " SELECT 'event-' || n, 'Event', 10, 10, 10 FROM generate_series(1, 200) AS n"
    )
    sql(
        "INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, expires_at, requested_seats)"
        " SELECT 'event-1', n, gen_random_uuid(), 'abc', 1, 'held', n, now(),"
        " now() + interval '1 h', 1 FROM generate_series(1, 501) AS n"
    )
    seen = samples(client.get("/metrics").text)
    assert 'ticketboss_event_held_seats{event="event-1"}' not in seen
    assert seen['ticketboss_event_held_seats{event="event-2"}'] == 0
    sql("DELETE FROM reservations WHERE created_version = 501")
    assert (
        samples(client.get("/metrics").text)['ticketboss_event_held_seats{event="event-1"}'] == 500
    )


# --- Over all processes -------------------------------------------------------------


def test_the_counts_are_those_of_all_workers_and_outlive_them(serve):
    server = serve(WORKERS="3", CPU_AFFINITY="off")
    asked = 0

    def reserve(times):
        nonlocal asked
        for _ in range(times):
            with contextlib.closing(server.client()) as http:
                assert http.post(RESERVATIONS, RESERVE).status == 201
                asked += 1

    def told():
        seen = of(server)
        reserved = seen['ticketboss_changes_total{type="reserved"}']
        route = f'route="{RESERVATIONS}",method="POST"'
        assert seen[f"ticketboss_request_seconds_count{{{route}}}"] == reserved
        assert seen[f'ticketboss_requests_total{{{route},status="201"}}'] == reserved
        return reserved

    reserve(30)
    assert told() == asked
    for _ in range(2):
        before = of(server)
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda old=set(pids): not old & set(server.worker_pids()))
        server.wait_until_it_answers()
        after = of(server)
        # Every count, and the counts that buckets are, is where it was or beyond.
        gone_back = {
            name
            for name, number in before.items()
            if after.get(name, 0) < number and re.search(r"_(total|bucket|sum|count)\b", name)
        }
        assert gone_back == set()
        reserve(10)
        assert told() == asked
        assert set(before) <= set(after)


def test_what_a_worker_had_open_is_nobodys_when_it_is_gone(serve):
    server = serve(WORKERS="1")
    with contextlib.closing(server.client()) as http:
        assert http.get(RESERVATIONS).status == 200
        seen = of(server)
        assert seen["ticketboss_client_connections"] == 2
        assert seen["ticketboss_database_connections"] >= 1
        (pid,) = server.worker_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.worker_pids() not in ([], [pid]))
        server.wait_until_it_answers()
    eventually(lambda: of(server)["ticketboss_client_connections"] == 1)
    seen = of(server)
    assert seen["ticketboss_database_connections"] == 1
    # That of the scrape is given back by the time that it is told.
    assert seen["ticketboss_database_connections_in_use"] == 0


def test_clients_that_are_cut_off_are_counted_by_why(serve):
    server = serve()
    before = of(server)
    with socket.create_connection(("127.0.0.1", server.port)) as malformed:
        malformed.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        assert malformed.recv(4096).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as silent:
        assert silent.recv(1) == b""
    seen = of(server)
    for reason in ("malformed", "silent"):
        name = f'ticketboss_clients_cut_off_total{{reason="{reason}"}}'
        assert seen[name] - before[name] == 1


# --- While the database is not well ---------------------------------------------------


@pytest.fixture
def proxied(serving_dsn):
    """Give an application behind a proxy, and the proxy."""
    with Proxy(serving_dsn) as proxy:
        app = create_app(Config(database_url=proxy.dsn, admin_key=ADMIN_KEY))
        yield app.test_client(), proxy
        app.extensions["ticketboss"]["store"].database.close()


@pytest.mark.parametrize("trouble", ["freeze", "refuse"])
def test_without_the_database_the_rest_comes_within_a_second(proxied, trouble):
    client, proxy = proxied
    assert samples(client.get("/metrics").text)["ticketboss_database_up"] == 1
    getattr(proxy, trouble)()
    if trouble == "refuse":
        proxy.cut_all()
    for _ in range(3):
        began = time.monotonic()
        answer = client.get("/metrics")
        assert time.monotonic() - began < 1
        seen = samples(answer.text)
        assert answer.status_code == 200
        assert seen["ticketboss_database_up"] == 0
        assert seen["ticketboss_batch_changes_count"] >= 0
        assert not [name for name in seen if name.startswith("ticketboss_event_")]


def test_an_answer_that_was_lost_and_found_is_counted_once_with_its_change(proxied, scrape):
    client, proxy = proxied
    proxy.fault(UNANSWERED)
    assert client.post(RESERVATIONS, json=RESERVE).status_code == 201
    seen = scrape()
    assert seen["ticketboss_lost_answers_total"] == 1
    assert seen["ticketboss_lost_answers_found_total"] == 1
    assert seen["ticketboss_retries_total"] == 1
    assert seen['ticketboss_changes_total{type="reserved"}'] == 1


# --- While others are at work ---------------------------------------------------------


def test_a_rival_that_was_first_is_counted(client, proxied, scrape, monkeypatch):
    rival, _ = proxied
    store = client.application.extensions["ticketboss"]["store"]
    monkeypatch.setattr(Reserve, "may_suppose", False)
    read, rivals = store.read_events, [rival]

    def read_first(event_ids):
        found = read(event_ids)
        if rivals:
            assert rivals.pop().post(RESERVATIONS, json=RESERVE).status_code == 201
        return found

    monkeypatch.setattr(store, "read_events", read_first)
    assert client.post(RESERVATIONS, json=RESERVE).status_code == 201
    seen = scrape()
    assert (seen["ticketboss_conflicts_total"], seen["ticketboss_retries_total"]) == (1, 1)
    assert seen["ticketboss_skipped_rows_total"] == 0
    assert seen['ticketboss_changes_total{type="reserved"}'] == 2


def test_a_row_that_somebody_keeps_locked_is_counted(client, scrape, dsn):
    with contextlib.closing(connect(dsn)) as rival, rival.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM events FOR UPDATE")
        with ThreadPoolExecutor() as pool:
            made = pool.submit(client.post, RESERVATIONS, json=RESERVE)
            eventually(lambda: scrape()["ticketboss_skipped_rows_total"] > 0)
            cursor.execute("ROLLBACK")
            assert made.result().status_code == 201
    assert scrape()["ticketboss_conflicts_total"] == 0


# --- Who may see it -----------------------------------------------------------------


def test_with_keys_an_admin_and_a_metrics_key_see_it(keyed, call, create_key):
    runner = keyed.test_cli_runner()
    key = runner.invoke(args=["keys", "create", "--metrics"]).stdout.strip()
    for good in (key, create_key(), ADMIN_KEY):
        assert "ticketboss_build_info" in call("GET", "/metrics", good).text
    refused = call("GET", "/metrics", create_key("abc-corp"))
    assert (refused.status_code, refused.json["code"]) == (403, "forbidden")


# --- What is made of it ---------------------------------------------------------------


def names(text: str) -> set[str]:
    return set(re.findall(r"ticketboss_[a-z_]+", text))


@pytest.fixture
def families(client) -> dict[str, str]:
    """Give the kind of every family by its name."""
    text = client.get("/metrics").text
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def test_the_documents_list_every_family_and_its_labels(client, families):
    head = ("metric", "labels", "what it is")
    rows = {bare(name): set(re.findall("`(.*?)`", labels)) for name, labels, _ in table(*head)}
    assert set(rows) == set(families)
    client.post(RESERVATIONS, json=RESERVE)
    for sample in samples(client.get("/metrics").text):
        name, _, labels = sample.partition("{")
        name = name if name in rows else re.sub(r"_(bucket|sum|count)$", "", name)
        assert set(re.findall(r'(\w+)="', labels)) - {"le"} == rows[name]


@pytest.mark.parametrize("file", ["alerts.yml", "grafana.json"])
def test_dashboard_and_alerts_ask_for_what_there_is(file, families):
    known = {
        name + suffix
        for name, kind in families.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    text = (ROOT / "deploy" / file).read_text("utf-8")
    if file == "grafana.json":
        asked = [t["expr"] for panel in json.loads(text)["panels"] for t in panel["targets"]]
        assert names("\n".join(asked)) <= known
        # Whatever there is is shown.
        shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names("\n".join(asked))}
        assert shown == set(families)
    else:
        asked = re.findall(r"expr: (?:>-\n)?(.*?)\n +for:", text, re.DOTALL)
        assert len(asked) == 5
        assert names("\n".join(asked)) <= known
        assert names(text) <= known | set(families)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing_wrong(client):
    client.post(RESERVATIONS, json=RESERVE)
    exposition = client.get("/metrics").text
    for command, given in (
        (["check", "metrics"], exposition),
        (["check", "rules", "deploy/alerts.yml"], None),
    ):
        done = subprocess.run(
            ["promtool", *command], input=given, cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
