"""Who sends a request: its peer or, where that is a proxy of ours, whom the proxy names."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from ticketboss.config import Network


def address(environ: dict, proxies: tuple[Network, ...]) -> str | None:
    """Return the address that a request comes from; None where there is none.

    Each proxy adds to X-Forwarded-For, at its end, who called it. What stands before
    the first that is not ours is what a stranger says, and so is what is no address.
    """
    sender = _read(environ.get("REMOTE_ADDR", ""))
    named = environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if proxies else []
    while named and sender and any(sender in network for network in proxies):
        caller = _read(named.pop().strip())
        if caller is None:
            break
        sender = caller
    return str(sender) if sender else None


@lru_cache(maxsize=1024)
def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        read = ip_address(text)
    except ValueError:
        return None
    # One who speaks IPv4 to a socket that takes both (RFC 4291, section 2.5.5.2).
    return getattr(read, "ipv4_mapped", None) or read
