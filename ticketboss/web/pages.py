"""The pages for people: the board at `/` and the API at `/docs`, which ask as any client does."""

import base64
import hashlib
import re
from importlib import resources

from flask import Blueprint, Response

from ticketboss.web.conditions import unchanging

blueprint = Blueprint("pages", __name__)

BOARD, DOCS = (
    resources.files("ticketboss.web").joinpath(name).read_text("utf-8")
    for name in ("board.html", "docs.html")
)


@blueprint.get("/")
def board():
    """Show the board."""
    return _page(BOARD)


@blueprint.get("/docs")
def docs():
    """Show all calls, to read and to try."""
    return _page(DOCS)


def _page(text: str) -> Response:
    """Return a page. It holds nobody's data, so it needs no key."""
    response = unchanging(text, "text/html")
    # Nothing but what is in the page, and answers of this service.
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {_digest(text, 'script')};"
        f" style-src {_digest(text, 'style')}; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _digest(text: str, element: str) -> str:
    """Return a page's own script or style as a source of its policy (CSP, section 2.3.1)."""
    (own,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
