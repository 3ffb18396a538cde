"""The checker: it finds nothing wrong with what is right, and every fault that is put in."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

import ordeals
import pytest
from serving import ADMIN_KEY, ROOT

from ticketboss.check import history
from ticketboss.check.clients import Check, Client
from ticketboss.check.history import LAST, Record
from ticketboss.check.judge import Verdict, judge

EVENT, KEPT = "doctored", "doctored-too"
PARTNER = "abc-corp"


class History:
    """Calls by name, to be doctored; `last` are the reads at the end."""

    def __init__(self, records: list[Record], names: dict[str, int]):
        self.records = records
        self._names = names

    def copy(self) -> "History":
        copied = [Record(**json.loads(json.dumps(asdict(record)))) for record in self.records]
        return History(copied, self._names)

    def __getitem__(self, name: str) -> Record:
        return self.records[self._names[name]]

    def alter(self, name: str, **fields) -> None:
        self.records[self._names[name]] = replace(self[name], **fields)

    def answer(self, name: str, **members) -> None:
        """Change members of an answer; None takes one away."""
        answer = {**self[name].answer, **members}
        self.alter(
            name, answer={n: v for n, v in answer.items() if n in ("next",) or v is not None}
        )

    def refuse(self, name: str, status: int, code: str, **members) -> None:
        self.alter(name, status=status, answer={"error": "No", "code": code, **members})

    def at(self, name: str, start: float, end: float | None = None) -> None:
        self.alter(name, start=start, end=start + 0.001 if end is None else end)

    @property
    def feed(self) -> list[dict]:
        """The changes as they were read at the end, to be changed."""
        return self["last changes"].answer["items"]

    def change(self, name: str) -> dict:
        """Return what the feed has of the version that an answer told of."""
        return self.feed[self[name].answer["version"] - 1]

    def verdict(self, **how) -> Verdict:
        return judge(self.records, **how)

    def kinds(self) -> set[str]:
        return {violation.kind for violation in self.verdict().violations}


@pytest.fixture(scope="module")
def recorded(server):
    """Record a call of every kind, one after the other, on a real server."""
    records, names = [], {}
    began = time.monotonic()
    url = f"http://127.0.0.1:{server.port}"
    client, last = (Client(name, 0, url, ADMIN_KEY, records, began) for name in ("1", LAST))

    def call(name: str, do: Callable[..., Record], *arguments, **asked) -> Record:
        names[name] = len(records)
        return do(*arguments, **asked)

    def reserve(name: str, seats: int, hold: int | None = None, **more) -> str:
        wish = {"partnerId": PARTNER, "seats": seats, **({"holdSeconds": hold} if hold else {})}
        record = call(name, client.reserve, EVENT, wish, **more)
        return record.answer.get("reservationId")

    def change(name: str, kind: str, of: str, **asked) -> Record:
        return call(name, client.change, kind, EVENT, of, **asked)

    call("create", client.create, EVENT, 10)
    first = reserve("first", 3)
    ending = reserve("ending", 1, hold=1)
    held = reserve("held", 2, hold=60)
    call("summary", client.event, EVENT)
    call("page", client.changes, EVENT, 1, 2)
    change("reduce", "reduce", first, seats=2)
    change("grow", "reduce", first, seats=5)
    change("extend", "extend", held, holdSeconds=90)
    change("confirm", "confirm", held)
    change("confirm again", "confirm", held)
    change("extend confirmed", "extend", held, holdSeconds=9)
    call("edit", client.edit, EVENT, 6, totalSeats=9)
    call("edit too low", client.edit, EVENT, 7, totalSeats=1)
    call("edit stale", client.edit, EVENT, 3, totalSeats=8)
    reserve("keyed", 1, key="a-key")
    reserve("keyed again", 1, key="a-key")
    reserve("keyed otherwise", 2, key="a-key")
    reserve("second", 1)
    reserve("too many", 9)
    call("list", client.reservations, EVENT, 1, limit=50)
    call("confirmed", client.reservations, EVENT, 1, limit=50, status="confirmed")
    change("cancel", "cancel", first)
    change("cancel again", "cancel", first)
    call("show", client.reservation, EVENT, first)
    call("show held", client.reservation, EVENT, held)
    time.sleep(1.1)  # until the hold has ended
    change("confirm ended", "confirm", ending)
    seen = call("summary later", client.event, EVENT).answer["version"]
    call("unchanged", client.event, EVENT, seen)
    call("ahead", client.changes, EVENT, 1000, 5)
    call("lost on the way", client.reserve, EVENT, {"partnerId": "xyz-inc", "seats": 2})
    reserve("third", 1)
    closes = client.event(EVENT).answer["version"]
    call("close", client.edit, EVENT, closes, salesCloseAt="2025-01-01T00:00:00Z")
    reserve("closed", 1)
    call("last changes", last.changes, EVENT, 0, 1000)
    call("last summary", last.event, EVENT)
    call("last list", last.reservations, EVENT, 1, limit=50)
    wish = {"partnerId": PARTNER, "seats": 3}
    call("create kept", client.create, KEPT, 20, maxSeatsPerPartner=4, maxHeldSeatsPerPartner=2)
    call("allot", client.allot, KEPT, partnerId=PARTNER, seats=5)
    call("drawn", client.reserve, KEPT, wish)
    call("pooled", client.reserve, KEPT, wish)
    call("beyond", client.reserve, KEPT, wish)
    call("allotments", client.allotments, KEPT)
    call("kept summary", client.event, KEPT)
    call("another", client.reserve, KEPT, {"partnerId": "xyz-inc", "seats": 1})
    call("release", client.release, KEPT, PARTNER)
    call("kept changes", last.changes, KEPT, 0, 1000)
    found = History(records, names)
    # Nobody knows what became of it; it was made.
    found.alter("lost on the way", status=None, answer=None)
    return found


@pytest.fixture
def told(recorded):
    return recorded.copy()


def test_nothing_is_wrong_with_what_was_told(told):
    statuses = {record.status for record in told.records}
    assert statuses == {None, 200, 201, 204, 304, 404, 409, 412, 422}
    assert told.verdict() == Verdict([], 0)


def test_what_nobody_knows_of_may_have_been_made_or_not(told):
    told.alter("too many", status=503, answer={"error": "No", "code": "unavailable"})
    for read in ("summary", "page", "list", "show"):
        told.alter(read, status=None, answer=None)
    assert told.verdict() == Verdict([], 0)


class Doctored(NamedTuple):
    fault: str
    kind: str
    doctor: Callable[[History], object]


def _forget(told: History, name: str) -> None:
    """Take a change out of the feed, with everything after it."""
    del told.feed[told[name].answer["version"] - 1 :]


def _repeat(told: History, name: str, of: str, **fields) -> None:
    """Let one call be told what another was told."""
    told.alter(name, **{"status": told[of].status, "answer": dict(told[of].answer), **fields})


def _swap(told: History) -> None:
    """Let the ledger have two changes in the other order than they were acknowledged in."""
    first, second = told.change("first"), told.change("ending")
    items = [dict(second, version=1, availableSeats=9), dict(first, version=2, availableSeats=6)]
    told.feed[:2] = items
    told.answer("first", version=2)
    told.answer("ending", version=1)


def _sell_again(told: History) -> None:
    """Give a seat away that somebody has: the last sale takes more than is left."""
    sale = told.change("third")
    sale["seats"] += 8
    sale["availableSeats"] -= 8


def _second_instance(told: History) -> None:
    items = [dict(item) for item in told.feed]
    items[0]["partnerId"] = "xyz-inc"
    told.records.append(replace(told["last changes"], server=1, answer={"items": items, "next": 0}))


def _twice(told: History) -> None:
    """Let what nobody knows of be made twice."""
    made = next(item for item in told.feed if item["partnerId"] == "xyz-inc")
    seats = made["seats"]
    again = {**made, "version": len(told.feed) + 1, "reservationId": "another",
             "availableSeats": told.feed[-1]["availableSeats"] - seats}  # fmt: skip
    told.feed.append(again)


def _append(told: History, like: str, **members) -> None:
    """Add a change to the feed."""
    last = told.feed[-1]
    told.feed.append(
        {**told.change(like), "version": last["version"] + 1, "at": last["at"], **members}
    )


def _without(told: History, name: str, place: int) -> None:
    del told[name].answer["items"][place]


def _old_item(told: History) -> None:
    """Let a list show one reservation as it was before another was made."""
    item = told["list"].answer["items"][0]
    item["seats"], item["version"] = 3, 1


def _late_confirm(told: History) -> None:
    told.change("confirm")["at"] = "2099-01-01T00:00:00.000000Z"
    told.answer("confirm", confirmedAt="2099-01-01T00:00:00.000000Z")


def _early_end(told: History) -> None:
    end = next(item for item in told.feed if item["type"] == "expired")
    end["at"] = told.change("ending")["at"]


def _no_end(told: History) -> None:
    """Let a hold keep its seats when it has ended: the next sale comes first."""
    place = next(n for n, item in enumerate(told.feed) if item["type"] == "expired")
    told.feed[place - 1]["at"] = told.feed[place]["at"]


def _batch(told: History, atomic: bool, status: int, *names: str) -> None:
    """Let calls have come as one batch."""
    operations, items = [], []
    for name in names:
        record = told[name]
        operations.append({"op": record.call, "eventId": EVENT, **record.asked})
        answer = record.answer or {}
        items.append({**answer, "status": record.status, "reservationStatus": answer.get("status")})
        told.alter(name, client="nobody", call="event", status=304,
                   asked={"ifNoneMatch": 0}, start=0, end=told[names[-1]].end)  # fmt: skip
    answer = {"items": items, **({"code": "batch_refused"} if status == 409 else {})}
    told.records.append(
        replace(told["create"], call="batch", event="", status=status, answer=answer, tag=None,
                asked={"operations": operations, "atomic": atomic},
                start=told[names[0]].start, end=told[names[-1]].end,)
    )  # fmt: skip


CAP_OF_TWO = {"maxSeatsPerPartner": 2}


def _show_all(told: History, partner_id: str) -> None:
    """Let a partner see the feed as an admin sees it."""
    told["page"].asked["as"] = partner_id


DOCTORED = [
    # What was acknowledged.
    Doctored("an acknowledged reservation is lost", "lost", lambda t: _forget(t, "third")),
    Doctored("it has other seats", "lost", lambda t: t.answer("first", seats=4)),
    Doctored("it is another partner's", "lost", lambda t: t.answer("first", partnerId="xyz-inc")),
    Doctored("it is another event's", "lost", lambda t: t.answer("first", eventId="another")),
    Doctored(
        "it has another time",
        "lost",
        lambda t: t.answer("first", createdAt="2025-01-01T00:00:00.000000Z"),
    ),
    Doctored("a sale was told as a hold", "lost", lambda t: t.answer("first", status="held")),
    Doctored("an extension is lost", "lost", lambda t: t.answer("extend", version=4)),
    Doctored("an edit is lost", "lost", lambda t: t.answer("edit", version=6)),
    Doctored("an edit has another total", "lost", lambda t: t["edit"].asked.update(totalSeats=8)),
    Doctored(
        "a cancel is lost",
        "lost",
        lambda t: t.alter("confirm ended", call="cancel", status=204, answer=None),
    ),
    Doctored(
        "one version is told to two",
        "version",
        lambda t: _repeat(t, "second", "keyed", asked=t["keyed"].asked),
    ),
    Doctored(
        "one reservation is cancelled twice",
        "cancel",
        lambda t: t.alter("cancel again", status=204, answer=None),
    ),
    Doctored("versions are out of order", "order", _swap),
    Doctored(
        "a confirmation leaves a hold", "answer", lambda t: t.answer("confirm", status="held")
    ),
    Doctored("a reduction leaves more", "answer", lambda t: t.answer("reduce", seats=3)),
    Doctored(
        "a change answers with another",
        "answer",
        lambda t: t.answer("confirm", reservationId=t["first"].answer["reservationId"]),
    ),
    # What was refused.
    Doctored(
        "a refused reservation is made",
        "unasked",
        lambda t: t.refuse("third", 409, "sold_out", requestedSeats=1, availableSeats=0),
    ),
    Doctored(
        "a refused cancel is made", "unasked", lambda t: t.refuse("cancel", 404, "hold_expired")
    ),
    Doctored(
        "a refused edit is made",
        "unasked",
        lambda t: t.refuse("edit", 412, "precondition_failed", version=5),
    ),
    Doctored(
        "what came too late is made", "unasked", lambda t: t.refuse("third", 503, "contention")
    ),
    Doctored(
        "sold out, with seats enough", "refusal", lambda t: t.answer("too many", requestedSeats=1)
    ),
    Doctored(
        "sold out, with other seats left",
        "refusal",
        lambda t: t.answer("too many", availableSeats=0),
    ),
    Doctored("sold out, at a version before", "refusal", lambda t: t.answer("too many", version=1)),
    Doctored(
        "sold out, at a version to come", "refusal", lambda t: t.answer("too many", version=12)
    ),
    Doctored(
        "cancelled, and it was not",
        "refusal",
        lambda t: t.refuse("grow", 409, "already_cancelled", cancelledAt="2025-01-01T00:00Z"),
    ),
    Doctored(
        "cancelled, at another time",
        "refusal",
        lambda t: t.answer("cancel again", cancelledAt="2025-01-01T00:00:00.000000Z"),
    ),
    Doctored("expired, and it was not", "refusal", lambda t: t.refuse("grow", 409, "hold_expired")),
    Doctored("confirmed, and it was not", "refusal", lambda t: t.at("extend confirmed", 0)),
    Doctored("it cannot grow, and it has more", "refusal", lambda t: t.answer("grow", seats=1)),
    Doctored(
        "If-Match fails, and it was that",
        "refusal",
        lambda t: t["edit stale"].asked.update(ifMatch=t["edit stale"].answer["version"]),
    ),
    Doctored(
        "If-Match fails at a version to come",
        "refusal",
        lambda t: t.answer("edit stale", version=11),
    ),
    Doctored(
        "too few seats for an edit, and they were enough",
        "refusal",
        lambda t: t["edit too low"].asked.update(totalSeats=5),
    ),
    Doctored(
        "a cursor is ahead, and it is not",
        "refusal",
        lambda t: t.refuse("page", 409, "cursor_ahead", version=3),
    ),
    Doctored(
        "a key is said to be used",
        "refusal",
        lambda t: t["keyed otherwise"].asked.update(key="another"),
    ),
    Doctored(
        "sales are said to be closed",
        "refusal",
        lambda t: t.refuse("too many", 409, "sales_closed"),
    ),
    # Keys.
    Doctored(
        "a key makes two reservations",
        "key",
        lambda t: (t["first"].asked.update(key="one"), t["second"].asked.update(key="one")),
    ),
    Doctored("a key is news twice", "key", lambda t: t.alter("keyed again", replayed=False)),
    Doctored(
        "a repetition of nothing",
        "key",
        lambda t: (t["first"].asked.update(key="one"), t.alter("first", replayed=True)),
    ),
    # The ledger.
    Doctored("a version is missing", "gap", lambda t: t.feed.pop(4)),
    Doctored("a version is there twice", "gap", lambda t: t.feed.insert(4, dict(t.feed[4]))),
    Doctored("numbers do not add up", "sum", lambda t: t.feed[3].update(availableSeats=9)),
    Doctored("a seat is sold twice", "oversold", _sell_again),
    Doctored("a hold is confirmed too late", "hold", _late_confirm),
    Doctored("a hold ends too early", "hold", _early_end),
    Doctored("a hold does not end", "hold", _no_end),
    Doctored("a hold ends twice", "story", lambda t: _append(t, "ending", type="expired")),
    Doctored(
        "a cancelled one is confirmed", "story", lambda t: _append(t, "first", type="confirmed")
    ),
    Doctored("a reservation is made twice", "story", lambda t: _append(t, "first")),
    Doctored(
        "a reservation changes hands",
        "story",
        lambda t: t.change("confirm").update(partnerId="xyz-inc"),
    ),
    Doctored(
        "a reduction gives nothing back", "story", lambda t: t.change("reduce").update(seats=3)
    ),
    Doctored(
        "a kind of change that there is not", "story", lambda t: t.feed[3].update(type="sold")
    ),
    Doctored("what nobody knows of is made twice", "unasked", _twice),
    Doctored("sold after sales closed", "closed", lambda t: _append(t, "third", reservationId="x")),
    Doctored("two instances tell two stories", "feed", _second_instance),
    # What was read.
    Doctored(
        "a summary has other numbers", "read", lambda t: t.answer("summary", availableSeats=5)
    ),
    Doctored(
        "a summary counts one too many", "read", lambda t: t.answer("summary", reservationCount=4)
    ),
    Doctored("a summary is old", "stale", lambda t: _repeat(t, "summary later", "summary")),
    Doctored(
        "a summary is of times to come", "early", lambda t: _repeat(t, "summary", "summary later")
    ),
    Doctored(
        "unchanged, and it has changed",
        "stale",
        lambda t: t["unchanged"].asked.update(ifNoneMatch=3),
    ),
    Doctored("a page leaves a change out", "feed", lambda t: _without(t, "page", 0)),
    Doctored(
        "a page ends too early",
        "stale",
        lambda t: (_without(t, "page", 1), t.answer("page", next=2)),
    ),
    Doctored("a page says the wrong next", "feed", lambda t: t.answer("page", next=4)),
    Doctored(
        "a page has another change", "read", lambda t: t["page"].answer["items"][0].update(seats=9)
    ),
    Doctored("a list leaves one out", "list", lambda t: _without(t, "list", 0)),
    Doctored(
        "a list shows one that does not fit",
        "list",
        lambda t: t["list"].asked.update(partnerId="xyz-inc"),
    ),
    Doctored("a list ends where there are more", "list", lambda t: _without(t, "last list", -1)),
    Doctored("a list shows one as it was", "stale", _old_item),
    Doctored(
        "a reservation is as it was", "stale", lambda t: _repeat(t, "show held", "held", status=200)
    ),
    Doctored("a reservation is another", "read", lambda t: _repeat(t, "show", "show held")),
    # Answers that there are not.
    Doctored("a bug", "answer", lambda t: t.refuse("too many", 500, "internal_error")),
    Doctored(
        "an own reservation is not found", "answer", lambda t: t.refuse("grow", 404, "not_found")
    ),
    Doctored("an answer lacks a member", "answer", lambda t: t.answer("first", status=None)),
    # Caps, allotments, and what partners see.
    Doctored(
        "a partner has more than a cap", "cap", lambda t: t["create kept"].asked.update(CAP_OF_TWO)
    ),
    Doctored("a cap refuses too early", "refusal", lambda t: t.answer("beyond", partnerSeats=2)),
    Doctored("a cap leaves something", "refusal", lambda t: t.answer("beyond", remaining=3)),
    Doctored("an allotment is lost", "lost", lambda t: t.answer("allot", version=4)),
    Doctored("an allotment is another", "answer", lambda t: t.answer("allot", seats=6)),
    Doctored("a draw is told as none", "lost", lambda t: t.answer("drawn", allotted=None)),
    Doctored("a sale is told as a draw", "lost", lambda t: t.answer("pooled", allotted=True)),
    Doctored(
        "an allotment is less than drawn",
        "allotment",
        lambda t: t["kept changes"].answer["items"][1].update(seats=-1),
    ),
    Doctored("a release is lost", "lost", lambda t: t["kept changes"].answer["items"].pop()),
    Doctored("a list leaves an allotment out", "allotment", lambda t: _without(t, "allotments", 0)),
    Doctored(
        "a list has another allotment",
        "read",
        lambda t: t["allotments"].answer["items"][0].update(seats=9),
    ),
    Doctored(
        "a summary sets aside too few", "read", lambda t: t.answer("kept summary", allottedSeats=1)
    ),
    Doctored("a partner sees whose a change is", "read", lambda t: _show_all(t, "xyz-inc")),
    # Batches.
    Doctored(
        "a batch is made in another order",
        "batch",
        lambda t: _batch(t, False, 200, "ending", "first"),
    ),
    Doctored(
        "an atomic batch is partly refused",
        "batch",
        lambda t: _batch(t, True, 200, "second", "too many"),
    ),
    Doctored(
        "a refused batch is partly made",
        "batch",
        lambda t: _batch(t, True, 409, "second", "too many"),
    ),
    Doctored(
        "a batch leaves an operation out",
        "batch",
        lambda t: (_batch(t, False, 200, "keyed", "second"), t.records[-1].answer["items"].pop()),
    ),
]


def test_there_are_many_faults_and_each_has_a_name_of_its_own():
    assert len({each.fault for each in DOCTORED}) == len(DOCTORED) >= 30


@pytest.mark.parametrize("doctored", DOCTORED, ids=lambda doctored: doctored.fault)
def test_a_doctored_history_is_found_out(told, doctored):
    doctored.doctor(told)
    assert doctored.kind in told.kinds(), told.verdict().violations


def test_a_partner_sees_every_number_and_only_its_own_names(told):
    for partner_id, hidden in (
        (PARTNER, ("actor",)),
        ("xyz", ("actor", "partnerId", "reservationId")),
    ):
        told["page"].asked["as"] = partner_id
        for item in told["page"].answer["items"]:
            item.update(dict.fromkeys(hidden))
        assert told.verdict() == Verdict([], 0)


def test_a_batch_that_is_right_is_judged_so(told):
    _batch(told, False, 200, "keyed", "second")
    assert told.verdict() == Verdict([], 0)


def test_a_read_of_a_change_that_a_failover_took_is_allowed_where_that_is_said(told):
    page = told["page"].answer
    # It was read before anybody was told of it, and became another's.
    told.alter(
        "page", start=told["reduce"].start, end=told["reduce"].start, asked={"after": 3, "limit": 9}
    )
    page["items"] = [{**told.feed[3], "seats": 1}]
    page["next"] = 4
    assert told.kinds() == {"read"}
    assert told.verdict(failover=True) == Verdict([], 1)
    # Once somebody has been told of it, it is there for good.
    told.at("page", told["reduce"].end + 0.0001)
    assert [v.kind for v in told.verdict(failover=True).violations] == ["read"]


def test_a_history_that_cannot_be_judged_is_not_called_right(told):
    told.alter("last changes", status=503)
    assert told.kinds() == {"history"}


# --- On a real service --------------------------------------------------------------


@pytest.mark.parametrize("auth", ["open", "keys"])
def test_a_real_service_is_found_right(serve, auth):
    """Two instances on one database, and clients on both."""
    urls = [f"http://127.0.0.1:{serve(AUTH=auth).port}" for _ in range(2)]
    check = Check(urls, ADMIN_KEY, seconds=4)
    records = check.run()
    assert judge(records) == Verdict([], 0)
    seen = {(record.call, record.status) for record in history.unpack(records)}
    assert {("reserve", 201), ("reserve", 409), ("cancel", 204), ("confirm", 200)} <= seen
    assert {record.server for record in records} == {0, 1}
    assert any("as" in record.asked for record in records) == (auth == "keys")
    assert check.left_out == []
    assert {("reserve", 409), ("allot", 201), ("batch", 200)} <= {
        (r.call, r.status) for r in records
    }
    assert history.summary(records).unknown == 0


@pytest.mark.parametrize(
    "ordeal",
    [
        ordeals.a_worker_is_killed,
        ordeals.the_database_is_killed,
        ordeals.isolation_is_read_committed,
    ],
    ids=lambda ordeal: ordeal.__name__.replace("_", " "),
)
def test_a_disturbed_service_is_found_right(ordeal):
    """Some of `make test-faults`, and shorter."""
    outcome = ordeals.run(ordeal, seconds=7)
    assert outcome.verdict == Verdict([], 0)
    assert outcome.strikes and history.summary(outcome.records).acknowledged > 100


def command(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from ticketboss.cli import main; main()", "check", *arguments],
        cwd=ROOT, capture_output=True, text=True, **options,
    )  # fmt: skip


def test_the_command_keeps_a_history_and_judges_one_that_was_kept(server, tmp_path):
    key, kept = tmp_path / "key", tmp_path / "history"
    key.write_text(f"{ADMIN_KEY}\n")
    url = f"http://127.0.0.1:{server.port}"
    done = command(url, "--key-file", str(key), "--seconds", "1", "--save", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split() == ["violations", "0"]
    again = command("--history", str(kept))
    assert (again.returncode, again.stdout.splitlines()) == (0, done.stdout.splitlines()[-7:])
    # A lie in it is told in a line.
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    sold = next(line for line in lines if line["call"] == "reserve" and line["status"] == 201)
    sold["answer"]["seats"] += 1
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wrong = command("--history", str(kept))
    assert wrong.returncode == 1
    assert wrong.stdout.startswith("lost: check-")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name instances and a --key-file, or a --history"),
        (["http://127.0.0.1:1"], "name instances and a --key-file, or a --history"),
        (["http://127.0.0.1:1", "--key-file", "KEY"], "creates no event: no answer"),
        (["127.0.0.1:1", "--key-file", "KEY"], "is no http:// or https:// address"),
        (["--history", "KEY"], "is no history"),
    ],
)
def test_what_cannot_be_checked_is_told_in_a_line(tmp_path, arguments, told):
    (tmp_path / "key").write_text("a-key-of-somebody")
    done = command(*[str(tmp_path / "key") if each == "KEY" else each for each in arguments])
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
