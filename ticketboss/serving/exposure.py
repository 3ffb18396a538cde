"""Who may call: anybody at all only where the operator has said so."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from ticketboss.config import Config

log = logging.getLogger(__name__)


def warn_if_open(config: Config) -> None:
    """Say first of all that whoever reaches the service is believed, where that is so."""
    if config.auth != "keys":
        log.warning("partner ids are believed; with AUTH=keys every call needs a key")


def check_addresses(config: Config, addresses: Iterable[object]) -> None:
    """Exit with one line where more than this machine may call, and nobody said on which terms.

    The addresses are those of sockets: host and port, or the path of a Unix socket.
    """
    hosts = [address[0] for address in addresses if isinstance(address, tuple)]
    for host in hosts:
        if config.auth is None and not _is_loopback(host):
            raise SystemExit(
                f"ticketboss: {host} is not the loopback, so AUTH must be said:"
                " AUTH=keys lets in who has a key, AUTH=open whoever comes, in any partner's name"
            )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):  # a name, which may mean anything
        address = ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False
