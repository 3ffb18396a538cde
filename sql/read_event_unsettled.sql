-- Read an event's numbers as they will be once its expired holds are settled.
--
-- For a reader while the database takes no writes: the version is the one
-- before the settlement, so the answer must carry no ETag.
--
-- One row:  the event, in the columns of read_event.sql.
-- No row:   there is no such event.
SELECT event_id, name, total_seats,
       available_seats + ended.seats - ended.given_back AS available_seats,
       reservation_count - ended.count AS reservation_count,
       version, sales_open_at, sales_close_at, max_seats_per_partner, max_held_seats_per_partner,
       allotted_seats - ended.allotted + ended.given_back AS allotted_seats,
       created_at, now() AS read_at, ended.any AS unsettled
FROM events,
     (
         SELECT count(*) > 0 AS any,
                (count(*) FILTER (WHERE NOT hold.allotment))::integer AS count,
                coalesce(sum(hold.seats), 0)::integer AS seats,
                coalesce(sum(hold.seats) FILTER (WHERE hold.allotment), 0)::integer AS allotted,
                coalesce(sum(hold.seats) FILTER (
                    WHERE source.status = 'held'
                      AND (source.expires_at > now() OR source.expires_at IS NULL)
                ), 0)::integer AS given_back
         FROM reservations AS hold
         LEFT JOIN reservations AS source ON source.reservation_id = hold.drawn_from
         WHERE hold.event_id = %(event_id)s
           AND hold.status = 'held'
           AND hold.expires_at <= now()
     ) AS ended
WHERE event_id = %(event_id)s
  AND archived_version IS NULL;
