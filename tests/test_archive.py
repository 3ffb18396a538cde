"""An event that is over goes into a file, and may come back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg2
import pytest
from serving import ADMIN_KEY

from ticketboss import create_app
from ticketboss.config import Config
from ticketboss.data import archive

EVENT = "gala"
PLACE = f"/api/v1/events/{EVENT}"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def owner(dsn, application):
    """Give an application of the role that may delete."""
    app = create_app(Config(database_url=dsn, admin_key=ADMIN_KEY))
    yield app
    app.extensions["ticketboss"]["store"].database.close()


@pytest.fixture
def run(owner):
    """Give a function that runs a command, and returns its exit status and output."""

    def run(*arguments):
        result = owner.test_cli_runner().invoke(args=list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result.exit_code, result.output

    return run


@pytest.fixture
def close(sql):
    """Give a function that lets the sales of an event be over."""
    at = datetime.now(timezone.utc) - timedelta(seconds=1)

    def close(client, event=EVENT):
        place = f"/api/v1/events/{event}"
        condition = {"If-Match": client.get(place).headers["ETag"]}
        edit = {"salesCloseAt": at.isoformat()}
        assert client.patch(place, json=edit, headers=ADMIN | condition).status_code == 200

    return close


@pytest.fixture
def made(client):
    """Make an event with all kinds of things, and return ids of its reservations."""
    event = {"eventId": EVENT, "name": 'A "gala" für alle', "totalSeats": 100}
    assert client.post("/api/v1/events", json=event, headers=ADMIN).status_code == 201
    body = {"partnerId": "abc-corp", "seats": 3}
    keyed = {"Idempotency-Key": "order-1"}
    ids = [client.post(f"{PLACE}/reservations", json=body, headers=keyed).json["reservationId"]]
    for members in ({}, {"holdSeconds": 60}, {"holdSeconds": 60}):
        answer = client.post(f"{PLACE}/reservations", json=body | members)
        ids.append(answer.json["reservationId"])
    assert client.patch(f"/api/v1/reservations/{ids[0]}", json={"seats": 2}).status_code == 200
    assert client.delete(f"/api/v1/reservations/{ids[1]}").status_code == 204
    assert client.post(f"/api/v1/reservations/{ids[2]}/confirm").status_code == 200
    assert client.delete(f"/api/v1/reservations/{ids[3]}").status_code == 204
    allotment = {"partnerId": "abc-corp", "seats": 5}
    place = f"{PLACE}/allotments"
    assert client.put(place, json=allotment, headers=ADMIN).status_code == 201
    assert client.post(f"{PLACE}/reservations", json=body).json["allotted"] is True
    released = client.delete(f"{place}?partnerId=abc-corp", headers=ADMIN)
    assert released.status_code == 204
    return ids


def rows(sql) -> dict[str, list]:
    """Return all that the database has of the event."""
    return {
        table: sql(
            f"SELECT to_jsonb({table}) FROM {table} WHERE event_id = %s ORDER BY to_jsonb({table})",
            [EVENT],
        )
        for table in ("events", "reservations", "ledger")
    }


def left(sql) -> int:
    return sum(len(found) for table, found in rows(sql).items() if table != "events")


def test_an_event_goes_into_a_file_and_comes_back(client, made, close, run, sql, tmp_path, verify):
    close(client)
    before = rows(sql)
    summary = client.get(PLACE).json
    status, output = run("events", "archive", EVENT, "--to", tmp_path)
    assert status == 0, output
    path = tmp_path / f"{EVENT}.archive.jsonl"
    assert (path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o600, [path])
    assert left(sql) == 0
    assert verify()[0] == 0
    version = summary["version"] + 1
    assert run("verify", "--file", path) == (0, f"{EVENT}: {version} changes, ok\n")

    status, output = run("events", "restore", path)
    assert status == 0, output
    after = rows(sql)
    assert after["reservations"] == before["reservations"]
    told = {entry["version"]: entry for (entry,) in after["ledger"]}
    assert [told[n] for n in range(version)] == sorted(
        (entry for (entry,) in before["ledger"]), key=lambda entry: entry["version"]
    )
    assert [told[n]["details"].get("archived") for n in (version, version + 1)] == [True, False]
    assert client.get(PLACE).json == summary | {"version": version + 1}
    assert verify()[0] == 0
    assert run("events", "archive", EVENT, "--to", tmp_path)[0] == 1  # its old file is there
    path.unlink()
    assert run("events", "archive", EVENT, "--to", tmp_path)[0] == 0
    assert left(sql) == 0


def test_from_then_on_there_is_no_such_event(
    client, made, close, owner, run, sql, monkeypatch, tmp_path
):
    """As soon as it is closed for good, with all its rows still there."""
    close(client)
    other = owner.test_client()  # which has sold of it, and supposes that it is there
    monkeypatch.setattr(archive, "remove", lambda *_: None)
    assert run("events", "archive", EVENT, "--to", tmp_path)[0] == 0
    assert left(sql) > 0
    body = {"partnerId": "abc-corp", "seats": 1}
    for each in (client, other):
        for answer in (
            each.get(PLACE),
            each.get(f"{PLACE}/reservations"),
            each.get(f"{PLACE}/changes"),
            each.get(f"{PLACE}/allotments", headers=ADMIN),
            each.post(f"{PLACE}/reservations", json=body),
            each.patch(PLACE, json={"name": "x"}, headers=ADMIN | {"If-Match": "*"}),
            each.get(f"/api/v1/reservations/{made[0]}"),
            each.delete(f"/api/v1/reservations/{made[0]}"),
            each.patch(f"/api/v1/reservations/{made[0]}", json={"seats": 1}),
            each.post(f"/api/v1/reservations/{made[2]}/confirm"),
        ):
            code = "not_found" if "/v1/reservations/" in answer.request.path else "event_not_found"
            assert (answer.status_code, answer.json["code"]) == (404, code)
        assert EVENT not in [e["eventId"] for e in each.get("/api/v1/events").json["items"]]
        operation = {"op": "cancel", "reservationId": made[0]}
        answer = each.post("/api/v1/batch", json={"operations": [operation]})
        assert [item["status"] for item in answer.json["items"]] == [404]
        new = {"eventId": EVENT, "name": "Another", "totalSeats": 5}
        taken = each.post("/api/v1/events", json=new, headers=ADMIN)
        assert (taken.status_code, taken.json["code"]) == (409, "event_exists")
    with pytest.raises(psycopg2.errors.CheckViolation):  # as a release before would
        sql("UPDATE events SET version = version + 1 WHERE event_id = %s", [EVENT])


@pytest.mark.parametrize("lives", ["sales", "no end", "hold", "allotment"])
def test_what_is_not_over_is_not_archived(client, made, close, run, sql, lives, tmp_path):
    if lives == "hold":
        body = {"partnerId": "abc-corp", "seats": 1, "holdSeconds": 60}
        assert client.post(f"{PLACE}/reservations", json=body).status_code == 201
    if lives == "allotment":
        body = {"partnerId": "abc-corp", "seats": 1}
        assert client.put(f"{PLACE}/allotments", json=body, headers=ADMIN).status_code == 201
        assert client.post(f"{PLACE}/reservations", json=body).status_code == 201  # all of it
    if lives in ("hold", "allotment"):
        close(client)
    if lives == "sales":
        close(client)
        edit = {"salesCloseAt": "2999-01-01T00:00:00Z"}
        condition = {"If-Match": client.get(PLACE).headers["ETag"]}
        assert client.patch(PLACE, json=edit, headers=ADMIN | condition).status_code == 200
    before = rows(sql)
    status, output = run("events", "archive", EVENT, "--to", tmp_path)
    assert (status, output) == (
        1,
        "Error: An event is archived when its sales are closed and nothing of it is on hold\n",
    )
    assert (rows(sql), list(tmp_path.iterdir())) == (before, [])
    assert run("events", "archive", "nobodys", "--to", tmp_path)[0] == 1


@pytest.mark.parametrize(
    "step", ["write", "load", "replayed", "keep", "make_durable", "remove", "half"]
)
def test_killed_at_any_moment_and_run_again_it_ends_the_same(
    client, made, close, run, owner, sql, monkeypatch, tmp_path, step
):
    close(client)
    replaced = archive.time.sleep if step == "half" else getattr(archive, step)

    def killed(*arguments):
        if step not in ("remove", "half"):
            replaced(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "half":
            patch.setattr(archive, "REMOVED", 2)
            patch.setattr(archive.time, "sleep", killed)
        else:
            patch.setattr(archive, step, killed)
        assert run("events", "archive", EVENT, "--to", tmp_path)[0] != 0
    assert client.get(PLACE).status_code == 404
    assert left(sql) > 0
    assert run("events", "archive", EVENT, "--to", tmp_path)[0] == 0
    assert left(sql) == 0
    path = tmp_path / f"{EVENT}.archive.jsonl"
    assert run("events", "restore", path)[0] == 0
    assert client.delete(f"/api/v1/reservations/{made[0]}").status_code == 204


def test_a_restore_that_was_killed_is_finished(
    client, made, close, run, sql, monkeypatch, tmp_path
):
    close(client)
    run("events", "archive", EVENT, "--to", tmp_path)
    path = tmp_path / f"{EVENT}.archive.jsonl"
    with monkeypatch.context() as patch:
        put_back, calls = archive.put_back, []

        def killed(*arguments):
            calls.append(arguments)
            if len(calls) == 2:  # the first was for the replay
                raise KeyboardInterrupt
            put_back(*arguments)

        patch.setattr(archive, "put_back", killed)
        assert run("events", "restore", path)[0] != 0
    assert client.get(PLACE).status_code == 404
    assert run("events", "restore", path)[0] == 0
    assert client.get(PLACE).status_code == 200
    status, output = run("events", "restore", path)
    assert (status, output) == (1, f"Error: the event {EVENT} lives in the database\n")


def test_rows_that_are_gone_and_in_no_file_are_told(
    client, made, close, run, sql, monkeypatch, tmp_path
):
    close(client)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "remove", lambda *_: None)
        run("events", "archive", EVENT, "--to", tmp_path)
    (tmp_path / f"{EVENT}.archive.jsonl").unlink()
    sql("DELETE FROM ledger WHERE event_id = %s AND version < 3", [EVENT])
    status, output = run("events", "archive", EVENT, "--to", tmp_path)
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "some of it was removed" in output
    assert left(sql) > 0


def change(number, **members):
    """Return a function that alters a line of a file: with a right checksum, if need be."""

    def alter(lines):
        row = json.loads(lines[number])
        (kind,) = set(row) - {"ticketboss_archive"}
        row[kind] |= members
        lines[number] = json.dumps(row).encode()

    return alter


def dropped(number):
    return lambda lines: lines.pop(number)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    "alter",
    [
        change(0, available_seats=1),
        change(0, name="Another"),
        change(1, seats=1),
        change(2, status="confirmed"),
        change(-2, seats=99),
        change(-3, actor="nobody"),
        change(-3, at="2025-01-01T00:00:00+00:00"),
        change(-2, event_id="another"),
        dropped(1),
        dropped(-2),
        dropped(-4),
        dropped(0),
        lambda lines: lines.insert(2, lines[3]),
        lambda lines: lines.append(lines[1]),
        lambda lines: lines.insert(1, b"nonsense"),
        lambda lines: lines.insert(1, b"[]"),
    ],
)
def test_a_file_that_was_altered_is_refused(client, made, close, run, sql, tmp_path, alter, sealed):
    close(client)
    run("events", "archive", EVENT, "--to", tmp_path)
    path = tmp_path / f"{EVENT}.archive.jsonl"
    lines = path.read_bytes().splitlines()
    alter(lines)
    raw = b"".join(line + b"\n" for line in lines)
    if sealed:  # by somebody who can count
        body = b"".join(line + b"\n" for line in lines[:-1])
        counts = {
            table: sum(line.startswith(b'{"%s"' % kind.encode()) for line in lines[:-1])
            for kind, table in archive.TABLES.items()
        }
        end = {"counts": counts, "sha256": archive.hashlib.sha256(body).hexdigest()}
        raw = body + json.dumps(end).encode() + b"\n"
    path.write_bytes(raw)
    assert run("verify", "--file", path)[0] == 1
    assert run("events", "restore", path)[0] == 1
    assert (left(sql), client.get(PLACE).status_code) == (0, 404)


def test_a_file_that_is_cut_off_is_refused(client, made, close, run, tmp_path):
    close(client)
    run("events", "archive", EVENT, "--to", tmp_path)
    path = tmp_path / f"{EVENT}.archive.jsonl"
    raw = path.read_bytes()
    for length in (0, 1, 40, len(raw) // 2, len(raw) - 20):
        path.write_bytes(raw[:length])
        status, output = run("verify", "--file", path)
        assert status == 1
        assert output.startswith(f"Error: {path} is not")
        assert len(output.splitlines()) == 1
    assert run("verify", "--file", tmp_path / "none")[0] == 1


def test_a_change_that_comes_between_is_seen(
    client, made, close, run, owner, monkeypatch, tmp_path
):
    """An allotment may be made after the close: the version tells."""
    close(client)
    store = owner.extensions["ticketboss"]["store"]
    listed, rivals = store.list_allotments, [client]

    def list_first(*arguments, **more):
        found = listed(*arguments, **more)
        if rivals:
            body = {"partnerId": "xyz-inc", "seats": 1}
            place = f"{PLACE}/allotments"
            assert rivals.pop().put(place, json=body, headers=ADMIN).status_code == 201
        return found

    monkeypatch.setattr(store, "list_allotments", list_first)
    status, output = run("events", "archive", EVENT, "--to", tmp_path)
    assert (status, "nothing of it is on hold" in output) == (1, True)
    assert client.get(PLACE).status_code == 200


def test_nobody_notices_that_another_event_is_archived(
    client, made, close, run, sql, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive, "REMOVED", 2)
    close(client)
    over = threading.Event()
    statuses = set()

    def sell():
        body = {"partnerId": "abc-corp", "seats": 1}
        partner = client.application.test_client()
        while not over.is_set():
            statuses.add(partner.post("/api/v1/reservations", json=body).status_code)

    with ThreadPoolExecutor() as pool:
        selling = [pool.submit(sell) for _ in range(4)]
        assert run("events", "archive", EVENT, "--to", tmp_path)[0] == 0
        over.set()
        for each in selling:
            each.result()
    assert statuses <= {201, 409}


def test_all_that_closed_before_a_time_are_archived(client, made, close, run, sql, tmp_path):
    event = {"eventId": "later", "name": "Later", "totalSeats": 5}
    assert client.post("/api/v1/events", json=event, headers=ADMIN).status_code == 201
    event = {"eventId": "holds", "name": "Holds", "totalSeats": 5}
    assert client.post("/api/v1/events", json=event, headers=ADMIN).status_code == 201
    body = {"partnerId": "abc-corp", "seats": 1, "holdSeconds": 60}
    assert client.post("/api/v1/events/holds/reservations", json=body).status_code == 201
    for event in (EVENT, "holds"):
        close(client, event)
    before = datetime.now(timezone.utc).isoformat()
    status, output = run("events", "archive", "--closed-before", "2025-01-01T00:00:00Z")
    assert (status, output) == (0, "")
    status, output = run("events", "archive", "--closed-before", before, "--to", tmp_path)
    assert status == 1
    assert "holds: An event is archived when" in output
    assert [path.name for path in tmp_path.iterdir()] == [f"{EVENT}.archive.jsonl"]
    for arguments in ((), (EVENT, "--closed-before", before)):
        assert run("events", "archive", *arguments)[0] == 2
    assert run("events", "archive", "--closed-before", "yesterday")[0] == 1


def test_the_role_that_serves_may_not_remove(client, made, close, application, sql, tmp_path):
    close(client)
    result = application.test_cli_runner().invoke(
        args=["events", "archive", EVENT, "--to", str(tmp_path)]
    )
    assert result.exit_code == 1
    told = "Error: the database failed: permission denied for table reservations"
    assert result.output.splitlines()[-1].startswith(told)
    assert left(sql) > 0


def test_keys_are_forgotten_once_sales_are_closed(client, made, close, run, verify, monkeypatch):
    monkeypatch.setattr(archive, "REMOVED", 1)
    body = {"partnerId": "abc-corp", "seats": 1}
    for n in range(3):
        headers = {"Idempotency-Key": f"more-{n}"}
        made = client.post(f"{PLACE}/reservations", json=body, headers=headers)
        assert made.status_code == 201
    assert run("events", "forget-keys", EVENT)[0] == 1
    close(client)
    assert run("events", "forget-keys", EVENT) == (0, f"{EVENT}: 4 keys dropped\n")
    assert run("events", "forget-keys", EVENT) == (0, f"{EVENT}: 0 keys dropped\n")
    elsewhere = client.post("/api/v1/reservations", json=body, headers=headers)
    assert elsewhere.status_code == 201  # the key is as new
    assert verify()[0] == 0
    condition = ADMIN | {"If-Match": client.get(PLACE).headers["ETag"]}
    edit = {"salesCloseAt": None}
    assert client.patch(PLACE, json=edit, headers=condition).status_code == 200
    assert verify()[0] == 0  # they were closed once


def test_a_key_that_is_missing_while_sales_go_on_is_found(made, sql, verify):
    sql("UPDATE reservations SET idempotency_key = NULL")
    status, output = verify(EVENT)
    assert (status, "lacks its key, and sales go on" in output) == (1, True)
