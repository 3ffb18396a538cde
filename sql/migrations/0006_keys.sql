-- Keys of partners and admins: a digest of each, never the key.
--
-- serves: 4
--
-- They are revoked and never removed, so that an actor in the ledger stays known.
CREATE TABLE keys (
    key_id text NOT NULL,
    digest bytea NOT NULL,
    kind text NOT NULL,
    partner_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_on date,
    revoked_at timestamptz,
    CONSTRAINT keys_one_per_id PRIMARY KEY (key_id),
    CONSTRAINT keys_digest_is_one CHECK (length(digest) = 32),
    CONSTRAINT keys_kind_known CHECK (kind IN ('partner', 'admin', 'metrics')),
    CONSTRAINT keys_partner_has_a_name CHECK ((kind = 'partner') = (partner_id IS NOT NULL))
);

-- Lists page along these: all keys, and a partner's.
CREATE INDEX keys_by_creation ON keys (created_at, key_id);
CREATE INDEX keys_by_partner ON keys (partner_id, created_at, key_id);

-- Those that can still be used, the latest first.
CREATE INDEX keys_live ON keys (last_used_on DESC NULLS FIRST) WHERE revoked_at IS NULL;
