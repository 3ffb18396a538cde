"""Keys: `tb_<public id>_<secret>`, by which the service knows who calls.

The public id names a key in lists and in the ledger. The secret ends in check digits
over all before them, so that a typing error is told from a key that is not good any
more, and scanners of secrets can be sure of what they find.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal
from zlib import crc32

# Crockford's base 32: lower case, without the letters that are taken for digits.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# 60 random bits, and 130; a CRC of 32 bits.
ID_LENGTH, SECRET_LENGTH, CHECK_LENGTH = 12, 26, 7

KEY_ID = re.compile(rf"[{ALPHABET}]{{{ID_LENGTH}}}\Z")
# Whatever looks like a key, in a text.
KEY = re.compile(
    rf"tb_([{ALPHABET}]{{{ID_LENGTH}}})_[{ALPHABET}]{{{SECRET_LENGTH + CHECK_LENGTH}}}"
)

# What a key is good for: one partner's calls, every call, or /metrics alone.
Kind = Literal["partner", "admin", "metrics"]


@dataclass(slots=True, kw_only=True)
class Key:
    """A key as the database has it (read_key.sql)."""

    key_id: str
    kind: Kind
    partner_id: str | None
    created_at: datetime
    last_used_on: date | None = None
    revoked_at: datetime | None = None
    digest: bytes = field(default=b"", repr=False)

    @property
    def admin(self) -> bool:
        return self.kind == "admin"

    def opens(self, text: str) -> bool:
        """Tell whether `text` is this key, in the same time whatever it is."""
        return hmac.compare_digest(digest(text), self.digest)


def new() -> tuple[str, str]:
    """Return a new key's public id, and the key."""
    key_id, secret = _random(ID_LENGTH), _random(SECRET_LENGTH)
    body = f"tb_{key_id}_{secret}"
    return key_id, body + _check_digits(body)


def public_id(text: str) -> str | None:
    """Return the public id of a key; None where `text` cannot be one, or is mistyped."""
    match = KEY.fullmatch(text)
    body, check = text[:-CHECK_LENGTH], text[-CHECK_LENGTH:]
    return match[1] if match and check == _check_digits(body) else None


def digest(text: str) -> bytes:
    """Return what is stored of a key. So long a secret needs no slow hash."""
    return hashlib.sha256(text.encode()).digest()


def masked(text: str) -> str:
    """Return a text without the secrets of keys in it."""
    return KEY.sub(r"tb_\1_...", text) if "tb_" in text else text


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _check_digits(body: str) -> str:
    value = crc32(body.encode())
    return "".join(ALPHABET[value >> 5 * place & 31] for place in reversed(range(CHECK_LENGTH)))
