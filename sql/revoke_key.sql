-- Revoke a key, once: a second time leaves it as it is.
--
-- One row:  it is revoked.
-- No row:   there is no such key.
UPDATE keys
SET revoked_at = coalesce(revoked_at, now())
WHERE key_id = %(key_id)s
RETURNING key_id;
