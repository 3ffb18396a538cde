-- Read an event as it is now, as a function: planned once for a connection, which takes
-- a third of what a read costs. sql/read_event.sql calls it.
--
-- One row:  the event. unsettled: a hold has expired and is not in the ledger yet.
-- No row:   there is no such event.
CREATE FUNCTION {read_event}(p_event_id text)
RETURNS TABLE (
    event_id text, name text, total_seats integer, available_seats integer,
    reservation_count integer, version bigint, sales_open_at timestamptz,
    sales_close_at timestamptz, max_seats_per_partner integer,
    max_held_seats_per_partner integer, allotted_seats integer, created_at timestamptz,
    read_at timestamptz, unsettled boolean)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT e.event_id, e.name, e.total_seats, e.available_seats, e.reservation_count, e.version,
           e.sales_open_at, e.sales_close_at, e.max_seats_per_partner,
           e.max_held_seats_per_partner, e.allotted_seats, e.created_at, now() AS read_at,
           EXISTS (
               SELECT FROM reservations
               WHERE reservations.event_id = p_event_id
                 AND status = 'held'
                 AND expires_at <= now()
           ) AS unsettled
    FROM events AS e
    WHERE e.event_id = p_event_id
      AND e.archived_version IS NULL;
END
$$;
