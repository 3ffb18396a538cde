"""Every error that the service can send: when it does, and what to do about it.

The document at /openapi.json is made from it, and the table in docs/api.md says the same.
"""

from typing import NamedTuple


class Refusal(NamedTuple):
    """An error as its client meets it. `members` are those that it may have of its own."""

    status: int
    code: str
    when: str
    remedy: str
    members: tuple[str, ...] = ()


REFUSALS = (
    Refusal(
        400,
        "invalid_request",
        "the body, query, path or a header is not as it must be; `fields` lists the faults by"
        " member, as many as fit; also what is no HTTP at all",
        "mend the request",
        ("fields",),
    ),
    Refusal(
        401,
        "unauthorized",
        "no key where one is needed, or one that is mistyped, revoked or unknown",
        "send `Authorization: Bearer <key>`",
    ),
    Refusal(
        403,
        "forbidden",
        "the key is good, but not for this: an admin call, or another partner's `partnerId`",
        "use the key that it takes",
    ),
    Refusal(
        403,
        "cross_site",
        "a page of another site made a browser send a change",
        "change things from a server, or from a page of this site",
    ),
    Refusal(
        404,
        "event_not_found",
        "there is no event with this id",
        "check the id",
    ),
    Refusal(
        404,
        "key_not_found",
        "there is no key with this public id",
        "check the id",
    ),
    Refusal(
        404,
        "not_found",
        "there is no reservation with this id",
        "check the id",
    ),
    Refusal(
        404,
        "already_cancelled",
        "cancel: it was cancelled before, at `cancelledAt`",
        "nothing; the seats are back",
        ("cancelled_at",),
    ),
    Refusal(
        404,
        "hold_expired",
        "cancel: the hold ended by itself",
        "nothing; the seats are back",
    ),
    Refusal(
        404,
        "route_not_found",
        "nothing is at this address",
        "check the path",
    ),
    Refusal(
        405,
        "method_not_allowed",
        "the address does not take this method; `Allow` names those that it takes",
        "use one of them",
    ),
    Refusal(
        408,
        "request_timeout",
        "the request has not arrived as a whole within 10 s",
        "send it again, on a new connection",
    ),
    Refusal(
        409,
        "sold_out",
        "fewer seats left (`availableSeats`) than asked for (`requestedSeats`), at the event's"
        " `version`",
        "ask for fewer, or later",
        ("requested_seats", "available_seats", "version"),
    ),
    Refusal(
        409,
        "partner_limit",
        "the partner would have more seats than `cap` (the member's name) lets it have:"
        " `limit`, `partnerSeats`, `remaining`, at `version`",
        "ask for at most `remaining`",
        ("cap", "limit", "partner_seats", "remaining", "version"),
    ),
    Refusal(
        409,
        "sales_not_open",
        "sales open at `salesOpenAt`",
        "wait",
        ("sales_open_at", "version"),
    ),
    Refusal(
        409,
        "sales_closed",
        "reserve, hold or extend: sales closed at `salesCloseAt`",
        "nothing; confirming, reducing and cancelling still work",
        ("sales_close_at", "version"),
    ),
    Refusal(
        409,
        "already_cancelled",
        "confirm, extend or reduce: it was cancelled, at `cancelledAt`",
        "reserve again",
        ("cancelled_at",),
    ),
    Refusal(
        409,
        "hold_expired",
        "confirm, extend or reduce: the hold has ended",
        "reserve again",
    ),
    Refusal(
        409,
        "hold_limit",
        "extend: past `latestExpiresAt`, 7,200 s after the hold was made",
        "extend by less, or confirm",
        ("latest_expires_at",),
    ),
    Refusal(
        409,
        "not_held",
        "extend: the reservation is confirmed",
        "nothing; it does not end",
    ),
    Refusal(
        409,
        "cannot_grow",
        "reduce: more than its `seats`",
        "make another reservation for more",
        ("seats",),
    ),
    Refusal(
        409,
        "event_exists",
        "create: the id is taken",
        "choose another, or edit that one",
    ),
    Refusal(
        409,
        "capacity_below_reserved",
        "edit: more seats are reserved (`minimumSeats`) than the new total",
        "keep at least that many",
        ("minimum_seats", "version"),
    ),
    Refusal(
        409,
        "cursor_ahead",
        "the event is at `version` and has not got as far as `after`: the service was restored"
        " from a backup, or `after` is from another one",
        "start over from a version that both know",
        ("version",),
    ),
    Refusal(
        409,
        "batch_refused",
        "an operation of an atomic batch was refused; `items` says which, and why",
        "mend that one, or send the others without it",
        ("items",),
    ),
    Refusal(
        412,
        "precondition_failed",
        "`If-Match` names another version than the current `version`",
        "read again, decide again",
        ("version",),
    ),
    Refusal(
        413,
        "payload_too_large",
        "the body is larger than 16 KiB",
        "send less",
    ),
    Refusal(
        414,
        "uri_too_long",
        "the request line is longer than 4,094 bytes",
        "send less",
    ),
    Refusal(
        415,
        "unsupported_media_type",
        "the body is not `application/json` in UTF-8, or is compressed",
        "send that",
    ),
    Refusal(
        417,
        "expectation_failed",
        "`Expect` asks for something other than `100-continue`",
        "leave it out",
    ),
    Refusal(
        422,
        "idempotency_key_reused",
        "the key was used by this partner for another event, number of seats or hold",
        "use a key per order",
    ),
    Refusal(
        424,
        "not_made",
        "in `items` of a refused batch: it could have been made",
        "send it again with what was refused mended, or without that",
    ),
    Refusal(
        428,
        "precondition_required",
        "an edit of an event without `If-Match`",
        "send the version that was seen",
    ),
    Refusal(
        429,
        "too_many_requests",
        "the partner has its share of requests in progress, or wrong keys come too fast",
        "try again after `Retry-After`",
    ),
    Refusal(
        431,
        "request_header_fields_too_large",
        "a header is longer than 4,094 bytes, or there are more than 50",
        "send fewer",
    ),
    Refusal(
        500,
        "internal_error",
        "a bug; the log has it under `requestId`",
        "report it",
    ),
    Refusal(
        501,
        "not_implemented",
        "a `Transfer-Encoding` that is not supported",
        "use `chunked`, or a `Content-Length`",
    ),
    Refusal(
        503,
        "unavailable",
        "the database cannot be reached in time; a change whose connection broke may or may"
        " not have been made",
        "try again after `Retry-After`, with the same `Idempotency-Key`",
    ),
    Refusal(
        503,
        "contention",
        "other changes of the event came first until the deadline of 5 s",
        "try again after `Retry-After`",
    ),
    Refusal(
        503,
        "overloaded",
        "no connection to the database became free in time",
        "try again after `Retry-After`",
    ),
)
