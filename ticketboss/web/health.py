"""Whether this instance can serve, for load balancers and supervisors."""

from flask import Blueprint, Response, jsonify

from ticketboss.logs import RELEASE
from ticketboss.rules import limits
from ticketboss.web.current import store

blueprint = Blueprint("health", __name__)


@blueprint.get("/api/v1/health")
def health():
    """Tell whether this instance can sell: in the last second, or now."""
    if store.takes_writes():
        return _answer(200, "ok", "TicketBoss API is running")
    return _answer(
        503, "unavailable", "TicketBoss cannot reach its database, or cannot write to it"
    )


@blueprint.get("/livez")
def live():
    """Tell that this process can answer, whatever the database does, and its release."""
    return _answer(200, "ok", "TicketBoss is alive", version=RELEASE)


def _answer(code: int, status: str, message: str, **more: str) -> Response:
    response = jsonify(status=status, message=message, **more)
    response.status_code = code
    response.headers["Cache-Control"] = "no-store"
    if code == 503:
        response.headers["Retry-After"] = str(limits.RETRY_AFTER)
    return response
