"""The shapes of requests and answers. Nothing else knows camelCase.

Requests are loaded (validated), answers are dumped. Every message is a sentence
that names its member, so that it can stand alone as the `error` of an answer.
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from typing import Any, ClassVar

from marshmallow import (
    EXCLUDE,
    Schema,
    ValidationError,
    fields,
    validate,
    validates_schema,
)

from ticketboss.rules import limits, names
from ticketboss.rules.errors import InvalidRequest
from ticketboss.rules.model import KINDS, STATUSES

# RFC 3339, with the offset that makes it an instant.
TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)\Z", re.ASCII | re.I
)


def camel_case(name: str) -> str:
    """Return `available_seats` as `availableSeats`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def timestamp(value: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the microsecond."""
    text = value.astimezone(timezone.utc).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def public(members: dict) -> dict:
    """Return the members of an error as they appear in its answer."""
    told = {
        camel_case(name): timestamp(value) if isinstance(value, datetime) else value
        for name, value in members.items()
    }
    if "cap" in told:
        told["cap"] = camel_case(told["cap"])
    return told


def unique(pairs: Iterable[tuple]) -> dict:
    """Return pairs of a name and a value by their names; raise InvalidRequest for a second one."""
    members = {}
    for name, value in pairs:
        if name in members:
            name = shown(name)
            raise refusal([(name, f"{name} appears more than once")])
        members[name] = value
    return members


def shown(name: str) -> str:
    """Return the name of a member as errors show it: it may be a client's own, and long."""
    return name if len(name) <= limits.NAME_SHOWN else name[: limits.NAME_SHOWN] + "…"


def refusal(faults: list[tuple[str, str]]) -> InvalidRequest:
    """Return what tells the faults of members: the first, and of all as many as fit.

    Each is the name of a member, as shown, and a sentence that names it.
    """
    fitting: dict[str, list[str]] = {}
    size = 0
    for name, sentence in faults:
        size += len(json.dumps({name: [sentence]}))
        if size > limits.FIELDS_BYTES:
            break
        fitting.setdefault(name, []).append(sentence)
    return InvalidRequest(faults[0][1], fields=fitting)


# --- Fields -------------------------------------------------------------------


class Timestamp(fields.Field):
    """A time; None where there is none."""

    def _serialize(self, value, attr, obj, **kwargs):
        return None if value is None else timestamp(value)

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and (match := TIMESTAMP.match(value)):
            with suppress(ValueError, OverflowError):
                return _instant(*match.groups())
        raise ValidationError(
            f"{self.data_key} must be a time like 2025-11-01T15:00:00Z (RFC 3339)"
        )


def _instant(minute: str, second: str, fraction: str | None, offset: str) -> datetime:
    """Return a time by its parts; raise ValueError or OverflowError where it never comes."""
    leap = second == "60"
    # Before Python 3.11, fromisoformat takes neither Z nor a short fraction.
    text = f"{minute}:{'59' if leap else second}.{fraction or '':0<6.6}"
    text += "+00:00" if offset in "Zz" else offset
    instant = datetime.fromisoformat(text.upper()).astimezone(timezone.utc)
    instant += timedelta(seconds=leap)
    if leap and (instant.hour, instant.minute) != (0, 0):
        raise ValueError("leap seconds come at midnight")
    return instant


class QueryInteger(fields.Field):
    """A whole number in a query string."""

    def __init__(self, lowest: int, highest: int, **options):
        super().__init__(**options)
        self.lowest, self.highest = lowest, highest

    def _deserialize(self, value, attr, data, **kwargs):
        digits = re.fullmatch("[0-9]{1,19}", value, re.ASCII)
        if digits and self.lowest <= int(value) <= self.highest:
            return int(value)
        raise ValidationError(f"{attr} must be between {self.lowest} and {self.highest}")


def _messages(name: str, invalid: str) -> dict:
    return {
        "required": f"{name} is missing",
        "null": f"{name} must not be null",
        "invalid": f"{name} must be {invalid}",
    }


class Text(fields.String):
    """A string that a person can read, in the one form that the domain gives it."""

    def __init__(self, name: str, form: Callable[[str], str], **options):
        messages = _messages(name, "a string")
        super().__init__(data_key=name, error_messages=messages, **options)
        self.form = form

    def _deserialize(self, value, attr, data, **kwargs):
        try:
            return self.form(super()._deserialize(value, attr, data, **kwargs))
        except ValueError as fault:
            raise ValidationError(f"{self.data_key} {fault}") from None


class Flag(fields.Boolean):
    """true or false, and nothing that only means it."""

    def __init__(self, name: str, **options):
        messages = _messages(name, "true or false")
        super().__init__(data_key=name, error_messages=messages, **options)

    def _deserialize(self, value, attr, data, **kwargs):
        if value is True or value is False:
            return value
        raise self.make_error("invalid")


def _number(name: str, lowest: int, highest: int, message: str = "", **options) -> fields.Integer:
    """A whole number; "3" and true are none. (How JSON may write one, bodies knows.)"""
    return fields.Integer(
        strict=True,
        data_key=name,
        validate=validate.Range(
            lowest, highest, error=message or f"{name} must be between {lowest} and {highest}"
        ),
        error_messages=_messages(name, "an integer"),
        **options,
    )


def _seats() -> fields.Integer:
    return _number(
        "seats",
        limits.SEATS_MINIMUM,
        limits.SEATS_MAXIMUM,
        required=True,
        message=f"number of seats must be between {limits.SEATS_MINIMUM}"
        f" and {limits.SEATS_MAXIMUM}",
    )


def _hold_seconds(**options) -> fields.Integer:
    return _number("holdSeconds", 1, limits.HOLD_SECONDS_MAXIMUM, **options)


def _cap(name: str) -> fields.Integer:
    return _number(name, 1, limits.TOTAL_SEATS_MAXIMUM, allow_none=True)


def _time(name: str) -> Timestamp:
    return Timestamp(data_key=name, allow_none=True)


# --- Requests -----------------------------------------------------------------


class Request(Schema):
    """What a client sends. Unknown members are refused: they may be misspelt."""

    class Meta:
        unknown = EXCLUDE  # read tells them itself, in their order

    def __init__(self):
        super().__init__()
        self.known = {field.data_key or name for name, field in self.load_fields.items()}

    def read(self, members: dict, **otherwise) -> dict:
        """Return the members by their Python names; raise InvalidRequest.

        What the request leaves out is taken from `otherwise`, where that is not None.
        """
        faults, loaded = [], {}
        given = {camel_case(name): value for name, value in otherwise.items() if value is not None}
        try:
            loaded = self.load({**given, **members})
        except ValidationError as error:
            told = error.normalized_messages()
            faults = [(name, text) for name, texts in told.items() for text in texts]
        unknown = [shown(name) for name in members if name not in self.known]
        faults += [(name, f"{name} is not known here") for name in unknown]
        if faults:
            raise refusal(faults)
        return loaded


class ReserveRequest(Request):
    partner_id = Text("partnerId", names.partner_id, required=True)
    seats = _seats()
    hold_seconds = _hold_seconds()


class ReduceRequest(Request):
    seats = _seats()


class ExtendRequest(Request):
    hold_seconds = _hold_seconds(required=True)


class NoMembersRequest(Request):
    pass


class BatchRequest(Request):
    operations = fields.List(
        fields.Raw(allow_none=True),  # each is judged by itself
        required=True,
        data_key="operations",
        validate=validate.Length(
            1,
            limits.BATCH_OPERATIONS,
            error=f"operations must be 1 to {limits.BATCH_OPERATIONS}",
        ),
        error_messages=_messages("operations", "a list"),
    )
    atomic = Flag("atomic", load_default=False)


class Operation(Request):
    """One of a batch: what the single call takes, and its headers as members."""

    op = fields.String(data_key="op")
    if_match = fields.String(
        data_key="ifMatch", load_default=None, error_messages=_messages("ifMatch", "a string")
    )


class ReserveOperation(ReserveRequest, Operation):
    event_id = fields.String(
        data_key="eventId", load_default=None, error_messages=_messages("eventId", "a string")
    )
    idempotency_key = fields.String(
        data_key="idempotencyKey",
        load_default=None,
        error_messages=_messages("idempotencyKey", "a string"),
    )


class ReservationOperation(Operation):
    reservation_id = fields.String(
        data_key="reservationId",
        required=True,
        error_messages=_messages("reservationId", "a string"),
    )


class ExtendOperation(ReservationOperation, ExtendRequest):
    pass


class ReduceOperation(ReservationOperation, ReduceRequest):
    pass


class EditEventRequest(Request):
    name = Text("name", names.event_name)
    total_seats = _number("totalSeats", 0, limits.TOTAL_SEATS_MAXIMUM)
    sales_open_at = _time("salesOpenAt")
    sales_close_at = _time("salesCloseAt")
    max_seats_per_partner = _cap("maxSeatsPerPartner")
    max_held_seats_per_partner = _cap("maxHeldSeatsPerPartner")


class CreateEventRequest(EditEventRequest):
    event_id = fields.String(
        data_key="eventId",
        required=True,
        validate=validate.Regexp(
            names.EVENT_ID, error="eventId must be 1 to 64 of a-z 0-9 . _ -, not . or .."
        ),
        error_messages=_messages("eventId", "a string"),
    )
    name = Text("name", names.event_name, required=True)
    total_seats = _number("totalSeats", 0, limits.TOTAL_SEATS_MAXIMUM, required=True)

    @validates_schema
    def _opens_before_it_closes(self, data, **kwargs):
        opens, closes = data.get("sales_open_at"), data.get("sales_close_at")
        if opens and closes and opens >= closes:
            raise ValidationError("salesOpenAt must be before salesCloseAt", "salesOpenAt")


class AllotRequest(Request):
    partner_id = Text("partnerId", names.partner_id, required=True)
    seats = _number("seats", 1, limits.TOTAL_SEATS_MAXIMUM, required=True)
    release_at = Timestamp(data_key="releaseAt", load_default=None, allow_none=True)


class ReleaseQuery(Request):
    partner_id = Text("partnerId", names.partner_id, required=True)


class CreateKeyRequest(Request):
    partner_id = Text("partnerId", names.partner_id)
    admin = Flag("admin")

    @validates_schema
    def _of_one_kind(self, data, **kwargs):
        if data.get("admin", False) == ("partner_id" in data):
            raise ValidationError("partnerId or admin must be given, not both", "partnerId")


class ListQuery(Request):
    limit = QueryInteger(1, limits.LIST_MAXIMUM, load_default=limits.LIST_DEFAULT)
    after = fields.String(load_default=None)


class AllotmentsQuery(ListQuery):
    partner_id = Text("partnerId", names.partner_id, load_default=None)


class ReservationsQuery(ListQuery):
    partner_id = Text("partnerId", names.partner_id, load_default=None)
    status = fields.String(
        load_default=None,
        validate=validate.OneOf(STATUSES, error=f"status must be one of {', '.join(STATUSES)}"),
    )


class KeysQuery(ListQuery):
    partner_id = Text("partnerId", names.partner_id, load_default=None)


class ChangesQuery(Request):
    after = QueryInteger(0, 2**63 - 1, load_default=0)
    limit = QueryInteger(1, limits.FEED_MAXIMUM, load_default=limits.FEED_DEFAULT)


# --- Answers ------------------------------------------------------------------


class Answer(Schema):
    """What the service sends. `optional` members are left out where there is nothing to say."""

    optional: ClassVar[set[str]] = set()

    def on_bind_field(self, field_name, field_obj):
        field_obj.data_key = camel_case(field_name)

    def dump(self, thing: Any) -> dict:  # type: ignore[override]
        """Return the members of `thing` as they are sent.

        What marshmallow's own dump would return, for a tenth of the time: every
        reservation comes by here.
        """
        members = {}
        for name, bound in self.fields.items():
            value = getattr(thing, bound.attribute or name)
            if value is not None:
                write = WRITERS.get(type(bound))
                members[bound.data_key] = write(value) if write else value
            elif bound.data_key not in self.optional:
                members[bound.data_key] = None
        return members


class EventMembersAnswer(Answer):
    optional: ClassVar[set[str]] = {
        "salesOpenAt",
        "salesCloseAt",
        "maxSeatsPerPartner",
        "maxHeldSeatsPerPartner",
    }

    name = fields.String()
    total_seats = fields.Integer()
    sales_open_at = Timestamp()
    sales_close_at = Timestamp()
    max_seats_per_partner = fields.Integer()
    max_held_seats_per_partner = fields.Integer()


# How values that JSON has no type for are sent.
WRITERS: dict[type, Callable] = {
    Timestamp: timestamp,
    fields.Date: date.isoformat,
    fields.Nested: EventMembersAnswer().dump,
    fields.UUID: str,
}


class EventAnswer(Answer):
    optional: ClassVar[set[str]] = {
        "salesOpenAt",
        "salesCloseAt",
        "maxSeatsPerPartner",
        "maxHeldSeatsPerPartner",
        "allottedSeats",
        "yourAllottedSeats",
    }

    event_id = fields.String()
    name = fields.String()
    total_seats = fields.Integer()
    available_seats = fields.Integer()
    reservation_count = fields.Integer()
    reserved_seats = fields.Integer()
    version = fields.Integer()
    sales_open_at = Timestamp()
    sales_close_at = Timestamp()
    max_seats_per_partner = fields.Integer()
    max_held_seats_per_partner = fields.Integer()
    allotted_seats = fields.Integer(attribute="shown_allotted_seats")
    your_allotted_seats = fields.Integer()


class AllotmentAnswer(Answer):
    optional: ClassVar[set[str]] = {"releaseAt"}

    event_id = fields.String()
    partner_id = fields.String()
    seats = fields.Integer(attribute="requested_seats")
    drawn_seats = fields.Integer()
    release_at = Timestamp(attribute="expires_at")
    version = fields.Integer()


class ReservationAnswer(Answer):
    optional: ClassVar[set[str]] = {"expiresAt", "confirmedAt", "cancelledAt", "allotted"}

    reservation_id = fields.UUID()
    event_id = fields.String()
    partner_id = fields.String()
    seats = fields.Integer()
    status = fields.String(validate=validate.OneOf(STATUSES))
    version = fields.Integer()
    created_at = Timestamp()
    expires_at = Timestamp()
    confirmed_at = Timestamp()
    cancelled_at = Timestamp()
    allotted = fields.Boolean()


class KeyAnswer(Answer):
    optional: ClassVar[set[str]] = {"partnerId", "lastUsedOn", "revokedAt"}

    key_id = fields.String()
    partner_id = fields.String()
    admin = fields.Boolean()
    created_at = Timestamp()
    last_used_on = fields.Date()
    revoked_at = Timestamp()


class ChangeAnswer(Answer):
    optional: ClassVar[set[str]] = {"event"}

    version = fields.Integer()
    type = fields.String(validate=validate.OneOf(KINDS))
    reservation_id = fields.UUID(allow_none=True)
    partner_id = fields.String(allow_none=True)
    seats = fields.Integer()
    available_seats = fields.Integer()
    at = Timestamp()
    actor = fields.String(allow_none=True)
    event = fields.Nested(EventMembersAnswer)
