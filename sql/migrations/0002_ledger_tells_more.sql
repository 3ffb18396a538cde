-- Let the ledger tell more than seats: who made a change, when a hold ends, which
-- key a reservation was made with, and what an event was created with and edited to.
--
-- serves: 1
--
-- What can be derived is not stored: a hold was asked for as many seconds as lie
-- between at and expires_at of its held row, and for as many seats as that row has.
--
-- checksum is hash_record_extended of all the columns before it, in their order: it
-- shows a value that was changed in every table alike. All of these may be null, and
-- are in rows of a release that does not know them: it may serve on beside this one.
ALTER TABLE ledger
    ADD COLUMN actor text,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN idempotency_key text,
    ADD COLUMN details jsonb,
    ADD COLUMN checksum bigint,
    DROP CONSTRAINT ledger_version_positive,
    DROP CONSTRAINT ledger_type_known,
    DROP CONSTRAINT ledger_names_what_changed,
    -- Version 0 is the creation, of which the feed does not tell.
    ADD CONSTRAINT ledger_version_not_negative CHECK (version >= 0) NOT VALID,
    ADD CONSTRAINT ledger_starts_with_the_creation CHECK (
        (version = 0) = (type = 'event_created')
    ) NOT VALID,
    ADD CONSTRAINT ledger_type_known CHECK (
        type IN ('reserved', 'held', 'confirmed', 'reduced', 'extended',
                 'cancelled', 'expired', 'event_created', 'event_updated')
    ) NOT VALID,
    ADD CONSTRAINT ledger_names_what_changed CHECK (
        (type IN ('event_created', 'event_updated')) = (reservation_id IS NULL)
        AND (reservation_id IS NULL) = (partner_id IS NULL)
    ) NOT VALID;
