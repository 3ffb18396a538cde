-- Read an event's row whether or not it is archived.
--
-- One row:  the event, in the columns of read_event.sql; the version it was archived at,
--           null if it lives; and all of the row as its file has it.
-- No row:   there is no such event.
SELECT event_id, name, total_seats, available_seats, reservation_count, version,
       sales_open_at, sales_close_at, max_seats_per_partner, max_held_seats_per_partner,
       allotted_seats, created_at, now() AS read_at, false AS unsettled, archived_version,
       to_jsonb(events) AS whole
FROM events
WHERE event_id = %(event_id)s;
