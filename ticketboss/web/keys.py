"""The keys of partners and admins, for admins: `/api/v1/keys`."""

from flask import Blueprint, jsonify

from ticketboss.rules.errors import KeyNotFound
from ticketboss.rules.keys import KEY_ID, new
from ticketboss.web import lists, schemas
from ticketboss.web.access import require_admin
from ticketboss.web.bodies import read_object
from ticketboss.web.current import keys

blueprint = Blueprint("keys", __name__, url_prefix="/api/v1")

KEY = schemas.KeyAnswer()
CREATE = schemas.CreateKeyRequest()
KEYS = schemas.KeysQuery()


@blueprint.post("/keys")
def create():
    """Create a key (admin). No other answer shows it."""
    require_admin()
    partner_id = CREATE.read(read_object()).get("partner_id")
    key_id, text = new()
    key = keys.create(key_id, text, "partner" if partner_id else "admin", partner_id)
    location = f"/api/v1/keys/{key_id}"
    return {**KEY.dump(key), "key": text}, 201, {"Location": location}


@blueprint.get("/keys")
def index():
    """List the keys, newest last (admin)."""
    require_admin()
    query = KEYS.read(lists.query())
    after = None
    if query["after"] is not None:
        after = lists.place(query["after"])
        last = keys.read(after)
        if last is None or query["partner_id"] not in (None, last.partner_id):
            raise lists.not_a_cursor()
    listed = keys.list(query["partner_id"], after, query["limit"] + 1)
    page = listed[: query["limit"]]
    return jsonify(
        items=[KEY.dump(key) for key in page],
        next=lists.cursor(page[-1].key_id) if len(listed) > len(page) else None,
    )


@blueprint.delete("/keys/<key_id>")
def revoke(key_id: str):
    """End a key, everywhere within half a minute (admin)."""
    require_admin()
    if not KEY_ID.match(key_id) or not keys.revoke(key_id):
        raise KeyNotFound
    return "", 204
