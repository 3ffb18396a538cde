-- Write the changes of one batch, if the event is as their decisions suppose it.
--
-- The statements are in migrations/0002_write_batch.sql.
--
-- One row:  it is written, on top of seen_version; at is the time that all its
--           changes carry.
-- No row:   it is not.
SELECT at, seen_version
FROM write_batch(
    %(event_id)s, %(version)s, %(batch_id)s::uuid, %(sells)s,
    %(needed_seats)s, %(available_change)s, %(total_change)s, %(count_change)s,
    %(edits)s, %(name)s, %(sales_open_at)s::timestamptz, %(sales_close_at)s::timestamptz,
    %(types)s, %(reservation_ids)s::uuid[], %(partner_ids)s::text[], %(seats)s::integer[],
    %(available_changes)s::integer[], %(hold_seconds)s::integer[], %(idempotency_keys)s::text[],
    %(changed_ids)s::uuid[], %(changed_from)s::bigint[], %(changed_to)s::bigint[],
    %(changed_statuses)s::text[], %(changed_seats)s::integer[],
    %(changed_expires_at)s::timestamptz[], %(changed_confirms)s::boolean[]
);
