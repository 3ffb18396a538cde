"""The board for people, at `/`: one page that asks the API, as any client does."""

import base64
import hashlib
import re
from importlib import resources

from flask import Blueprint, Response, request

blueprint = Blueprint("board", __name__)

PAGE = resources.files("ticketboss.web").joinpath("board.html").read_text("utf-8")


def _digest(element: str) -> str:
    """Return the page's own script or style as a source of its policy (CSP, section 2.3.1)."""
    (text,) = re.findall(rf"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Nothing but what is in the page, and answers of this service.
POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')};"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


@blueprint.get("/")
def show():
    """Show the board. It holds nobody's data, so it needs no key."""
    response = Response(PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)
