"""Every operation of the API, in any order, against a model that fits on a page.

Hypothesis makes up sequences of requests; the service on its PostgreSQL and the
model must agree on every answer: status, code, numbers, versions, times, pages
and the feed. A usual run takes the same examples every time. With
MODEL_EXAMPLES=2000 it looks further, along other ways each time, and makes the
story of a failure as short as it can.
"""

import contextlib
import copy
import logging
import os
import signal
from datetime import datetime, timezone
from functools import partial
from urllib.parse import urlencode

import past
import pytest
from hypothesis import HealthCheck, Phase, configuration, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from serving import ADMIN, connect

from ticketboss.rules import limits

EXAMPLES = os.environ.get("MODEL_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 60),
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=EXAMPLES is None,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

DEFAULT_EVENT = "node-meetup-2025"
EVENTS = ("aurora", DEFAULT_EVENT, "zenith")  # in the order of any collation
PARTNERS = ("abc-corp", "Ünïcode & Söhne")
# Instants that no run of the tests comes near, so that the model needs no clock.
LONG_AGO, TODAY, FAR_OFF = (f"{year}-01-01T00:00:00.000000Z" for year in (2020, 2050, 2080))
ALWAYS = ("0", "9")  # before and after all of them
HOLD_TOTAL_SECONDS = 7200
NOBODYS_ID = "01900000-0000-7000-8000-000000000000"

ANY_VERSION = range(2**31)
CAPS = ("maxSeatsPerPartner", "maxHeldSeatsPerPartner")
MEMBERS = ("name", "totalSeats", "salesOpenAt", "salesCloseAt", *CAPS)
AT = object()  # stands for the time of a change


class Told:
    """What only the server knows, an id or a time: anything when first told, then always that."""

    def __init__(self, age: int = 0):
        self.said = None
        self.age = age  # seconds by which the test has moved it into the past

    def __eq__(self, said):
        self.said = self.said or said
        return isinstance(said, str) and said == self.said

    def __repr__(self):
        return f"Told({self.said!r})"


class Refused(Exception):
    """The status and the body of a refusal."""


def require(holds: bool, status: int, code: str, **members) -> None:
    if not holds:
        raise Refused(status, {"code": code, **members})


class Model:
    """All that the service promises. Events and reservations are kept as answers show them."""

    def __init__(self):
        self.events, self.feeds, self.reservations, self.keys = {}, {}, [], {}
        # Those that live, by event and partner; and what was drawn from which, by its place.
        self.allotments, self.sources = {}, {}
        # While an atomic batch is judged, the versions from before it.
        self.before = {}

    def create(self, event_id: str, **members) -> dict:
        require_window(members)
        require(event_id not in self.events, 409, "event_exists")
        self.feeds[event_id] = []
        self.events[event_id] = {
            "eventId": event_id,
            "version": 0,
            **dict.fromkeys(CAPS),
            **members,
        }
        return self.event(event_id)

    def event(self, event_id: str) -> dict:
        require(event_id in self.events, 404, "event_not_found")
        event = self.events[event_id]
        live = [r for r in self.reservations if r["status"] in ("held", "confirmed")]
        sold = [r["seats"] for r in live if r["eventId"] == event_id]
        allotted = sum(a["seats"] for (of, _), a in self.allotments.items() if of == event_id)
        event["reservedSeats"], event["reservationCount"] = sum(sold) + allotted, len(sold)
        event["availableSeats"] = event["totalSeats"] - event["reservedSeats"]
        event["allottedSeats"] = allotted or None
        return event

    def allot(self, event_id: str, partner: str, granted: int, release_at) -> dict:
        event = self.event(event_id)
        allotment = self.allotments.get((event_id, partner))
        told = {"requestedSeats": granted, "availableSeats": event["availableSeats"]}
        told["version"] = event["version"]
        if allotment is None:
            require(granted <= event["availableSeats"], 409, "sold_out", **told)
            allotment = {"eventId": event_id, "partnerId": partner, "seats": 0, "entries": []}
            self.allotments[event_id, partner] = allotment
        else:
            drawn = allotment["granted"] - allotment["seats"]
            granted = max(granted, drawn)
            more = told["requestedSeats"] = granted - allotment["granted"]
            if (more, release_at) == (0, allotment["releaseAt"]):
                return self.granted(allotment)
            require(more <= event["availableSeats"], 409, "sold_out", **told)
            granted, left = granted, granted - drawn
            allotment |= {"granted": granted, "releaseAt": release_at}
            return self.granted(self.move(allotment, left - allotment["seats"], "admin"))
        allotment |= {"granted": granted, "releaseAt": release_at}
        return self.granted(self.move(allotment, granted, "admin"))

    def granted(self, allotment: dict) -> dict:
        return {
            "eventId": allotment["eventId"],
            "partnerId": allotment["partnerId"],
            "seats": allotment["granted"],
            "drawnSeats": allotment["granted"] - allotment["seats"],
            "releaseAt": allotment["releaseAt"],
            "version": allotment["version"],
        }

    def release(self, event_id: str, partner: str, actor: str = "admin") -> dict:
        self.event(event_id)
        if allotment := self.allotments.get((event_id, partner)):
            left, self.allotments[event_id, partner] = allotment["seats"], allotment
            self.move(allotment, -left, actor)
            del self.allotments[event_id, partner]
        return {}

    def move(self, allotment: dict, seats: int, actor: str | None = None) -> dict:
        """Put seats into an allotment, or take some out."""
        self.enter("allotted", allotment, actor, seats=allotment["seats"] + seats)
        allotment["entries"].append(self.feeds[allotment["eventId"]][-1])
        return allotment

    def give_back(self, r: dict, seats: int, actor: str | None = None) -> dict:
        """Put what a change has freed of a reservation where it came from."""
        source = self.sources.get(self.place_of(r))
        if source and source is self.allotments.get((r["eventId"], r["partnerId"])):
            self.move(source, seats, actor)
        return r

    def place_of(self, r: dict) -> int:
        return next(place for place, each in enumerate(self.reservations) if each is r)

    def enter(self, type: str, thing: dict, actor: str | None = None, /, **members) -> dict:
        event, at = self.events[thing["eventId"]], Told()
        event["version"] += 1
        thing.update({name: at if x is AT else x for name, x in members.items()})
        thing["version"] = event["version"]
        change = {"version": event["version"], "type": type, "at": at}
        change |= {name: thing.get(name) for name in ("reservationId", "partnerId")}
        change["seats"] = thing.get("seats", event["totalSeats"])
        change["actor"] = {"event_updated": "admin", "expired": "expiry"}.get(type, actor)
        if type == "event_updated":
            change["event"] = shown({name: event[name] for name in MEMBERS})
        change["availableSeats"] = self.event(event["eventId"])["availableSeats"]
        self.feeds[event["eventId"]].append(change)
        return thing

    def reserve(self, event_id: str, partner: str, seats: int, hold, key, versions) -> dict:
        event, asked = self.event(event_id), (event_id, seats, hold)
        earlier, made = self.keys.get((partner, key), (asked, None))
        require(earlier == asked, 422, "idempotency_key_reused")
        if made is not None:
            return made
        opens, left = event["salesOpenAt"], event["availableSeats"]
        self.match(event, versions)
        seen = {"version": self.judged_version(event)}
        require((opens or ALWAYS[0]) < TODAY, 409, "sales_not_open", salesOpenAt=opens, **seen)
        self.require_before_close(event)
        allotment = self.allotments.get((event_id, partner))
        draws = allotment is not None and allotment["seats"] >= seats
        if not draws:
            self.require_within_caps(event, partner, seats, hold)
            told = {"requestedSeats": seats, "availableSeats": left, **seen}
            require(seats <= left, 409, "sold_out", **told)
        made = {"reservationId": Told(), "eventId": event_id, "partnerId": partner, "seats": seats}
        if draws:
            self.move(allotment, -seats)
            made["allotted"], self.sources[len(self.reservations)] = True, allotment
        self.reservations.append(made)
        if key:
            self.keys[partner, key] = asked, made
        if hold:
            return self.enter("held", made, status="held", createdAt=AT, expiresAt=Told())
        return self.enter("reserved", made, status="confirmed", createdAt=AT, confirmedAt=AT)

    def require_within_caps(self, event: dict, partner: str, seats: int, hold) -> None:
        counted = {"maxSeatsPerPartner": ("held", "confirmed")}
        if hold:
            counted["maxHeldSeatsPerPartner"] = ("held",)
        for cap, statuses in counted.items():
            had = sum(
                r["seats"]
                for r in self.reservations
                if (r["eventId"], r["partnerId"]) == (event["eventId"], partner)
                and r["status"] in statuses
                and not r.get("allotted")
            )
            limit = event[cap]
            told = {"cap": cap, "limit": limit, "partnerSeats": had}
            told |= {"remaining": max(0, (limit or 0) - had)}
            told |= {"version": self.judged_version(event)}
            require(limit is None or had + seats <= limit, 409, "partner_limit", **told)

    def forget_times(self, r: dict) -> None:
        """Let everything be told anew of when a reservation was made and changed."""
        times = [r["createdAt"], r.get("expiresAt"), r.get("confirmedAt")]
        feed = self.feeds[r["eventId"]]
        times += [c["at"] for c in feed if c["reservationId"] is r["reservationId"]]
        for time in times:
            if time is not None:
                time.said = None

    def change(self, type: str, r: dict | None, versions, wanted: int | None = None) -> dict:
        require(r is not None, 404, "not_found")
        gone, was = 404 if type == "cancelled" else 409, r["status"]
        require(was != "cancelled", gone, "already_cancelled", cancelledAt=r.get("cancelledAt"))
        require(was != "expired", gone, "hold_expired")
        if type == was or (type == "reduced" and wanted == r["seats"]):
            return r
        require(type != "extended" or was == "held", 409, "not_held")
        self.match(r, versions)
        if type == "extended":
            self.require_before_close(self.events[r["eventId"]])
            end = r["createdAt"].age + wanted
            require(end <= HOLD_TOTAL_SECONDS, 409, "hold_limit", latestExpiresAt=Told())
            return self.enter(type, r, expiresAt=Told())
        if type == "reduced":
            require(wanted <= r["seats"], 409, "cannot_grow", seats=r["seats"])
            freed = r["seats"] - wanted
            return self.give_back(self.enter(type, r, seats=wanted), freed)
        if type == "confirmed":
            return self.enter(type, r, status=type, confirmedAt=AT, expiresAt=None)
        return self.give_back(self.enter(type, r, status=type, cancelledAt=AT), r["seats"])

    def edit(self, event_id: str, versions, **members) -> dict:
        require(versions is not None, 428, "precondition_required")
        event = self.event(event_id)
        self.match(event, versions)
        after, sold = event | members, event["reservedSeats"]
        told = {"minimumSeats": sold, "version": event["version"]}
        require(after["totalSeats"] >= sold, 409, "capacity_below_reserved", **told)
        require_window(after)
        return self.event(self.enter("event_updated", event, **members)["eventId"])

    def batch(self, operations: list[tuple], atomic: bool) -> dict:
        if atomic:
            trial = self.trial()
            items = [trial.item(*each) for each in operations]
            if any(map(refuses, items)):
                alone = [self.trial().item_of_nothing(*each) for each in operations]
                both = zip(items, alone, strict=True)
                items = [item if refuses(item) else one for item, one in both]
                raise Refused(409, {"code": "batch_refused", "items": items})
            self.before = self.versions()
        items = [self.item(*each) for each in operations]
        self.before = {}
        return {"items": items}

    def trial(self) -> "Model":
        """Return a copy on which an atomic batch is judged."""
        trial = copy.deepcopy(self)
        trial.before = trial.versions()
        return trial

    def versions(self) -> dict[int, int]:
        things = [*self.events.values(), *self.reservations]
        return {id(thing): thing["version"] for thing in things}

    def judged_version(self, thing: dict) -> int:
        return self.before.get(id(thing), thing["version"])

    def item(self, op: str, place: int | None, *arguments) -> dict:
        """Return what a batch answers to one operation; `place` is that of its reservation."""
        known = len(self.reservations)
        try:
            if op == "reserve":
                thing = self.reserve(*arguments)
            else:
                r = None if place is None else self.reservations[place]
                thing = self.change(OPERATIONS[op], r, *arguments)
        except Refused as refusal:
            status, members = refusal.args
            return {"status": status, **members}
        if op == "cancel":
            return {"status": 204}
        item = {"status": 201 if op == "reserve" else 200, "etag": f'"{thing["version"]}"'}
        if op == "reserve" and len(self.reservations) == known:
            item["idempotentReplayed"] = True
        return {**shown(thing), "reservationStatus": thing["status"], **item}

    def item_of_nothing(self, *operation) -> dict:
        """Return what a refused batch answers to an operation that was not what refused it."""
        item, before = self.item(*operation), list(self.before.values())
        made = before != list(self.versions().values())
        return {"status": 424, "code": "not_made"} if made or refuses(item) else item

    def match(self, thing: dict, versions) -> None:
        current = self.judged_version(thing)
        agrees = versions is None or current in versions
        require(agrees, 412, "precondition_failed", version=current)

    def require_before_close(self, event: dict) -> None:
        told = {"salesCloseAt": event["salesCloseAt"], "version": self.judged_version(event)}
        require((told["salesCloseAt"] or ALWAYS[1]) > TODAY, 409, "sales_closed", **told)


def refuses(item: dict) -> bool:
    """Whether an item refuses an atomic batch: not for what was done before."""
    return item["status"] >= 400 and (item["status"], item["code"]) != (404, "already_cancelled")


def require_window(event: dict) -> None:
    opens, closes = event["salesOpenAt"] or ALWAYS[0], event["salesCloseAt"] or ALWAYS[1]
    require(opens < closes, 400, "invalid_request", fields=["salesOpenAt"])


# What a conditional header says, and the versions that it names. A weak tag is
# no match for If-Match, and one for If-None-Match (RFC 9110, section 13.1).
CONDITIONS = {
    "none": lambda version: (None, None),
    "current": lambda version: (f'"{version}"', {version}),
    "stale": lambda version: (f'"{version - 1}"', {version - 1}),
    "one of": lambda version: (f'"x", "{version + 7}", "{version}"', {version, version + 7}),
    "any": lambda version: ("*", ANY_VERSION),
    "weak": lambda version: (f'W/"{version}"', set()),
}
# Many requests are not conditional, or too few of them would change anything.
CONDITION = st.sampled_from(["none"] * len(CONDITIONS) + list(CONDITIONS))
EDIT_CONDITION = st.sampled_from(["current"] * 2 * len(CONDITIONS) + list(CONDITIONS))
LOOK_CONDITION = st.sampled_from(list(CONDITIONS))
EVENT = st.sampled_from(EVENTS[:2] * 2 + EVENTS[2:])
PARTNER = st.sampled_from(PARTNERS)
SEATS = st.sampled_from([1, 1, 2, 3, 4])
TOTAL = st.integers(0, 12)
OPENS = st.sampled_from([None, LONG_AGO, FAR_OFF])
CLOSES = st.sampled_from([None, None, FAR_OFF, LONG_AGO])
SECONDS = st.sampled_from([600, 3600])
HOLD = st.none() | SECONDS
KEYS = ("a", "a key, with ~!")
KEY = st.sampled_from((None, *KEYS))
OPERATIONS = {
    "cancel": "cancelled",
    "confirm": "confirmed",
    "extend": "extended",
    "reduce": "reduced",
}
CHANGE = st.sampled_from([*OPERATIONS.values(), "reduced"])
WHICH = st.integers(0, 7)
OPERATION = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["reserve"] * 4 + list(OPERATIONS)),
        "event_id": EVENT,
        "partner": PARTNER,
        "which": WHICH,
        "seats": SEATS,
        "hold": SECONDS,
        "on_hold": st.booleans(),
        "key": KEY,
        "condition": CONDITION,
    }
)
STATUS = st.sampled_from(["held", "confirmed", "cancelled", "expired"])


def shown(thing: dict) -> dict:
    """Return what an answer shows of a thing: nothing of what is not there."""
    return {name: x for name, x in thing.items() if x is not None}


def version_of(thing: dict | None) -> int:
    return thing["version"] if thing else 0


def path_of(r: dict | None) -> str:
    return f"/reservations/{r['reservationId'].said if r else NOBODYS_ID}"


def seconds_until(text: str) -> float:
    return (datetime.fromisoformat(text[:-1] + "+00:00") - datetime.now(timezone.utc)).seconds


class NoAnswer(BaseException):
    """A request takes too long. (Not an Exception: the service would handle it.)"""


@contextlib.contextmanager
def within(seconds: int):
    """Fail if the block takes longer: a request that never ends ends the test."""

    def ring(*_):
        raise NoAnswer

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    except NoAnswer:
        raise AssertionError(f"no answer within {seconds} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def machine(application, connection) -> type[RuleBasedStateMachine]:
    """Return the partners of an application; they empty its database before each example."""
    client = application.test_client()

    def sql(statement: str, *parameters) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    # One rule takes all the steps, because Hypothesis leaves some of several
    # rules out of every example, and here are too few examples for that.
    steps = []

    def step(chances: int, **arguments):
        """Make a method one of the steps, as likely as its part of all chances."""

        def register(method):
            chosen = st.tuples(st.just(method.__name__), st.fixed_dictionaries(arguments))
            steps.extend([chosen] * chances)
            return method

        return register

    class Partners(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.model = Model()
            self.agreed = True
            self.again = None  # sends the latest change of reservations once more
            self.walks = []  # lists that are being paged through
            self.followed = dict.fromkeys(EVENTS, 0)  # how far each feed has been read

        # --- One request ------------------------------------------------------

        def ask(
            self, judge, method: str, path: str, body=None, status: int = 200, tag=True, **headers
        ):
            """Send a request: the answer must be what `judge` returns or the Refused it raises."""
            if method != "GET" and ("/reservations" in path or path == "/batch"):
                self.again = partial(self.ask, judge, method, path, body, status, tag, **headers)
            self.agreed = False
            known = len(self.model.reservations)
            headers = {name.replace("_", "-"): x for name, x in shown(headers).items()}
            with within(10):
                answer = client.open(f"/api/v1{path}", method=method, json=body, headers=headers)
            said = answer.get_json() if answer.data else None
            if answer.status_code >= 400:
                assert said.pop("error")
                assert said.pop("requestId") == answer.headers["X-Request-Id"]
                if "fields" in said:
                    said["fields"] = list(said["fields"])
            for item in (said or {}).get("items", ()) if path == "/batch" else ():
                assert item["status"] < 400 or item.pop("error")
                if place := item.pop("location", None):
                    assert place == f"/api/v1/reservations/{item['reservationId']}"
            try:
                thing = judge()
                expected = thing if "items" in thing else shown(thing)
            except Refused as refusal:
                thing, (status, expected) = {}, refusal.args
            assert (answer.status_code, said) == (status, None if status == 204 else expected)
            if tag and status in (200, 201) and "version" in thing:
                assert answer.headers["ETag"] == f'"{thing["version"]}"'
            if status == 201 and "reservationId" in thing:
                assert answer.headers["Location"] == f"/api/v1{path_of(thing)}"
                replayed = answer.headers.get("Idempotent-Replayed")
                assert replayed == (None if len(self.model.reservations) > known else "true")
            self.agreed = True
            return answer

        def look(self, judge, path: str, condition: str) -> None:
            """Get something that has a version, perhaps only if it has another one by now."""
            version = 0
            with contextlib.suppress(Refused):
                thing = judge()
                version = thing["next"] if "items" in thing else thing["version"]
            header, versions = CONDITIONS[condition](version)

            def unless_known():
                thing = judge()
                if condition == "weak" or version in (versions or ()):
                    raise Refused(304, None)
                return thing

            answer = self.ask(unless_known, "GET", path, If_None_Match=header)
            if answer.status_code in (200, 304):
                assert answer.headers["ETag"] == f'"{version}"'

        # --- Everything that partners do --------------------------------------

        @initialize()
        def begin(self):
            sql("TRUNCATE events, reservations, ledger")
            for event_id in EVENTS[:2]:
                self.create(event_id, 8, None, None)
            for key in KEYS:
                self.reserve(DEFAULT_EVENT, PARTNERS[0], 2, 600, key, "none")
            for event_id, partner, release_at in zip(
                EVENTS, PARTNERS, (None, FAR_OFF), strict=False
            ):
                self.allot(event_id, partner, 4, release_at)
                for hold in (None, 600):
                    self.reserve(event_id, partner, 2, hold, None, "none")

        def pick(self, which: int) -> dict | None:
            """Return one of the latest reservations, or None for one that nobody has made."""
            made = self.model.reservations
            return made[-1 - which % len(made)] if which < 7 else None

        @step(
            4,
            event_id=EVENT,
            partner=PARTNER,
            seats=SEATS,
            hold=HOLD,
            key=KEY,
            condition=CONDITION,
        )
        def reserve(self, event_id, partner, seats, hold, key, condition):
            header, versions = CONDITIONS[condition](version_of(self.model.events.get(event_id)))
            default = event_id == DEFAULT_EVENT
            known = len(self.model.reservations)
            answer = self.ask(
                lambda: self.model.reserve(event_id, partner, seats, hold, key, versions),
                "POST",
                "/reservations" if default else f"/events/{event_id}/reservations",
                shown({"partnerId": partner, "seats": seats, "holdSeconds": hold}),
                status=201,
                Idempotency_Key=key,
                If_Match=header,
            )
            if hold and len(self.model.reservations) > known:
                assert hold - 10 < seconds_until(answer.json["expiresAt"]) <= hold

        @step(
            3,
            which=WHICH,
            other=st.fixed_dictionaries(
                {}, optional={"event_id": EVENT, "seats": SEATS, "hold": HOLD}
            ),
            condition=CONDITION,
        )
        def reuse_key(self, which, other, condition):
            """Reserve with a key that has been used, for the same or for something else."""
            keys = list(self.model.keys)
            partner, key = keys[which % len(keys)]
            event_id, seats, hold = self.model.keys[partner, key][0]
            asked = {"event_id": event_id, "seats": seats, "hold": hold, **other}
            self.reserve(partner=partner, key=key, condition=condition, **asked)

        @step(2)
        def retry(self):
            """Send the latest change of reservations once more, to the letter."""
            self.again()

        @step(8, which=WHICH, type=CHANGE, seats=SEATS, hold=SECONDS, condition=CONDITION)
        def change(self, which, type, seats, hold, condition):
            self.change_one(self.pick(which), type, seats, hold, condition)

        def change_one(self, r, type, seats, hold, condition):
            method, call, body, wanted, status = {
                "cancelled": ("DELETE", "", None, None, 204),
                "confirmed": ("POST", "/confirm", None, None, 200),
                "extended": ("POST", "/extend", {"holdSeconds": hold}, hold, 200),
                "reduced": ("PATCH", "", {"seats": seats}, seats, 200),
            }[type]
            header, versions = CONDITIONS[condition](version_of(r))
            answer = self.ask(
                lambda: self.model.change(type, r, versions, wanted),
                method,
                path_of(r) + call,
                body,
                status,
                If_Match=header,
            )
            if type == "extended" and answer.status_code == 200:
                assert hold - 10 < seconds_until(answer.json["expiresAt"]) <= hold
            return answer

        @step(6, operations=st.lists(OPERATION, min_size=1, max_size=3), atomic=st.booleans())
        def batch(self, operations, atomic):
            """Do many things in one request, each alone or all of them or none."""
            asked, bodies = zip(*(self.operation(**each) for each in operations), strict=True)
            self.ask(
                lambda: self.model.batch(asked, atomic),
                "POST",
                "/batch",
                {"operations": bodies, "atomic": atomic},
            )

        def operation(self, op, event_id, partner, which, seats, hold, on_hold, key, condition):
            """Return an operation as the model takes it, and as a batch does."""
            if op == "reserve":
                version = version_of(self.model.events.get(event_id))
                place, ends = None, hold if on_hold else None
                body = {"eventId": event_id, "partnerId": partner, "seats": seats}
                body |= {"holdSeconds": ends, "idempotencyKey": key}
                arguments = event_id, partner, seats, ends, key
            else:
                r = self.pick(which)
                version, place = version_of(r), self.model.place_of(r) if r else None
                wanted = {"extend": ("holdSeconds", hold), "reduce": ("seats", seats)}.get(op)
                body = {"reservationId": r["reservationId"].said if r else NOBODYS_ID}
                body |= dict([wanted] if wanted else [])
                arguments = ()
            header, versions = CONDITIONS[condition](version)
            if op == "reserve":
                arguments += (versions,)
            else:
                arguments = (versions, wanted[1] if wanted else None)
            return (op, place, *arguments), shown({"op": op, **body, "ifMatch": header})

        @step(1, which=WHICH, condition=LOOK_CONDITION)
        def show(self, which, condition):
            self.show_one(self.pick(which), condition)

        def show_one(self, r, condition):
            def judge():
                require(r is not None, 404, "not_found")
                return r

            self.look(judge, path_of(r), condition)

        @step(1, event_id=EVENT, condition=LOOK_CONDITION)
        def summarise(self, event_id, condition):
            default = event_id == DEFAULT_EVENT
            path = "/reservations" if default else f"/events/{event_id}"
            self.look(lambda: self.model.event(event_id), path, condition)

        @step(
            2,
            event_id=EVENT,
            after=st.none() | st.integers(0, 20),
            limit=st.integers(1, 4),
            condition=LOOK_CONDITION,
        )
        def follow(self, event_id, after, limit, condition):
            """Read on in a feed, or read it from anywhere."""
            start = self.followed[event_id] if after is None else after

            def judge():
                version = self.model.event(event_id)["version"]
                require(start <= version, 409, "cursor_ahead", version=version)
                items = self.model.feeds[event_id][start:][:limit]
                return {"items": items, "next": start + len(items)}

            self.look(judge, f"/events/{event_id}/changes?after={start}&limit={limit}", condition)
            if after is None and event_id in self.model.events:
                self.followed[event_id] = judge()["next"]

        @step(
            2,
            which=st.none() | st.integers(0, 3),
            event_id=EVENT,
            partner=st.none() | PARTNER,
            status=st.none() | STATUS,
            limit=st.integers(1, 3),
        )
        def page(self, which, event_id, partner, status, limit):
            """Begin a list, or turn a page of one, whatever has happened since the last."""
            if self.walks and which is not None:
                self.turn(*self.walks.pop(which % len(self.walks)))
            else:
                filters = shown({"partnerId": partner, "status": status})
                self.turn(event_id, filters, limit, None, 0)

        def turn(self, event_id, filters, limit, cursor, seen):
            wanted = {"eventId": event_id, **filters}.items()
            rows = enumerate(self.model.reservations)
            found = [(place, r) for place, r in rows if place >= seen and wanted <= r.items()]
            page, more = found[:limit], found[limit:]

            def judge():
                self.model.event(event_id)
                return {"items": [shown(r) for _, r in page], "next": Told() if more else None}

            query = urlencode(shown({**filters, "limit": limit, "after": cursor}))
            answer = self.ask(judge, "GET", f"/events/{event_id}/reservations?{query}")
            if more:
                self.walks.append((event_id, filters, limit, answer.json["next"], page[-1][0] + 1))

        @step(1, limit=st.integers(1, 3))
        def list_events(self, limit):
            left, cursor = sorted(self.model.events), None
            while left:
                page, left = left[:limit], left[limit:]
                items = [shown(self.model.event(event_id)) for event_id in page]
                judged = {"items": items, "next": Told() if left else None}
                query = urlencode(shown({"limit": limit, "after": cursor}))
                cursor = self.ask(lambda judged=judged: judged, "GET", f"/events?{query}").json[
                    "next"
                ]

        # --- What those who hold an event do ----------------------------------

        @step(1, event_id=st.sampled_from(EVENTS[1:]), total=TOTAL, opens=OPENS, closes=CLOSES)
        def create(self, event_id, total, opens, closes):
            members = {"name": f"Evening {total}", "totalSeats": total}
            members |= {"salesOpenAt": opens, "salesCloseAt": closes}
            self.ask(
                lambda: self.model.create(event_id, **members),
                "POST",
                "/events",
                {"eventId": event_id, **members},
                status=201,
                **ADMIN,
            )

        @step(
            3,
            event_id=EVENT,
            members=st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(["Matinée", "Gala"]),
                    "totalSeats": TOTAL,
                    "salesOpenAt": OPENS,
                    "salesCloseAt": CLOSES,
                    **dict.fromkeys(CAPS, st.sampled_from([None, 2, 4])),
                },
            ).filter(bool),
            condition=EDIT_CONDITION,
        )
        def edit(self, event_id, members, condition):
            header, versions = CONDITIONS[condition](version_of(self.model.events.get(event_id)))
            self.ask(
                lambda: self.model.edit(event_id, versions, **members),
                "PATCH",
                f"/events/{event_id}",
                members,
                If_Match=header,
                **ADMIN,
            )
            if members.keys() & {"salesOpenAt", "salesCloseAt"}:
                self.reserve(event_id, PARTNERS[1], 1, None, None, "none")

        @step(
            3,
            event_id=EVENT,
            partner=PARTNER,
            seats=st.integers(1, 6),
            release_at=st.sampled_from([None, FAR_OFF]),
        )
        def allot(self, event_id, partner, seats, release_at):
            status = 200 if (event_id, partner) in self.model.allotments else 201
            body = shown({"partnerId": partner, "seats": seats, "releaseAt": release_at})
            path = f"/events/{event_id}/allotments"
            judge = partial(self.model.allot, event_id, partner, seats, release_at)
            self.ask(judge, "PUT", path, body, status, tag=False, **ADMIN)

        @step(1, event_id=EVENT, partner=PARTNER)
        def release(self, event_id, partner):
            path = f"/events/{event_id}/allotments?{urlencode({'partnerId': partner})}"
            judge = partial(self.model.release, event_id, partner)
            self.ask(judge, "DELETE", path, status=204, **ADMIN)

        @step(1, event_id=EVENT)
        def list_allotments(self, event_id):
            def judge():
                self.model.event(event_id)
                found = sorted(
                    (partner, allotment)
                    for (of, partner), allotment in self.model.allotments.items()
                    if of == event_id
                )
                return {"items": [shown(self.model.granted(a)) for _, a in found], "next": None}

            self.ask(judge, "GET", f"/events/{event_id}/allotments")

        # --- What time does ---------------------------------------------------

        def holds(self) -> list[dict]:
            return [r for r in self.model.reservations if r["status"] == "held"]

        @step(
            3,
            chosen=st.integers(1, 7),
            backwards=st.booleans(),
            event_id=st.none() | EVENT,
            condition=CONDITION,
        )
        def expire(self, chosen, backwards, event_id, condition):
            """Let some holds end, the oldest first or last; then look, or use their keys."""
            holds = self.holds()
            ending = [r for place, r in enumerate(holds) if chosen >> place & 1] or holds
            for r in reversed(ending) if backwards else ending:
                # Nobody settles it here: whatever comes next has to.
                past.end_holds(sql, f"reservation_id = '{r['reservationId'].said}'")
                self.model.forget_times(r)
                self.model.enter("expired", r, status="expired")
                self.model.give_back(r, r["seats"], "expiry")
            if event_id is None and ending:
                self.show_one(ending[-1], condition)
            for (partner, key), (asked, made) in list(self.model.keys.items()):
                if event_id is not None and any(made is r for r in ending):
                    self.reserve(event_id, partner, *asked[1:], key, condition)

        @step(2, which=st.integers(0, 2))
        def end_allotment(self, which):
            """Let an allotment come to its end; whatever comes next has to release it."""
            dated = [a for a in self.model.allotments.values() if a["releaseAt"]]
            for allotment in dated[which:][:1]:
                of, partner = allotment["eventId"], allotment["partnerId"]
                this = f"allotment AND event_id = '{of}' AND partner_id = '{partner}'"
                past.end_holds(sql, this)
                for entry in allotment["entries"]:
                    entry["at"].said = None
                self.model.release(of, partner, "expiry")

        @step(2, which=st.integers(0, 2))
        def age(self, which):
            """Let most of the time that a hold may last go by; extend it too far, and less."""
            holds = self.holds()
            for r in holds[which:][:1]:
                # It was made long ago, and lives on because it was extended just now.
                if self.change_one(r, "extended", None, 600, "none").status_code != 200:
                    continue  # sales have closed
                past.make_earlier(sql, r["reservationId"].said, seconds=5000)
                r["createdAt"].age += 5000
                self.model.forget_times(r)
                for hold in (3600, 600):
                    self.change_one(r, "extended", None, hold, "none")

        @rule(step=st.sampled_from(steps).flatmap(lambda chosen: chosen))
        def go_on(self, step):
            name, arguments = step
            getattr(self, name)(**arguments)

        def teardown(self):
            """Read everything from the start; the ledger must give it, too."""
            if not self.agreed:
                return  # what has gone wrong is told already
            for event_id in EVENTS:
                self.follow(event_id, 0, 1000, "none")
                self.summarise(event_id, "none")
                self.turn(event_id, {}, 100, None, 0)
            verified = application.test_cli_runner().invoke(args=["verify"])
            assert verified.output == "".join(
                f"{event_id}: {self.model.events[event_id]['version']} changes, ok\n"
                for event_id in sorted(self.model.events)
            )

    return Partners


@pytest.fixture(autouse=True)
def _leave_little(tmp_path):
    """Leave no folder of Hypothesis behind, and out of the log what would bury a failure."""
    configuration.set_hypothesis_home_dir(tmp_path)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def test_the_service_and_a_small_model_agree_on_every_answer(application, dsn, monkeypatch):
    # What a busy machine lets the database take too long for is only computed, without a tag.
    monkeypatch.setattr(limits, "DATABASE_PATIENCE", 10)
    with contextlib.closing(connect(dsn)) as connection:
        run_state_machine_as_test(machine(application, connection), settings=SETTINGS)
