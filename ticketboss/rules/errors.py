"""The facts a request can meet, and what HTTP says about each of them."""

from datetime import datetime
from typing import Any


class TicketBossError(Exception):
    """A fact that ends a request. Subclasses fix status, code and sentence.

    Members passed to the constructor are added to the JSON of the answer.
    """

    status = 500
    code = "internal_error"
    sentence = "Something went wrong on our side"
    # Whether it says that what was asked for had been done before.
    done_before = False
    # Whom it refused, for the log, where the request itself did not say.
    partner_id: str | None = None

    def __init__(self, sentence: str | None = None, **members: Any):
        super().__init__(sentence or self.sentence)
        self.members = members

    def date(self, undated: object, at: datetime) -> None:
        """Put `at` where a member is `undated`: a time that was not known when it was raised."""
        for name, value in self.members.items():
            if value is undated:
                self.members[name] = at

    def body(self) -> dict[str, Any]:
        return {"error": str(self), "code": self.code, **self.members}


class InvalidRequest(TicketBossError):
    status, code = 400, "invalid_request"
    sentence = "The request is not valid"


class EmptySalesWindow(InvalidRequest):
    sentence = "salesOpenAt must be before salesCloseAt"

    def __init__(self) -> None:
        super().__init__(fields={"salesOpenAt": [self.sentence]})


class PayloadTooLarge(TicketBossError):
    status, code = 413, "payload_too_large"
    sentence = "The body is too large"

    @classmethod
    def than(cls, limit: int) -> "PayloadTooLarge":
        """Say how many bytes a body may have."""
        return cls(f"The body is larger than {limit // 1024} KiB")


class UnsupportedMediaType(TicketBossError):
    status, code = 415, "unsupported_media_type"
    sentence = "The body must be sent as Content-Type: application/json, in UTF-8"


class Unauthorized(TicketBossError):
    status, code = 401, "unauthorized"
    sentence = "This call needs a key: Authorization: Bearer <key>"


class Forbidden(TicketBossError):
    status, code = 403, "forbidden"
    sentence = "This call needs an admin key"


class KeyNotFound(TicketBossError):
    status, code = 404, "key_not_found"
    sentence = "Key not found"


class CrossSite(TicketBossError):
    status, code = 403, "cross_site"
    sentence = "A page of another site cannot change anything here"


class EventNotFound(TicketBossError):
    status, code = 404, "event_not_found"
    sentence = "Event not found"


class ReservationNotFound(TicketBossError):
    status, code = 404, "not_found"
    sentence = "Reservation not found"


class Elsewhere(ReservationNotFound):
    """It is not one of this event; of another, perhaps."""


class CancelledBefore(ReservationNotFound):
    """There is nothing left to cancel: it has been cancelled."""

    code = "already_cancelled"
    done_before = True


class ExpiredBefore(ReservationNotFound):
    """There is nothing left to cancel: the hold ended by itself."""

    code = "hold_expired"


class AlreadyCancelled(TicketBossError):
    status, code = 409, "already_cancelled"
    sentence = "The reservation has been cancelled"


class HoldExpired(TicketBossError):
    status, code = 409, "hold_expired"
    sentence = "The hold has expired"


class HoldLimit(TicketBossError):
    status, code = 409, "hold_limit"
    sentence = "A hold lasts at most 7200 seconds after it was made"


class NotHeld(TicketBossError):
    status, code = 409, "not_held"
    sentence = "The reservation is confirmed and no longer a hold"


class CannotGrow(TicketBossError):
    status, code = 409, "cannot_grow"
    sentence = "A reservation can only give seats back; reserve again for more"


class NotEnoughSeats(TicketBossError):
    status, code = 409, "sold_out"
    sentence = "Not enough seats left"


class PartnerLimit(TicketBossError):
    """A partner would have more seats of an event than its cap lets one have."""

    status, code = 409, "partner_limit"
    sentence = "One partner may not have as many seats of this event"


class ReleasedBefore(InvalidRequest):
    sentence = "releaseAt must be in the future"

    def __init__(self) -> None:
        super().__init__(fields={"releaseAt": [self.sentence]})


class NotOver(InvalidRequest):
    sentence = "An event is archived when its sales are closed and nothing of it is on hold"

    def __init__(self) -> None:
        super().__init__(fields={})


class SalesNotOpen(TicketBossError):
    status, code = 409, "sales_not_open"
    sentence = "Sales for this event have not opened yet"


class SalesClosed(TicketBossError):
    status, code = 409, "sales_closed"
    sentence = "Sales for this event have closed"


class EventExists(TicketBossError):
    status, code = 409, "event_exists"
    sentence = "An event with this id exists"


class CapacityBelowReserved(TicketBossError):
    status, code = 409, "capacity_below_reserved"
    sentence = "More seats are reserved than the new total"


class BatchRefused(TicketBossError):
    """One operation of an atomic batch was refused, and so nothing was made."""

    status, code = 409, "batch_refused"
    sentence = "An operation of the batch was refused, so none was made"


class NotMade(TicketBossError):
    """It could have been made, but for another operation of its atomic batch."""

    status, code = 424, "not_made"
    sentence = "Not made, because another operation of the batch was refused"


class CursorAhead(TicketBossError):
    """Silence would lose the changes up to there: it is a cursor of another feed."""

    status, code = 409, "cursor_ahead"
    sentence = "The event has not got as far as after: this feed did not give that number"


class PreconditionFailed(TicketBossError):
    status, code = 412, "precondition_failed"
    sentence = "If-Match names another version than the current one"


class WeakCondition(PreconditionFailed):
    sentence = 'If-Match never matches a weak tag: send "1" where a proxy made W/"1" of it'


class PreconditionRequired(TicketBossError):
    status, code = 428, "precondition_required"
    sentence = "Send the version that you have seen in If-Match"


class IdempotencyKeyReused(TicketBossError):
    status, code = 422, "idempotency_key_reused"
    sentence = "This Idempotency-Key was used for a different request"


class TooManyRequests(TicketBossError):
    """One partner has its share of the threads in use, or one address keeps guessing keys."""

    status, code = 429, "too_many_requests"
    sentence = "Too many requests at once; try again"


class Unavailable(TicketBossError):
    """The database cannot be reached in time, or takes no statement just now."""

    status, code = 503, "unavailable"
    sentence = "The service cannot reach its database; try again"


class Contention(TicketBossError):
    """Rivals changed the event first, again and again, until the deadline."""

    status, code = 503, "contention"
    sentence = "Too many changes to this event at once; try again"


class Overloaded(TicketBossError):
    """Every connection to the database is in use."""

    status, code = 503, "overloaded"
    sentence = "The service is overloaded; try again"
