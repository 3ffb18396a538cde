"""A history: what clients asked and were told, a record for each call, kept as JSON lines."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

# Calls that change something; `batch` brings many of them. All others read.
CHANGES = ("reserve", "confirm", "extend", "reduce", "cancel", "edit", "allot", "release")
# Who reads, when all others are done, what everything is judged by.
LAST = "last"
# Answers by which nobody knows what became of a change; so does no answer at all. A
# proxy gives the first and the last of them.
IN_DOUBT = {None, 502, 503, 504}
# Refused before anything was done, whatever the status.
UNTOUCHED = {"contention", "overloaded", "too_many_requests"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One call: who asked what, from when to when, and what came of it.

    Times are seconds on one clock for a whole history. `asked` has the members of the
    body or query by their names in the contract, and `reservationId`, `key`, `ifMatch`.
    """

    client: str
    call: str
    event: str
    start: float
    end: float
    asked: dict[str, Any] = field(default_factory=dict)
    status: int | None = None  # None: no answer came
    answer: Any = None
    tag: str | None = None
    replayed: bool = False
    server: int = 0
    # Of an operation of a batch: its place, and whether all were to be made or none.
    place: int | None = None
    atomic: bool = False

    @property
    def code(self) -> str | None:
        return self.answer.get("code") if isinstance(self.answer, dict) else None

    @property
    def changes(self) -> bool:
        return self.call in CHANGES

    @property
    def made(self) -> bool:
        """Whether it was acknowledged."""
        return self.status is not None and self.status < 400

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what became of it."""
        return self.status in IN_DOUBT and self.code not in UNTOUCHED


def unpack(records: Iterable[Record]) -> Iterator[Record]:
    """Give every operation of a batch as a record of its own, as if it had come alone."""
    for record in records:
        if record.call != "batch":
            yield record
            continue
        answered = isinstance(record.answer, dict) and isinstance(record.answer.get("items"), list)
        items = record.answer["items"] if answered else [None] * len(record.asked["operations"])
        atomic = bool(record.asked.get("atomic"))
        for place, (asked, item) in enumerate(zip(record.asked["operations"], items, strict=False)):
            told = item or {}
            yield replace(
                record,
                call=asked["op"],
                event=asked["eventId"],
                asked={name: asked[name] for name in asked if name not in ("op", "eventId")},
                status=told.get("status") if answered else record.status,
                # A reservation's own status has another name there.
                answer={**told, "status": told.get("reservationStatus")}
                if answered
                else record.answer,
                tag=told.get("etag"),
                replayed=bool(told.get("idempotentReplayed")),
                place=place,
                atomic=atomic,
            )


def save(records: Iterable[Record], file: Path) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(asdict(record)) + "\n")


def load(file: Path) -> list[Record]:
    """Read a history; raise ValueError where it is none."""
    try:
        with file.open(encoding="utf-8") as lines:
            return [Record(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no history: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A history in numbers; times are in seconds."""

    operations: int
    acknowledged: int
    refused: int
    unknown: int
    longest_gap: float  # without an acknowledged change
    longest_request: float

    def shown(self) -> dict[str, str]:
        """Return the numbers as people read them."""
        return {
            name.replace("_", " "): f"{value:.2f} s" if isinstance(value, float) else f"{value:,}"
            for name, value in asdict(self).items()
        }


def summary(records: Iterable[Record]) -> Summary:
    calls = [record for record in records if record.client != LAST]
    changes = [record for record in unpack(calls) if record.changes]
    told = sorted(record.end for record in changes if record.made)
    times = [
        min((r.start for r in calls), default=0),
        *told,
        max((r.end for r in calls), default=0),
    ]
    return Summary(
        operations=len(list(unpack(calls))),
        acknowledged=len(told),
        refused=sum(not (record.made or record.unknown) for record in changes),
        unknown=sum(record.unknown for record in changes),
        longest_gap=max(b - a for a, b in zip(times, times[1:], strict=False)),
        longest_request=max((record.end - record.start for record in calls), default=0),
    )
