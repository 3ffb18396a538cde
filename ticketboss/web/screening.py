"""What every request is asked before its call: its address, its headers, where it comes from."""

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from flask import Flask, request

from ticketboss.rules.errors import CrossSite, InvalidRequest

# Headers of which two would leave open which one counts, by the names that WSGI servers parse.
ONCE = {
    "AUTHORIZATION": "Authorization",
    "CONTENT-TYPE": "Content-Type",
    "IDEMPOTENCY-KEY": "Idempotency-Key",
}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


def register(app: Flask) -> None:
    """Screen every request of the application."""
    app.before_request(_screen)


def _screen() -> None:
    environ = request.environ  # of which every look through `request` itself costs more
    _check_address(environ.get("RAW_URI") or request.path)
    _check_headers(environ.get("ticketboss.headers", ()))
    if environ["REQUEST_METHOD"] not in SAFE_METHODS:
        _check_site(environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN"))


def _check_address(raw: str) -> None:
    """Refuse a spelling of an address that a proxy's rule on the raw path would not know."""
    path = raw.partition("?")[0]
    if not path.startswith("/"):  # the absolute form (RFC 9112, section 3.2.2)
        path = "/" + path.partition("://")[2].partition("/")[2]
    if "//" in path or "#" in raw or ("%" in path and not _as_fixed(path)):
        raise InvalidRequest("The address must be spelt as it is documented", fields={})


def _as_fixed(path: str) -> bool:
    """Tell whether all that is fixed in the address stands there letter by letter."""
    if "%2f" in path.lower():
        return False
    if request.url_rule is None:
        return True  # it leads nowhere
    rule = request.url_rule.rule
    pairs = zip(rule.split("/"), path.split("/"), strict=False)  # one may end in a slash
    return all(given == fixed or fixed.startswith("<") for fixed, given in pairs)


def _check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse a second header where one says it all; a proxy may have added it, or a retry.

    As they came: WSGI joins those of one name with a comma, which a key may have in it.
    """
    names = [name for name, _ in headers]
    for name, shown in ONCE.items():
        if names.count(name) > 1:
            raise InvalidRequest(f"{shown} occurs more than once", fields={})


def _check_site(site: str | None, origin: str | None) -> None:
    """Refuse what a page of another site makes a browser send."""
    if site is None and origin is not None:
        # Over plain http browsers do not tell the site.
        host = _host(origin)
        site = "cross-site" if host is None or host != _host(f"//{request.host}") else None
    if site == "cross-site":
        raise CrossSite


def _host(url: str) -> str | None:
    with suppress(ValueError):
        return urlsplit(url).hostname
    return None
