-- Read an event's numbers as they will be once its expired holds are settled.
--
-- For a reader while the database takes no writes: the version is the one
-- before the settlement, so the answer must carry no ETag.
--
-- One row:  the event, in the columns of read_event.sql.
-- No row:   there is no such event.
SELECT event_id, name, total_seats,
       available_seats + expired.seats AS available_seats,
       reservation_count - expired.count AS reservation_count,
       version, sales_open_at, sales_close_at, created_at, now() AS read_at,
       expired.count > 0 AS unsettled
FROM events,
     (
         SELECT count(*)::integer AS count, coalesce(sum(seats), 0)::integer AS seats
         FROM reservations
         WHERE event_id = %(event_id)s
           AND status = 'held'
           AND expires_at <= now()
     ) AS expired
WHERE event_id = %(event_id)s;
