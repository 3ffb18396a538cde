"""Keys: what they look like, how long they live, and what guessing them costs."""

import contextlib
import re
import threading
import time
from ipaddress import ip_network

import pytest
from proxy import BEFORE, HALF_ANSWERED, HELD, UNANSWERED, Proxy, is_exchange
from serving import ADMIN_KEY, connect

from ticketboss import create_app
from ticketboss.config import Config
from ticketboss.rules import limits
from ticketboss.rules.keys import ALPHABET, KEY, Key, digest, masked, new, public_id

SUMMARY = "/api/v1/reservations"
KEYS = "/api/v1/keys"
OURS, THEIRS = "abc-corp", "xyz-inc"
ONE_ADDRESS = "203.0.113.7"


# --- What they look like ------------------------------------------------------------


def test_a_key_has_its_public_id_in_it_and_enough_that_is_random():
    made = {new() for _ in range(100)}
    assert len(made) == 100
    for key_id, text in made:
        assert re.fullmatch(r"tb_[0-9a-hjkmnp-tv-z]{12}_[0-9a-hjkmnp-tv-z]{33}", text)
        assert text.split("_")[1] == key_id == public_id(text)
    # 26 places of 32 letters each, all of them in use.
    assert {letter for _, text in made for letter in text[16:42]} == set(ALPHABET)


def test_every_slip_in_a_key_is_noticed():
    key_id, text = new()
    for place, letter in enumerate(text):
        for other in "01az_":
            if other != letter:
                assert public_id(text[:place] + other + text[place + 1 :]) is None
        swapped = text[:place] + text[place : place + 2][::-1] + text[place + 2 :]
        assert public_id(swapped) == (key_id if swapped == text else None)
    for wrong in ("", "tb_", text + "0", text[:-1], " " + text, text + "\n", text.upper(), key_id):
        assert public_id(wrong) is None


def test_a_key_shows_nothing_of_itself():
    key_id, text = new()
    key = Key(key_id=key_id, kind="admin", partner_id=None, created_at=None, digest=digest(text))
    assert key.opens(text) and not key.opens(new()[1])
    for shown in (repr(key), str(key), masked(f"/{text}?{text}")):
        assert KEY.search(shown) is None and repr(key.digest)[2:-1] not in shown
        assert key_id in shown


# --- Over HTTP ------------------------------------------------------------------------


def test_a_key_is_told_once(call, sql):
    made = call("POST", KEYS, ADMIN_KEY, json={"partnerId": OURS})
    assert made.status_code == 201
    assert made.json.keys() == {"keyId", "partnerId", "admin", "createdAt", "key"}
    assert (made.json["partnerId"], made.json["admin"]) == (OURS, False)
    key, shown = made.json["key"], {**made.json}
    del shown["key"]
    assert key.split("_")[1] == shown["keyId"]
    assert call("GET", KEYS, ADMIN_KEY).json == {"items": [shown], "next": None}
    ((row,),) = sql("SELECT keys::text FROM keys")
    assert key[16:] not in row and digest(key).hex() in row


@pytest.mark.parametrize("point", [BEFORE, UNANSWERED, HALF_ANSWERED])
def test_a_key_is_made_once_though_its_connection_is_cut(proxied, sql, point):
    app, proxy = proxied
    proxy.fault(point, lambda message: b"INSERT INTO keys" in message)
    made = app.test_client().post(
        KEYS, json={"partnerId": OURS}, headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    assert made.status_code == 201
    assert sql("SELECT key_id FROM keys") == [(made.json["keyId"],)]


def test_an_admin_key_does_what_admin_key_does_until_it_is_revoked(call, create_key):
    key = create_key()
    event = {"eventId": "concert", "name": "A Concert", "totalSeats": 10}
    assert call("POST", "/api/v1/events", key, json=event).status_code == 201
    listed = call("GET", KEYS, key).json["items"]
    assert [(item["admin"], "partnerId" in item) for item in listed] == [(True, False)]
    for _ in range(2):
        assert call("DELETE", f"{KEYS}/{key[3:15]}", ADMIN_KEY).status_code == 204
    assert call("GET", KEYS, key).status_code == 401
    assert call("GET", KEYS, ADMIN_KEY).json["items"][0]["revokedAt"] > listed[0]["createdAt"]


@pytest.mark.parametrize("key_id", ["0" * 12, "x", "0" * 13, "%00", "A" * 12])
def test_a_key_that_is_not_there_cannot_be_revoked(call, key_id):
    refused = call("DELETE", f"{KEYS}/{key_id}", ADMIN_KEY)
    assert (refused.status_code, refused.json["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    "body",
    [{}, {"admin": False}, {"partnerId": OURS, "admin": True}, {"admin": 1}, {"admin": "true"}]
    + [{"partnerId": ""}, {"partnerId": None}, {"partnerId": 5}, {"kind": "admin"}, {"admin": []}],
)
def test_a_key_of_nobody_or_of_two_is_refused(call, sql, body):
    refused = call("POST", KEYS, ADMIN_KEY, json=body)
    assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
    assert sql("SELECT count(*) FROM keys") == [(0,)]


def test_keys_are_listed_in_pages_in_the_order_of_their_making(call, create_key):
    made = [create_key(partner)[3:15] for partner in (OURS, THEIRS, OURS, None, OURS)]

    def read(**query) -> list[str]:
        found, after = [], {}
        while after is not None:
            page = call("GET", KEYS, ADMIN_KEY, query_string={"limit": 2, **query, **after}).json
            found += [item["keyId"] for item in page["items"]]
            after = {"after": page["next"]} if page["next"] else None
        return found

    assert read() == made
    assert read(partnerId=OURS) == [made[0], made[2], made[4]]
    assert read(partnerId="nobody") == []


# --- How a key may be shown -----------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "sentence"),
    [
        (None, "This call needs a key: Authorization: Bearer <key>"),
        ("", "This call needs a key: Authorization: Bearer <key>"),
        ("Bearer", "This call needs a key: Authorization: Bearer <key>"),
        ("Bearer  ", "This call needs a key: Authorization: Bearer <key>"),
        ("Basic {key}", "This call needs a key: Authorization: Bearer <key>"),
        ("{key}", "This call needs a key: Authorization: Bearer <key>"),
        ("Bearer {key}x", "This is not a key of this service"),
        ("Bearer {key} {key}", "This is not a key of this service"),
        ("Bearer {key}, Bearer {key}", "This is not a key of this service"),
        ("Bearer cl\xe9\xff", "This is not a key of this service"),
        ("Bearer " + "x" * 4096, "This is not a key of this service"),
        ("Bearer " + ADMIN_KEY[:-1], "This is not a key of this service"),
        ("Bearer tb_000000000000_" + "0" * 33, "This is not a key of this service"),
        pytest.param("Bearer " + new()[1], "This key is not good, or not any more", id="unknown"),
    ],
)
def test_whatever_is_no_live_key_is_401(call, create_key, authorization, sentence):
    headers = {}
    if authorization is not None:
        headers["Authorization"] = authorization.format(key=create_key(OURS))
    refused = call("GET", SUMMARY, headers=headers)
    assert (refused.status_code, refused.json["code"]) == (401, "unauthorized")
    assert refused.json["error"] == sentence
    assert refused.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer {key}", "bearer {key}", "BEARER   {key} "])
def test_the_scheme_has_no_case(call, create_key, header):
    headers = {"Authorization": header.format(key=create_key(OURS))}
    assert call("GET", SUMMARY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "query", ["key={}", "access_token={}", "{}", "a=1&b=x{}x", "k=%74b_{tail}"]
)
def test_a_key_in_an_address_is_refused(call, create_key, query):
    key = create_key(OURS)
    path = f"{SUMMARY}?{query.format(key, tail=key[3:])}"
    for shown in (None, key):
        refused = call("GET", path, shown)
        assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
        assert "Authorization header" in refused.json["error"]
        assert key not in refused.text


def test_a_metrics_key_is_good_for_nothing_else(keyed, call):
    key = keyed.test_cli_runner().invoke(args=["keys", "create", "--metrics"]).stdout.strip()
    for path in (SUMMARY, KEYS):
        refused = call("GET", path, key)
        assert (refused.status_code, refused.json["code"]) == (403, "forbidden")


# --- What a process remembers ---------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Let time pass for what is remembered of keys, and for nothing else, when a test says so."""

    class Clock:
        passed = 0.0

        def monotonic(self):
            return time.monotonic() + self.passed

    clock = Clock()
    monkeypatch.setattr("ticketboss.data.keys.time", clock)
    monkeypatch.setattr("ticketboss.web.access.time", clock)
    return clock


def test_a_key_that_is_known_is_not_looked_up(call, create_key, statements):
    key = create_key(OURS)
    call("GET", "/api/v1/events/nowhere", key)
    del statements[:]
    for _ in range(3):
        assert call("GET", "/api/v1/events/nowhere", key).status_code == 404
    assert [("keys" in sql) for sql in statements] == [False] * 3


def other_process(dsn):
    return create_app(Config(database_url=dsn, admin_key=ADMIN_KEY, auth="keys"))


def test_a_new_key_is_good_in_every_process_at_once(dsn, call, create_key):
    there = other_process(dsn).test_client()
    assert (
        there.get(SUMMARY, headers={"Authorization": f"Bearer {create_key(OURS)}"}).status_code
        == 200
    )
    assert (
        there.get(SUMMARY, headers={"Authorization": f"Bearer {create_key(OURS)}"}).status_code
        == 200
    )


def test_a_revoked_key_ends_here_at_once_and_everywhere_within_30_s(dsn, call, create_key, clock):
    key = create_key(OURS)
    there = other_process(dsn).test_client()
    shown = {"Authorization": f"Bearer {key}"}
    assert there.get(SUMMARY, headers=shown).status_code == 200
    assert call("GET", SUMMARY, key).status_code == 200
    assert call("DELETE", f"{KEYS}/{key[3:15]}", ADMIN_KEY).status_code == 204
    assert call("GET", SUMMARY, key).status_code == 401
    clock.passed = 10
    assert there.get(SUMMARY, headers=shown).status_code == 200
    clock.passed = 29.9
    assert there.get(SUMMARY, headers=shown).status_code == 401


def test_what_is_remembered_is_renewed_before_it_is_too_old(call, create_key, statements, clock):
    key = create_key(OURS)
    call("GET", SUMMARY, key)
    del statements[:]
    for clock.passed in (14, 16, 17, 30, 32, 33):
        assert call("GET", SUMMARY, key).status_code == 200
    assert len([sql for sql in statements if "FROM keys" in sql]) == 2


@pytest.fixture
def proxied(dsn):
    """Give an application with keys that reaches its database through a proxy."""
    with Proxy(dsn) as proxy:
        app = create_app(Config(database_url=proxy.dsn, admin_key=ADMIN_KEY, auth="keys"))
        yield app, proxy
        app.extensions["ticketboss"]["store"].database.close()


def test_while_the_database_is_away_keys_are_good_for_a_while_and_then_503(
    proxied,
    create_key,
    clock,
):
    app, proxy = proxied
    key, unknown = create_key(OURS), new()[1]

    def code(text: str) -> str:
        """Ask for what only a key is needed to be told of."""
        shown = {"Authorization": f"Bearer {text}"}
        return app.test_client().post("/api/v1/events/x/reservations", headers=shown).json["code"]

    assert code(key) == "unsupported_media_type"
    proxy.refuse()
    proxy.cut_all()
    for clock.passed in (1, 16, 20, 29):
        assert code(key) == "unsupported_media_type"
        assert code(ADMIN_KEY) == "unsupported_media_type"
        assert code(key[:-1]) == "unauthorized"
        assert code(unknown) == "unavailable"
    clock.passed = 31
    assert code(key) == "unavailable"
    assert code(ADMIN_KEY) == "unsupported_media_type"
    proxy.refuse(False)
    clock.passed = 33
    assert code(key) == "unsupported_media_type"
    assert code(unknown) == "unauthorized"


def test_a_key_is_marked_as_used_once_a_day(call, create_key, statements, sql, clock):
    key, other = create_key(OURS), create_key(OURS)

    def used() -> list:
        items = call("GET", KEYS, ADMIN_KEY).json["items"]
        return [item.get("lastUsedOn") for item in items]

    assert used() == [None, None]
    ((today,),) = sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')")
    call("GET", SUMMARY, key)
    assert used() == [today, None]
    sql("UPDATE keys SET last_used_on = '2025-01-01'")
    del statements[:]
    for clock.passed in (1, 20):
        call("GET", SUMMARY, key), call("GET", SUMMARY, other)
    assert used() == ["2025-01-01", today]
    assert len([text for text in statements if "UPDATE keys" in text]) == 1


def test_a_mark_that_cannot_be_written_fails_nothing(dsn, call, create_key, sql):
    key = create_key(OURS)
    with contextlib.closing(connect(dsn)) as rival, rival.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM keys FOR UPDATE")
        assert call("GET", SUMMARY, key).status_code == 200
    sql("ALTER TABLE keys ADD CONSTRAINT none CHECK (last_used_on IS NULL) NOT VALID")
    try:
        assert call("GET", SUMMARY, create_key(OURS)).status_code == 200
    finally:
        sql("ALTER TABLE keys DROP CONSTRAINT none")


def test_of_more_keys_than_a_process_remembers_all_are_good(call, create_key, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_KNOWN", 2)
    keys = [create_key(OURS) for _ in range(5)]
    for key in keys * 5:
        assert call("GET", SUMMARY, key, address=ONE_ADDRESS).status_code == 200


# --- Guessing -----------------------------------------------------------------------


def test_more_than_ten_wrong_keys_a_second_are_429_and_not_looked_up(
    call, create_key, statements, clock
):
    known, guesses = create_key(OURS), [new()[1] for _ in range(20)]
    call("GET", SUMMARY, known)
    fixed = time.monotonic()
    clock.monotonic = lambda: fixed + clock.passed
    del statements[:]
    answers = [call("GET", SUMMARY, guess, address=ONE_ADDRESS) for guess in guesses]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 10
    assert (answers[10].json["code"], answers[10].headers["Retry-After"]) == (
        "too_many_requests",
        "1",
    )
    # Ten were looked up; of all others together the set of live keys was read once at most.
    assert len(statements) <= 11
    for text in (known, ADMIN_KEY):
        assert call("GET", SUMMARY, text, address=ONE_ADDRESS).status_code == 200
    assert call("GET", SUMMARY, guesses[0], address="203.0.113.8").status_code == 401
    clock.passed = 1.01
    assert call("GET", SUMMARY, guesses[0], address=ONE_ADDRESS).status_code == 401


@pytest.mark.parametrize("guess", ["nonsense", ADMIN_KEY + "x", "tb_{id}_" + "0" * 33, "{wrong}"])
def test_every_kind_of_wrong_key_counts(call, create_key, guess):
    key = create_key(OURS)
    text = guess.format(id=key[3:15], wrong=key[:-1] + "i")
    statuses = {call("GET", SUMMARY, text, address=ONE_ADDRESS).status_code for _ in range(12)}
    assert statuses == {401, 429}


def test_a_right_key_is_met_within_a_second_while_its_address_guesses(dsn, call, create_key, clock):
    there = other_process(dsn)

    def status(text: str) -> int:
        return (
            there.test_client()
            .get(
                SUMMARY,
                headers={"Authorization": f"Bearer {text}"},
                environ_overrides={"REMOTE_ADDR": ONE_ADDRESS},
            )
            .status_code
        )

    while status(new()[1]) != 429:
        pass
    key = create_key(OURS)  # in another process than the one it comes to
    clock.passed = 0.9
    while status(new()[1]) != 429:
        pass
    assert status(key) == 200
    assert status(key) == 200


def test_addresses_of_one_network_count_together(call):
    statuses = [
        call("GET", SUMMARY, "x", address=f"2001:db8:0:1::{n:x}").status_code for n in range(12)
    ]
    assert statuses[-1] == 429
    assert call("GET", SUMMARY, "x", address="2001:db8:0:2::1").status_code == 401


def test_behind_a_proxy_that_is_trusted_each_client_counts_for_itself(serving_dsn):
    config = Config(
        database_url=serving_dsn, auth="keys", trusted_proxies=(ip_network("10.0.0.1"),)
    )
    app = create_app(config)

    def status(client: str, proxy: str) -> int:
        headers = {"Authorization": "Bearer x", "X-Forwarded-For": client}
        environ = {"REMOTE_ADDR": proxy}
        return (
            app.test_client().get(SUMMARY, headers=headers, environ_overrides=environ).status_code
        )

    assert {status(f"198.18.0.{n}", "10.0.0.1") for n in range(12)} == {401}
    assert {status("198.18.0.99", "10.0.0.1") for n in range(12)} == {401, 429}
    # Anybody can say anything.
    assert {status(f"198.18.1.{n}", "10.0.0.2") for n in range(12)} == {401, 429}
    # IPv4 at a socket that takes both is no network of IPv6.
    assert {status("x", f"::ffff:198.18.2.{n}") for n in range(12)} == {401}


def test_however_many_guess_only_so_many_are_remembered(call, create_key, monkeypatch):
    monkeypatch.setattr(limits, "WRONG_KEY_ADDRESSES", 5)
    statuses = [call("GET", SUMMARY, "x").status_code for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert call("GET", SUMMARY, create_key(OURS)).status_code == 200


# --- A partner's share ------------------------------------------------------------------


def test_a_partner_with_its_share_in_progress_is_refused_and_others_are_not(
    dsn, create_key, statements, monkeypatch
):
    monkeypatch.setattr(limits, "DATABASE_PATIENCE", 20)  # for those that are held up below
    keys = [create_key(OURS), create_key(OURS), create_key(THEIRS)]
    with Proxy(dsn) as proxy:
        config = Config(
            database_url=proxy.dsn, admin_key=ADMIN_KEY, auth="keys", partner_concurrency=2
        )
        app = create_app(config)

        def ask(text: str):
            shown = {"Authorization": f"Bearer {text}"}
            return app.test_client().get(SUMMARY, headers=shown)

        for key in keys:
            assert ask(key).status_code == 200
        with contextlib.ExitStack() as held:
            waiting = []
            for key in keys[:2]:
                fault = proxy.fault(HELD, is_exchange)
                thread = threading.Thread(target=ask, args=[key])
                thread.start()
                held.callback(thread.join)
                held.callback(fault.release)
                fault.wait_until_reached()
                waiting.append(thread)
            del statements[:]
            for key in keys[:2]:
                refused = ask(key)
                assert (refused.status_code, refused.json["code"]) == (429, "too_many_requests")
                assert refused.headers["Retry-After"] == "1"
            assert statements == []
            assert ask(keys[2]).status_code == 200
            assert ask(ADMIN_KEY).status_code == 200
        for key in keys:
            assert ask(key).status_code == 200
        app.extensions["ticketboss"]["store"].database.close()


# --- The command line -------------------------------------------------------------------


def test_the_commands_create_list_and_revoke(keyed, call):
    runner = keyed.test_cli_runner()
    made = runner.invoke(args=["keys", "create", OURS])
    assert made.exit_code == 0
    key = made.stdout.removesuffix("\n")
    assert KEY.fullmatch(key)
    key_id = key[3:15]
    assert made.stderr == f"key {key_id} for {OURS}; it is not shown again\n"
    assert call("GET", SUMMARY, key).status_code == 200
    admin = runner.invoke(args=["keys", "create", "--admin"]).stdout.strip()
    assert call("GET", KEYS, admin).status_code == 200
    assert runner.invoke(args=["keys", "revoke", key_id]).exit_code == 0
    listed = runner.invoke(args=["keys", "list"])
    head, *lines = listed.stdout.splitlines()
    assert re.split("  +", head) == ["KEY", "PARTNER", "CREATED", "LAST USED", "REVOKED"]
    cells = [re.split("  +", line) for line in lines]
    assert [row[:2] for row in cells] == [[key_id, OURS], [admin[3:15], "(admin)"]]
    day = r"\d{4}-\d\d-\d\d"
    for row in cells:
        assert re.fullmatch(rf"{day}T\d\d:\d\d:\d\dZ", row[2]) and re.fullmatch(day, row[3])
    assert [row[4] == "no" for row in cells] == [False, True]
    only = runner.invoke(args=["keys", "list", "--partner", OURS])
    assert only.stdout.splitlines() == [head, lines[0]]
    for text in (listed.output, only.output):
        assert KEY.search(text) is None


@pytest.mark.parametrize(
    "arguments",
    [["create"], ["create", OURS, "--admin"], ["create", "--admin", "--metrics"]]
    + [["create", ""], ["create", "x" * 65], ["revoke", "0" * 12], ["revoke", "nonsense"]],
)
def test_a_command_that_makes_no_sense_is_refused(keyed, sql, arguments):
    result = keyed.test_cli_runner().invoke(args=["keys", *arguments])
    assert result.exit_code != 0
    assert result.stdout == ""
    assert sql("SELECT count(*) FROM keys") == [(0,)]
