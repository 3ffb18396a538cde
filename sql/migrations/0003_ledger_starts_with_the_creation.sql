-- Enter the creation of the events that are there already, and check the rows that
-- are there against the constraints of 0002: a migration of its own, which reads all
-- of the ledger and locks out nobody.
--
-- serves: 1
--
-- What an event was called, and when it was on sale, is known only if it was never
-- edited; details are null where it is not.
ALTER TABLE ledger VALIDATE CONSTRAINT ledger_version_not_negative;
ALTER TABLE ledger VALIDATE CONSTRAINT ledger_starts_with_the_creation;
ALTER TABLE ledger VALIDATE CONSTRAINT ledger_type_known;
ALTER TABLE ledger VALIDATE CONSTRAINT ledger_names_what_changed;

WITH entry AS (
    SELECT event_id, 0::bigint AS version, 'event_created' AS type, NULL::uuid AS reservation_id,
           NULL::text AS partner_id, initial_seats AS seats, initial_seats AS available_seats,
           created_at AS at, gen_random_uuid() AS batch_id, NULL::text AS actor,
           NULL::timestamptz AS expires_at, NULL::text AS idempotency_key,
           CASE WHEN event_id NOT IN (SELECT event_id FROM ledger WHERE type = 'event_updated')
                THEN jsonb_build_object('event', jsonb_build_object(
                    'name', name,
                    'total_seats', initial_seats,
                    'sales_open_at', to_char(sales_open_at AT TIME ZONE 'UTC',
                                             'YYYY-MM-DD"T"HH24:MI:SS.US+00:00'),
                    'sales_close_at', to_char(sales_close_at AT TIME ZONE 'UTC',
                                              'YYYY-MM-DD"T"HH24:MI:SS.US+00:00')
                ))
           END AS details
    FROM events
)
INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats, available_seats,
                    at, batch_id, actor, expires_at, idempotency_key, details, checksum)
SELECT entry.*, hash_record_extended(entry, 0)
FROM entry;
