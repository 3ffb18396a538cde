-- Read several events as they are now, for decisions. (For one, read_event.sql costs
-- the database a fifth less.)
--
-- A row each:  the event, in the columns of read_event.sql, and whether it is durable: whether
-- this is a primary that waits for no standby, so that what can be seen is as safe as it gets.
SELECT event_id, name, total_seats, available_seats, reservation_count, version,
       sales_open_at, sales_close_at, max_seats_per_partner, max_held_seats_per_partner,
       allotted_seats, created_at, now() AS read_at,
       EXISTS (
           SELECT FROM reservations
           WHERE reservations.event_id = events.event_id
             AND status = 'held'
             AND expires_at <= now()
       ) AS unsettled,
       current_setting('synchronous_standby_names') = '' AND NOT pg_is_in_recovery() AS durable
FROM events
WHERE event_id = ANY (%(event_ids)s)
  AND archived_version IS NULL;
