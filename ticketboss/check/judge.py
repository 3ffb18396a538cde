"""Say what of a history was not as promised: a pure function of its records.

What was read last, when all clients were done, is the truth that everything before is
held against. Of what took place in between only the order of beginnings and ends is
used: whatever was acknowledged before a call began is there for it, and nothing that was
asked for after it had ended is there yet. So each call has a span of versions, and what
it was told must be so at one of them.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ticketboss.check.history import LAST, UNTOUCHED, Record, unpack
from ticketboss.check.ledger import LIVE, NEVER, Ledger, State, Story, instant

# Every answer that the clients' well-formed calls can get.
ANSWERS = {
    "create": {"201"},
    "reserve": {
        *("201", "409 sold_out", "409 sales_not_open", "409 sales_closed"),
        *("409 partner_limit", "412 precondition_failed", "422 idempotency_key_reused"),
    },
    "confirm": {"200", "409 already_cancelled", "409 hold_expired", "412 precondition_failed"},
    "extend": {
        *("200", "409 already_cancelled", "409 hold_expired", "409 not_held"),
        *("409 hold_limit", "412 precondition_failed"),
    },
    "reduce": {
        *("200", "409 already_cancelled", "409 hold_expired", "409 cannot_grow"),
        "412 precondition_failed",
    },
    "cancel": {"204", "404 already_cancelled", "404 hold_expired", "412 precondition_failed"},
    "edit": {"200", "409 capacity_below_reserved", "412 precondition_failed"},
    "allot": {"200", "201", "409 sold_out", "400 invalid_request"},  # its end may have passed
    "release": {"204"},
    "allotments": {"200"},
    "event": {"200", "304"},
    "reservation": {"200"},
    "reservations": {"200"},
    "changes": {"200", "409 cursor_ahead"},
}
# The kind of change that an operation makes.
MAKES = {
    "reserve": ("reserved", "held"),
    "confirm": ("confirmed",),
    "extend": ("extended",),
    "reduce": ("reduced",),
    "cancel": ("cancelled",),
    "edit": ("event_updated",),
}
# What an operation of a refused batch makes of a reservation for those after it.
ENDED_BY = {"already_cancelled": "cancel", "not_held": "confirm", "cannot_grow": "reduce"}
# The caps, and whether they count what is held alone.
CAPS = {"maxSeatsPerPartner": False, "maxHeldSeatsPerPartner": True}
MADE_BY = {kind: call for call, kinds in MAKES.items() for kind in kinds}


class Violation(NamedTuple):
    """A promise that was broken: what kind of promise, and what was seen."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Verdict(NamedTuple):
    violations: list[Violation]
    # Reads of what a failover took with it, or of what had passed, where that is allowed.
    vanished: int


def judge(records: Iterable[Record], failover: bool = False) -> Verdict:
    """Return everything that was not as promised.

    With `failover` the database may be replaced by its standby meanwhile. A read may
    then show a change that nobody was told of, and that is lost with the old one; and
    what the old one has, as long as it is asked.
    """
    records = list(records)
    calls = list(unpack(records))
    events: dict[str, list[Record]] = defaultdict(list)
    for record in calls:
        if record.event:
            events[record.event].append(record)
    violations: list[Violation] = []
    vanished = 0
    for event, of_event in events.items():
        trial = Trial(event, of_event, failover)
        violations += trial.run()
        vanished += trial.vanished
    violations += [*_keys(calls), *_batches(records)]
    return Verdict(violations, vanished)


def _batches(records: list[Record]) -> Iterable[Violation]:
    """Hold that a batch is made in its order, and an atomic one as a whole or not at all."""
    for record in records:
        if record.call != "batch" or record.unknown:
            continue
        if (record.status, record.code) not in ((200, None), (409, "batch_refused")):
            yield Violation("answer", f"{_told(record)} is none that the contract knows")
            continue
        items = list(unpack([record]))
        if len(items) != len(record.asked["operations"]):
            yield Violation("batch", f"{_told(record)} answers {len(items)} operations")
        news = [item for item in items if item.made and _is_news(item) and item.call != "cancel"]
        versions: dict[str, list[int]] = defaultdict(list)
        for item in news:
            versions[item.event].append(item.answer["version"])
        if any(of_event != sorted(set(of_event)) for of_event in versions.values()):
            yield Violation("batch", f"{_told(record)} was made in another order: {dict(versions)}")
        if not record.asked.get("atomic"):
            if record.status != 200:
                yield Violation("batch", f"{_told(record)} is not atomic")
        elif record.status == 409 and news:
            yield Violation("batch", f"{_told(record)} was refused, and partly made")
        elif record.status == 200 and any(
            not item.made and item.code != "already_cancelled" for item in items
        ):
            yield Violation("batch", f"{_told(record)} was made, and partly refused")


def _keys(calls: list[Record]) -> Iterable[Violation]:
    """Hold that a key has one effect, over all events."""
    used: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in calls:
        if record.call == "reserve" and "key" in record.asked:
            used[record.asked["partnerId"], record.asked["key"]].append(record)
    for key, uses in used.items():
        made = [use for use in uses if use.made]
        if len({use.answer.get("reservationId") for use in made}) > 1:
            yield Violation("key", f"{key} made more than one reservation")
        if sum(not use.replayed for use in made) > 1:
            yield Violation("key", f"{key} was acknowledged as new more than once")
        for use in uses:
            others = [o for o in uses if _order(o) != _order(use) and o.start <= use.end]
            if use.code == "idempotency_key_reused" and not others:
                yield Violation("refusal", f"{key} is said to be used for something else")
            if use.replayed and not any(o.start <= use.end for o in uses if o is not use):
                yield Violation("key", f"{key} is said to be a repetition, and was sent once")


def _order(record: Record) -> tuple[Any, ...]:
    """Return what a repetition has to repeat."""
    return record.event, record.asked["seats"], record.asked.get("holdSeconds")


class Trial:
    """The records of one event, against what is on record of it."""

    def __init__(self, event: str, records: list[Record], failover: bool):
        self.event = event
        self.records = records
        self.failover = failover
        self.vanished = 0
        self.violations: list[Violation] = []
        self.ledger = Ledger(0, [])
        self._of_batches: dict[tuple[str, float], list[Record]] = defaultdict(list)
        for record in records:
            if record.atomic:
                self._of_batches[record.client, record.start].append(record)
        # Which records acknowledge a version as their own.
        self.owners: dict[int, list[Record]] = defaultdict(list)
        self._own: dict[int, int] = {}  # and the other way round, by the record's id()

    def run(self) -> list[Violation]:
        created = next((r for r in self.records if r.call == "create" and r.made), None)
        if created is None:
            return [Violation("history", f"{self.event} was not created in it")]
        self.total_seats = created.asked["totalSeats"]
        feeds = self._feeds()
        if not feeds:
            return [Violation("history", f"the feed of {self.event} was not read at its end")]
        if any(feed != feeds[0] for feed in feeds):
            self._say("feed", "two instances tell two stories")
        self.ledger = Ledger(self.total_seats, feeds[0])
        for kind, text in self.ledger.faults:
            self._say(kind, text)
        expected = [record for record in self.records if self._is_expected(record)]
        for record in expected:
            self._learn(record)
        self._measure(expected)
        self._judge_order()
        self._judge_makers()
        self._judge_ends()
        self._judge_closing()
        self._judge_caps(created.asked)
        for record in expected:
            try:
                JUDGES[record.call](self, record)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                self._say("answer", f"{_told(record)} is not as the contract says: {error!r}")
        return self.violations

    def _say(self, kind: str, text: str) -> None:
        self.violations.append(Violation(kind, f"{self.event}: {text}"))

    def _feeds(self) -> list[list[dict[str, Any]]]:
        """Return what each server said last of the event's changes."""
        pages: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for record in self.records:
            if (record.client, record.call, record.status) == (LAST, "changes", 200):
                pages[record.server] += record.answer["items"]
        return list(pages.values())

    def _is_expected(self, record: Record) -> bool:
        """Tell whether there is an answer to judge; say where the contract knows no such."""
        if record.unknown or record.code in UNTOUCHED:
            return False
        if self.failover and (record.call, record.code) == ("reservation", "not_found"):
            self.vanished += 1  # a primary that has been replaced has not heard of it
            return False
        answer = f"{record.status} {record.code}" if record.code else str(record.status)
        if record.atomic and answer == "424 not_made":
            return True
        if answer not in ANSWERS[record.call]:
            self._say("answer", f"{_told(record)} is none that the contract knows")
            return False
        return True

    # --- The spans --------------------------------------------------------------

    def _learn(self, record: Record) -> None:
        """Note which version a change says that it made, and the ends of holds."""
        answer = record.answer if isinstance(record.answer, dict) else {}
        story = self.ledger.stories.get(str(self._subject(record)))
        if record.changes and record.made:
            version = answer.get("version")
            if record.call == "cancel" and story:
                version = next((s.version for s in story.states if s.kind == "cancelled"), None)
            if (
                isinstance(version, int)
                and 0 < version <= self.ledger.version
                and self.ledger.items[version - 1]["type"] in MAKES.get(record.call, ())
                and self.ledger.items[version - 1]["reservationId"] == self._subject(record)
            ):
                self.owners[version].append(record)
                self._own[id(record)] = version
        listed = answer.get("items") if record.call == "reservations" else [answer]
        for shown in listed or []:
            held = self.ledger.stories.get(str(shown.get("reservationId")))
            if held and shown.get("status") == "held" and "expiresAt" in shown:
                state = held.at(shown["version"])
                if state and state.version == shown["version"]:
                    set_by = [s for s in held.states if s.version <= state.version]
                    last = next(s for s in reversed(set_by) if s.kind in ("held", "extended"))
                    held.ends.setdefault(last.version, instant(shown["expiresAt"]))

    def _subject(self, record: Record) -> str | None:
        """Return the reservation that a call is about."""
        if record.call == "reserve" and isinstance(record.answer, dict):
            return record.answer.get("reservationId")
        return record.asked.get("reservationId")

    def _measure(self, records: list[Record]) -> None:
        """Find for every moment the versions that were there, and those that were not."""
        # Highest versions told, by the ends of the calls that told them.
        told = sorted(
            (record.end, version) for record in records if (version := self._proves(record))
        )
        self._told_at = [end for end, _ in told]
        self._told = _running(max, [version for _, version in told])
        # Lowest versions asked for, by the beginnings of the calls that asked for them.
        self._began = self._find_beginnings()
        asked = sorted((start, version) for version, start in self._began.items())
        self._asked_at = [start for start, _ in asked]
        self._asked = _running(min, [version for _, version in reversed(asked)])[::-1]

    def _proves(self, record: Record) -> int | None:
        """Return the highest version that an answer proves to be there for good."""
        reads = not record.changes
        if record.unknown or (self.failover and reads and record.client != LAST):
            return None
        answer = record.answer
        if record.call == "cancel":
            return self._own.get(id(record))
        if not isinstance(answer, dict):
            return None
        if isinstance(answer.get("items"), list):
            return max((item["version"] for item in answer["items"]), default=None)
        version = answer.get("version")
        return version if isinstance(version, int) else None

    def _find_beginnings(self) -> dict[int, float]:
        """Return for each version when the first call that can have made it began."""
        began = {}
        doubts: dict[tuple[str, str | None], float] = {}
        for record in self.records:
            if record.changes and record.unknown:
                doubt = record.call, record.asked.get("reservationId")
                doubts[doubt] = min(record.start, doubts.get(doubt, record.start))
        for item in self.ledger.items:
            call = MADE_BY.get(item["type"], "")
            owners = self.owners.get(item["version"], ())
            starts = [owner.start for owner in owners]
            subject = None if call == "reserve" else item["reservationId"]
            if not any(_is_news(owner) for owner in owners) and (call, subject) in doubts:
                starts.append(doubts[call, subject])
            if starts:
                began[item["version"]] = min(starts)
        return began

    def span(self, record: Record) -> tuple[int, int]:
        """Return the lowest and the highest version at which a call can have been decided."""
        place = bisect_left(self._told_at, record.start)
        lowest = self._told[place - 1] if place else 0
        place = bisect_left(self._asked_at, record.end)
        highest = self._asked[place] - 1 if place < len(self._asked) else self.ledger.version
        return lowest, min(highest, self.ledger.version)

    # --- The ledger -------------------------------------------------------------

    def _judge_order(self) -> None:
        """Hold that of two changes the one that ended before the other began is the earlier."""
        latest, of_version = float("-inf"), 0
        for version in range(1, self.ledger.version + 1):
            owners = self.owners.get(version, ())
            if owners and min(owner.end for owner in owners) < latest:
                self._say("order", f"version {version} was told before what made"
                          f" version {of_version} began")  # fmt: skip
            if self._began.get(version, latest) > latest:
                latest, of_version = self._began[version], version
            news = [owner for owner in owners if _is_news(owner)]
            if len(news) > 1:
                kind = "cancel" if news[0].call == "cancel" else "version"
                self._say(kind, f"version {version} was told to {len(news)} calls as theirs")

    def _judge_makers(self) -> None:
        """Hold that every change was asked for, and that none was made that was refused."""
        unowned = [
            item
            for item in self.ledger.items
            if item["type"] in MADE_BY and not self.owners.get(item["version"])
        ]
        doubts = Counter(self._doubts())
        for item in unowned:
            what = next((what for what in self._claims(item) if doubts[what] > 0), None)
            if what is not None:
                doubts[what] -= 1
            else:
                self._say("unasked", f"version {item['version']} ({item['type']} of"
                          f" {item['reservationId']}) is nobody's: those who asked for it"
                          " were refused, or told of another")  # fmt: skip

    def _doubts(self) -> Iterable[tuple[Any, ...]]:
        """Give what may have been made without anybody knowing, each as often as it may."""
        answered = {
            (record.asked["partnerId"], record.asked["key"])
            for record in self.records
            if record.call == "reserve" and record.made and "key" in record.asked
        }
        repeated = set()
        for record in self.records:
            if not (record.changes and record.unknown):
                continue
            asked = record.asked
            if record.call == "reserve":
                kind = "held" if "holdSeconds" in asked else "reserved"
                doubt = kind, asked["partnerId"], asked["seats"]
                key = asked["partnerId"], asked.get("key")
                if key not in answered and (key[1] is None or (key, doubt) not in repeated):
                    repeated.add((key, doubt))
                    yield doubt
            elif record.call == "edit":
                yield "event_updated", asked.get("totalSeats")
            elif record.call == "reduce":
                yield "reduced", asked["reservationId"], asked["seats"]
            elif record.call in MAKES:
                yield MAKES[record.call][0], asked["reservationId"]

    def _claims(self, item: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return what somebody must have asked for, one of it, where a change is nobody's."""
        kind, seats = item["type"], item["seats"]
        if kind in ("held", "reserved"):
            return [(kind, item["partnerId"], seats)]
        if kind == "event_updated":
            same = seats == self.ledger.total[item["version"] - 1]
            return [(kind, seats), *([(kind, None)] if same else [])]
        if kind == "reduced":
            return [(kind, item["reservationId"], seats)]
        return [(kind, item["reservationId"])]

    def _judge_ends(self) -> None:
        """Hold that a hold ends once, at its end, and that nothing happens to it later."""
        # Every change but an expiry is made with all ended holds settled.
        times = [
            (instant(item["at"]), item["version"])
            for item in self.ledger.items
            if item["type"] not in ("expired", "allotted")  # what expires may go back to one
        ]
        versions = [version for _, version in times]
        for story in self.ledger.stories.values():
            for state in story.states:
                end = story.end(state) if state.status == "held" else None
                if end is None:
                    continue
                until = story.until(state)
                after = self.ledger.items[until - 1] if until < NEVER else None
                told = f"{story.reservation_id}, held until {end.isoformat()}"
                if after and after["type"] == "expired":
                    if instant(after["at"]) < end:
                        self._say("hold", f"{told}, expired at {after['at']}")
                elif after and instant(after["at"]) >= end:
                    self._say("hold", f"{told}, was {after['type']} at {after['at']}")
                place = bisect_left(versions, until) - 1
                if place >= 0 and versions[place] > state.version and times[place][0] >= end:
                    self._say("hold", f"{told}, still has its seats at version {versions[place]},"
                              f" made at {times[place][0].isoformat()}")  # fmt: skip

    def _judge_closing(self) -> None:
        """Hold that nothing is sold once sales are closed."""
        for closing in self._closings():
            if not closing.made:
                continue
            closed = instant(closing.asked["salesCloseAt"])
            for item in self.ledger.items[closing.answer["version"] :]:
                if item["type"] in ("reserved", "held") and instant(item["at"]) >= closed:
                    self._say("closed", f"version {item['version']} was sold at {item['at']},"
                              f" after {closed.isoformat()}")  # fmt: skip

    def _judge_caps(self, caps: dict[str, Any]) -> None:
        """Hold that nothing was sold beyond a cap of the event, which is as it was created."""
        for item in self.ledger.items:
            if item["type"] not in ("reserved", "held"):
                continue
            story = self.ledger.stories[item["reservationId"]]
            for cap, held in CAPS.items():
                counts = cap in caps and not story.drawn and (not held or item["type"] == "held")
                if counts and self.ledger.counted(*_of(item), held) > caps[cap]:
                    self._say("cap", f"version {item['version']} gives {story.partner_id}"
                              f" more than {caps[cap]} ({cap})")  # fmt: skip

    # --- What was acknowledged --------------------------------------------------

    def _judge_reserve(self, record: Record) -> None:
        if record.status != 201:
            self._judge_refusal(record)
            return
        asked, answer = record.asked, record.answer
        state = self._shown(record, answer)
        kind = "held" if "holdSeconds" in asked else "reserved"
        if state is None:
            return
        story = self.ledger.stories[answer["reservationId"]]
        first = story.states[0]
        if (story.partner_id, first.kind, first.seats) != (
            asked["partnerId"],
            kind,
            asked["seats"],
        ):
            self._say("lost", f"{_told(record)}, and version {first.version} says {first}")
        elif not record.replayed and not (state is first and self._is_new(record, first)):
            self._say("lost", f"{_told(record)} as new, and it was made as {first}")

    def _judge_confirm(self, record: Record) -> None:
        self._judge_change(record, lambda answer: answer["status"] == "confirmed")

    def _judge_extend(self, record: Record) -> None:
        self._judge_change(record, lambda answer: answer["status"] == "held")

    def _judge_reduce(self, record: Record) -> None:
        self._judge_change(record, lambda answer: answer["seats"] == record.asked["seats"])

    def _judge_change(self, record: Record, is_done: Callable[[dict[str, Any]], bool]) -> None:
        if record.status != 200:
            self._judge_refusal(record)
            return
        answer = record.answer
        if answer["reservationId"] != record.asked["reservationId"] or not is_done(answer):
            self._say("answer", f"{_told(record)} is not what was asked for")
        state = self._shown(record, answer)
        if record.call == "extend" and state and not self._is_new(record, state):
            self._say("lost", f"{_told(record)}, and the ledger has no such extension")

    def _is_new(self, record: Record, state: State) -> bool:
        """Tell whether a state is the work of this call."""
        return state.kind in MAKES[record.call] and state.version > self.span(record)[0]

    def _judge_cancel(self, record: Record) -> None:
        if record.status != 204:
            self._judge_refusal(record)
            return
        version = self._own.get(id(record))
        lowest, highest = self.span(record)
        if version is None:
            self._say("lost", f"{_told(record)}, and the ledger has no such cancel")
        elif not lowest < version <= highest:
            self._say("order", f"{_told(record)}, and version {version} is not within it")

    def _judge_edit(self, record: Record) -> None:
        if record.status != 200:
            self._judge_refusal(record)
            return
        version = record.answer["version"]
        lowest, highest = self.span(record)
        if self._own.get(id(record)) != version or not lowest < version <= highest:
            self._say("lost", f"{_told(record)}, and the ledger has no such edit")
        elif (
            "totalSeats" in record.asked
            and record.asked["totalSeats"] != self.ledger.total[version]
        ):
            self._say("lost", f"{_told(record)}, and the ledger says {self.ledger.total[version]}")
        self._judge_event(record)

    def _judge_allot(self, record: Record) -> None:
        if not record.made:
            self._judge_refusal(record)
            return
        self._judge_allotment(record, record.answer)
        answer = record.answer
        if answer["seats"] != max(record.asked["seats"], answer["drawnSeats"]):
            self._say("answer", f"{_told(record)} is not what was asked for")

    def _judge_allotment(self, record: Record, answer: dict[str, Any]) -> None:
        """Judge an allotment in an answer: what is left of it at its version, and still is."""
        partner, version = answer["partnerId"], answer["version"]
        item = self.ledger.items[version - 1] if version <= self.ledger.version else None
        left = answer["seats"] - answer["drawnSeats"]
        if not item or (item["type"], item["partnerId"], item["seats"]) != (
            *("allotted", partner),
            left,
        ):
            self._lost(record, version, f"{_told(record)}, and version {version} is {item}")
            return
        lowest, highest = self.span(record)
        if not any(
            self.ledger.left(partner, at) == left for at in range(max(lowest, version), highest + 1)
        ):
            self._say(
                "allotment", f"{_told(record)}, which was so at none of {lowest} to {highest}"
            )

    def _judge_release(self, record: Record) -> None:
        lowest, highest = self.span(record)
        partner = record.asked["partnerId"]
        if all(self.ledger.left(partner, version) for version in range(lowest, highest + 1)):
            self._say("lost", f"{_told(record)}, and it had seats at {lowest} to {highest}")

    def _judge_allotments(self, record: Record) -> None:
        lowest, highest = self.span(record)
        for item in record.answer["items"]:
            self._judge_allotment(record, item)
        listed = {item["partnerId"] for item in record.answer["items"]}
        for partner in self.ledger.partners():
            versions = range(lowest, highest + 1)
            if partner not in listed and all(self.ledger.left(partner, v) for v in versions):
                self._say("allotment", f"{_told(record)} leaves out that of {partner}")

    # --- What was shown ---------------------------------------------------------

    def _shown(self, record: Record, answer: dict[str, Any]) -> State | None:
        """Judge a reservation in an answer; return its state in the ledger."""
        story = self.ledger.stories.get(answer["reservationId"])
        state = story and story.at(answer["version"])
        if not story or not state or state.version != answer["version"]:
            self._lost(record, answer["version"], f"{_told(record)}, and the ledger has no such"
                       " change")  # fmt: skip
            return None
        wrong = self._differences(story, state, answer)
        if wrong:
            self._lost(record, state.version, f"{_told(record)}, and the ledger has {wrong}")
            return None
        lowest, highest = self.span(record)
        if state.version > highest:
            self._say("early", f"{_told(record)}: version {state.version} was not asked for yet")
        if story.until(state) <= lowest:
            self._passed(record, f"{_told(record)}: version {story.until(state)} was told before")
        return state

    def _differences(self, story: Story, state: State, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the members that are otherwise in the ledger."""
        times = {"createdAt": story.states[0].at}
        for earlier in story.states[: story.place(state.version) + 1]:
            if earlier.kind in ("reserved", "confirmed"):
                times["confirmedAt"] = earlier.at
            elif earlier.kind == "cancelled":
                times["cancelledAt"] = earlier.at
        expected = {
            "eventId": self.event,
            "partnerId": story.partner_id,
            "seats": state.seats,
            "status": state.status,
            **({"allotted": True} if story.drawn else {}),
            **times,
        }
        if not story.drawn and "allotted" in answer:
            expected["allotted"] = None
        if answer["status"] == "expired" and self._may_end(story, state):
            expected["status"] = "expired"  # and not in the ledger yet
        if (end := story.end(state)) and state.status == "held":
            expected["expiresAt"] = answer["expiresAt"]
            if instant(answer["expiresAt"]) != end:
                expected["expiresAt"] = end.isoformat()
        return {name: value for name, value in expected.items() if answer.get(name) != value}

    def _may_end(self, story: Story, state: State) -> bool:
        """Tell whether a hold is one that ends by itself."""
        if state.status != "held":
            return False
        until = story.until(state)
        return until == NEVER or self.ledger.items[until - 1]["type"] == "expired"

    def _lost(self, record: Record, version: int, text: str) -> None:
        """Say that what was shown is not there, unless a failover may have taken it."""
        if not record.changes and self._may_vanish(record, version):
            self.vanished += 1
        else:
            self._say("lost" if record.changes else "read", text)

    def _passed(self, record: Record, text: str) -> None:
        """Say that what was shown had passed, unless a failover may be why.

        A primary that has been replaced shows what it has to whoever is connected to it.
        """
        if self.failover and not record.changes:
            self.vanished += 1
        else:
            self._say("stale", text)

    def _may_vanish(self, record: Record, version: int) -> bool:
        """Tell whether a version that was read may be lost: nobody had been told of it."""
        place = bisect_left(self._told_at, record.end)
        return self.failover and version > (self._told[place - 1] if place else 0)

    def _judge_event(self, record: Record) -> None:
        answer = record.answer
        if record.status == 304:
            # Its numbers are those that the client has.
            lowest, highest = self.span(record)
            if not lowest <= record.asked["ifNoneMatch"] <= highest:
                self._passed(record, f"{_told(record)}, when it was at {lowest} to {highest}")
            return
        version = answer["version"]
        lowest, highest = self.span(record)
        if version > self.ledger.version:
            self._lost(record, version, f"{_told(record)}, which the ledger does not have")
            return
        expected = {
            "eventId": self.event,
            "totalSeats": self.ledger.total[version],
            "availableSeats": self.ledger.available[version],
            "reservationCount": self.ledger.count[version],
            "reservedSeats": self.ledger.total[version] - self.ledger.available[version],
            "allottedSeats": self.ledger.aside[version],
        }
        # Left out where there are none.
        seen = {name: {"allottedSeats": 0, **answer}[name] for name in expected}
        if seen != expected and not (record.tag is None and self._settled_alike(seen, version)):
            self._lost(record, version, f"{_told(record)}, and the ledger makes it {expected}")
        elif not lowest <= version <= highest:
            text = f"{_told(record)}, when it was at {lowest} to {highest}"
            self._passed(record, text) if version < lowest else self._say("early", text)

    def _settled_alike(self, seen: dict[str, Any], version: int) -> bool:
        """Tell whether numbers are those of a version with some ended holds given back.

        That is how a read answers, without an entity tag, while nothing can be written.
        """
        # Some of the seats go back to allotments, and allotments end, too: in all it is as much.
        free = self.ledger.available[version] + self.ledger.aside[version]
        count = self.ledger.count[version]
        told = seen["availableSeats"] + seen["allottedSeats"], seen["reservationCount"]
        states = [(story, story.at(version)) for story in self.ledger.stories.values()]
        ends = [
            (end, state.seats)
            for story, state in states
            if state and self._may_end(story, state) and (end := story.end(state))
        ]
        for _, seats in [(None, 0), *sorted(ends)]:
            free, count = free + seats, count - (seats > 0)
            if told == (free, count):
                return bool(seen["reservedSeats"] + seen["availableSeats"] == seen["totalSeats"])
        return False

    def _judge_reservation(self, record: Record) -> None:
        if record.answer["reservationId"] != record.asked["reservationId"]:
            self._say("read", f"{_told(record)} is another")
        self._shown(record, record.answer)

    def _judge_changes(self, record: Record) -> None:
        if record.status != 200:
            self._judge_refusal(record)
            return
        items, after = record.answer["items"], record.asked["after"]
        versions = list(range(after + 1, after + 1 + len(items)))
        if [item["version"] for item in items] != versions:
            self._say("feed", f"{_told(record)} does not go on from {after} one by one")
            return
        last = versions[-1] if versions else after
        lowest, highest = self.span(record)
        if record.answer["next"] != last:
            self._say("feed", f"{_told(record)} says {record.answer['next']} is next")
        if last < lowest and len(items) < record.asked["limit"]:
            self._passed(record, f"{_told(record)} ends at {last}, and {lowest} was told before")
        for version, item in zip(versions, items, strict=True):
            known = self.ledger.items[version - 1] if version <= self.ledger.version else None
            if known and "as" in record.asked:
                known = _redacted(known, record.asked["as"])
            if item != known:
                self._lost(record, version, f"{_told(record)} has another version {version}")
                return
        if last > highest:
            self._say("early", f"{_told(record)} ends at {last}, when {highest} was the last")

    def _judge_reservations(self, record: Record) -> None:
        lowest, highest = self.span(record)
        items = record.answer["items"]
        early = False
        for item in items:
            state = self._shown(record, item)
            if state is None:
                return
            early = early or state.status != item["status"]
            story = self.ledger.stories[item["reservationId"]]
            lowest, highest = max(lowest, state.version), min(highest, story.until(state) - 1)
        wanted = record.asked
        for item in items:
            if not _fits(wanted, item["partnerId"], item["status"]):
                self._say(
                    "list", f"{_told(record)} shows {item['reservationId']}, which does not fit"
                )
        if lowest > highest:
            if not self.failover:
                self._say("list", f"{_told(record)} is of no one version")
        elif not early and not any(
            self._is_page(record, version) for version in range(lowest, highest + 1)
        ):
            self._say("list", f"{_told(record)} is not what was there at {lowest} to {highest}")

    def _is_page(self, record: Record, version: int) -> bool:
        """Tell whether a page is complete at a version; a hold that is to end may be or not."""
        shown = [item["reservationId"] for item in record.answer["items"]]
        more = record.answer["next"] is not None
        if more and len(shown) != record.asked["limit"]:
            return False
        after = record.asked.get("afterId")
        first = self.ledger.stories[after].created if after else 0
        sure: list[str] = []
        for story in self.ledger.made_after(first):
            if story.created > version or (more and shown[-1] in sure):
                break
            state = story.at(version)
            if state is None or self._may_end(story, state):
                continue
            if _fits(record.asked, story.partner_id, state.status):
                sure.append(story.reservation_id)
        kept = {story_id for story_id in shown if self._ends_later(story_id, version)}
        fixed = [story_id for story_id in shown if story_id not in kept]
        return sure[: len(fixed)] == fixed and (more or len(sure) == len(fixed))

    def _ends_later(self, reservation_id: str, version: int) -> bool:
        story = self.ledger.stories[reservation_id]
        state = story.at(version)
        return state is not None and self._may_end(story, state)

    # --- What was refused -------------------------------------------------------

    def _judge_refusal(self, record: Record) -> None:
        """Hold that a refusal is true at a version at which it can have been decided."""
        if record.code not in REFUSALS:
            return
        if any(
            other.call == ENDED_BY.get(record.code)
            and other.asked["reservationId"] == record.asked.get("reservationId")
            for other in self._before_in_batch(record)
        ):
            return
        lowest, highest = self.span(record)
        named = record.answer.get("version")
        is_true = REFUSALS[record.code]
        if named is None:
            if not any(is_true(self, record, v) for v in range(lowest, highest + 1)):
                self._say("refusal", f"{_told(record)} is true at none of {lowest} to {highest}")
        elif not lowest <= named <= highest and not self._is_of_a_reservation(record):
            self._say("refusal", f"{_told(record)} names {named}, not one of {lowest} to {highest}")
        elif not is_true(self, record, named):
            self._say("refusal", f"{_told(record)} is not true at {named}")

    def _is_of_a_reservation(self, record: Record) -> bool:
        """Tell whether the version that a refusal names is that of a reservation's change."""
        return record.code == "precondition_failed" and "reservationId" in record.asked

    def _state(self, record: Record, version: int) -> State | None:
        story = self.ledger.stories.get(record.asked["reservationId"])
        return story.at(version) if story else None

    def _is_sold_out(self, record: Record, version: int) -> bool:
        answer = record.answer
        if not answer["requestedSeats"] > answer["availableSeats"]:
            return False
        if record.call == "allot":  # what is lacking
            return bool(answer["availableSeats"] == self.ledger.available[version])
        partner, seats = record.asked["partnerId"], record.asked["seats"]
        left = self._left_in_batch(record, version)
        return answer["requestedSeats"] == seats and (
            left is None
            or (answer["availableSeats"] == left and self.ledger.left(partner, version) < seats)
        )

    def _is_beyond_a_cap(self, record: Record, version: int) -> bool:
        answer = record.answer
        partner, seats = record.asked["partnerId"], answer["partnerSeats"]
        counted = self.ledger.counted(partner, version, CAPS[answer["cap"]])
        return bool(
            (counted == seats or self._before_in_batch(record))
            and seats + record.asked["seats"] > answer["limit"]
            and answer["remaining"] == max(answer["limit"] - seats, 0)
        )

    def _left_in_batch(self, record: Record, version: int) -> int | None:
        """Return what the operations before it in a refused batch would have left.

        None where allotments are drawn from: what they leave is not told.
        """
        left = self.ledger.available[version]
        if self.ledger.aside[version] and self._before_in_batch(record):
            return None
        seats: dict[str, int] = {}
        for other in self._before_in_batch(record):
            if other.call == "reserve":
                left -= other.asked["seats"]
            elif (state := self._state(other, version)) and other.call in ("cancel", "reduce"):
                reservation_id = other.asked["reservationId"]
                kept = other.asked.get("seats", 0)
                left += seats.get(reservation_id, state.seats) - kept
                seats[reservation_id] = kept
        return left

    def _before_in_batch(self, record: Record) -> list[Record]:
        """Return what would have been made before it, had its atomic batch not been refused."""
        return [
            other
            for other in self._of_batches.get((record.client, record.start), ())
            if other.status == 424 and (other.place or 0) < (record.place or 0)
        ]

    def _is_cancelled(self, record: Record, version: int) -> bool:
        state = self._state(record, version)
        return bool(
            state and state.status == "cancelled" and record.answer.get("cancelledAt") == state.at
        )

    def _is_expired(self, record: Record, version: int) -> bool:
        state = self._state(record, version)
        return state is not None and state.status == "expired"

    def _is_confirmed(self, record: Record, version: int) -> bool:
        state = self._state(record, version)
        return state is not None and state.status == "confirmed"

    def _would_grow(self, record: Record, version: int) -> bool:
        state = self._state(record, version)
        return bool(
            state
            and state.status in LIVE
            and state.seats == record.answer["seats"] < record.asked["seats"]
        )

    def _has_moved(self, record: Record, version: int) -> bool:
        """Tell whether If-Match names another version than that of its thing."""
        named = record.answer["version"]
        if record.asked["ifMatch"] == named:
            return False
        if not self._is_of_a_reservation(record):
            return bool(version == named)
        lowest, highest = self.span(record)
        story = self.ledger.stories.get(record.asked["reservationId"])
        state = story and story.at(named)
        return bool(
            story and state and state.version == named <= highest and story.until(state) > lowest
        )

    def _is_closed(self, record: Record, version: int) -> bool:
        """Tell whether somebody had asked for sales to be closed."""
        return any(closing.start <= record.end for closing in self._closings())

    def _closings(self) -> list[Record]:
        return [r for r in self.records if r.call == "edit" and r.asked.get("salesCloseAt")]

    def _is_reserved(self, record: Record, version: int) -> bool:
        taken = self.ledger.total[version] - self.ledger.available[version]
        return bool(record.answer["minimumSeats"] == taken > record.asked["totalSeats"])

    def _is_ahead(self, record: Record, version: int) -> bool:
        return bool(record.asked["after"] > record.answer["version"] == version)


JUDGES: dict[str, Callable[[Trial, Record], None]] = {
    "create": Trial._judge_event,
    "reserve": Trial._judge_reserve,
    "confirm": Trial._judge_confirm,
    "extend": Trial._judge_extend,
    "reduce": Trial._judge_reduce,
    "cancel": Trial._judge_cancel,
    "edit": Trial._judge_edit,
    "event": Trial._judge_event,
    "reservation": Trial._judge_reservation,
    "reservations": Trial._judge_reservations,
    "changes": Trial._judge_changes,
    "allot": Trial._judge_allot,
    "release": Trial._judge_release,
    "allotments": Trial._judge_allotments,
}
REFUSALS: dict[str, Callable[[Trial, Record, int], bool]] = {
    "sold_out": Trial._is_sold_out,
    "already_cancelled": Trial._is_cancelled,
    "hold_expired": Trial._is_expired,
    "not_held": Trial._is_confirmed,
    "cannot_grow": Trial._would_grow,
    "precondition_failed": Trial._has_moved,
    "capacity_below_reserved": Trial._is_reserved,
    "cursor_ahead": Trial._is_ahead,
    "sales_closed": Trial._is_closed,
    "partner_limit": Trial._is_beyond_a_cap,
}


def _redacted(item: dict[str, Any], partner_id: str) -> dict[str, Any]:
    """Return a change as a partner sees it: all of the numbers, and of the names its own."""
    hidden = {"actor"}  # all was done by an admin
    if item["partnerId"] != partner_id:
        hidden |= {"reservationId", "partnerId"}
    return {name: None if name in hidden else value for name, value in item.items()}


def _of(item: dict[str, Any]) -> tuple[str, int]:
    return item["partnerId"], item["version"]


def _is_news(record: Record) -> bool:
    """Tell whether an acknowledged change was made by this very call.

    A repeated confirm or reduce says the same as the first.
    """
    return not record.replayed and record.call not in ("confirm", "reduce")


def _fits(wanted: dict[str, Any], partner_id: str, status: str) -> bool:
    """Tell whether a list's filters let a reservation through."""
    return (
        wanted.get("partnerId", partner_id) == partner_id and wanted.get("status", status) == status
    )


def _running(choose: Callable[..., int], numbers: list[int]) -> list[int]:
    """Return for each place the least or greatest of all numbers up to it."""
    found: list[int] = []
    for number in numbers:
        found.append(choose(found[-1], number) if found else number)
    return found


def _told(record: Record) -> str:
    """Return in a few words what was asked and told."""
    answer = record.answer if isinstance(record.answer, dict) else {}
    asked = {**record.asked}
    told = {
        name: value
        for name, value in answer.items()
        if name not in ("items", "error", "requestId", "code")
    }
    code = f" {record.code}" if record.code else ""
    return (
        f"client {record.client}, {record.start:.3f} to {record.end:.3f} s: {record.call} {asked}"
        f" → {record.status}{code} {told}"
    )
