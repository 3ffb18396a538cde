-- The one way in which an event changes, as a function: PostgreSQL then plans
-- its statements once for a connection instead of once for each batch, which
-- takes as long as running them. Its form is fixed; sql/write_batch.sql calls it.
--
-- Nothing is written if the event's version differs from the one seen (where one
-- was seen), if it has fewer seats than the batch needs on its way, if seats would
-- be sold outside the sales window, if a hold has expired and is not settled (its
-- seats belong to the pool), or if a reservation that the batch changes has been
-- changed since it was read. Otherwise: the event's row, one ledger row per
-- change, one row per new reservation, and the rows of those that change.
--
-- Every row is found by an index, whatever old statistics say: a plan made while
-- the tables were small is kept, and a whole table that is read is a conflict
-- with every transaction that writes to it.
CREATE FUNCTION write_batch(
    p_event_id text,
    p_version bigint,
    p_batch_id uuid,
    p_sells boolean,
    p_needed_seats integer,
    p_available_change integer,
    p_total_change integer,
    p_count_change integer,
    p_edits boolean,
    p_name text,
    p_sales_open_at timestamptz,
    p_sales_close_at timestamptz,
    -- One of each for every change, in their order.
    p_types text[],
    p_reservation_ids uuid[],
    p_partner_ids text[],
    p_seats integer[],
    p_available_changes integer[],
    p_hold_seconds integer[],
    p_idempotency_keys text[],
    -- One of each for every reservation that existed before, as it ends.
    p_changed_ids uuid[],
    p_changed_from bigint[],
    p_changed_to bigint[],
    p_changed_statuses text[],
    p_changed_seats integer[],
    p_changed_expires_at timestamptz[],
    p_changed_confirms boolean[],
    OUT at timestamptz,
    OUT seen_version bigint
) RETURNS SETOF record
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    WITH seen AS (
        SELECT version, available_seats
        FROM events
        WHERE event_id = p_event_id
          AND version = coalesce(p_version, version)
          AND available_seats >= p_needed_seats
          AND (NOT p_sells
               OR (sales_open_at IS NULL OR sales_open_at <= now())
              AND (sales_close_at IS NULL OR now() < sales_close_at))
          AND NOT EXISTS (
              SELECT FROM reservations
              WHERE reservations.event_id = p_event_id
                AND status = 'held'
                AND expires_at <= now()
          )
          AND (cardinality(p_changed_ids) = 0 OR NOT EXISTS (
              SELECT FROM unnest(p_changed_ids, p_changed_from) AS was (reservation_id, version)
              JOIN reservations USING (reservation_id)
              WHERE reservations.version <> was.version
          ))
    ), written AS (
        UPDATE events
        SET available_seats = events.available_seats + p_available_change,
            total_seats = total_seats + p_total_change,
            reservation_count = reservation_count + p_count_change,
            version = events.version + cardinality(p_types),
            name = CASE WHEN p_edits THEN p_name ELSE name END,
            sales_open_at = CASE WHEN p_edits THEN p_sales_open_at ELSE sales_open_at END,
            sales_close_at = CASE WHEN p_edits THEN p_sales_close_at ELSE sales_close_at END
        FROM seen
        WHERE events.event_id = p_event_id
          AND events.version = seen.version
        RETURNING event_id, seen.version AS seen_version, seen.available_seats AS seen_seats
    ), change AS (
        SELECT event_id, written.seen_version + position AS version, type, reservation_id,
               partner_id, seats, seen_seats + available_change AS available_seats,
               hold_seconds, idempotency_key
        FROM written,
             unnest(p_types, p_reservation_ids, p_partner_ids, p_seats, p_available_changes,
                    p_hold_seconds, p_idempotency_keys)
             WITH ORDINALITY AS change (type, reservation_id, partner_id, seats, available_change,
                                        hold_seconds, idempotency_key, position)
    ), entered AS (
        INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                            available_seats, at, batch_id)
        SELECT event_id, version, type, reservation_id, partner_id, seats,
               available_seats, now(), p_batch_id
        FROM change
    ), created AS (
        INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,
                                  status, version, created_at, expires_at, confirmed_at,
                                  requested_seats, hold_seconds, idempotency_key)
        SELECT event_id, version, reservation_id, partner_id, seats,
               CASE type WHEN 'held' THEN 'held' ELSE 'confirmed' END,
               version, now(), now() + hold_seconds * interval '1 second',
               CASE type WHEN 'reserved' THEN now() END,
               seats, hold_seconds, idempotency_key
        FROM change
        WHERE type IN ('reserved', 'held')
    )
    SELECT now(), written.seen_version INTO at, seen_version FROM written;

    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF cardinality(p_changed_ids) > 0 THEN
        UPDATE reservations
        SET status = change.status,
            seats = change.seats,
            version = write_batch.seen_version + change.version,
            expires_at = change.expires_at,
            confirmed_at = CASE WHEN confirms THEN now() ELSE confirmed_at END,
            cancelled_at = CASE change.status WHEN 'cancelled' THEN now() END
        FROM unnest(p_changed_ids, p_changed_to, p_changed_statuses, p_changed_seats,
                    p_changed_expires_at, p_changed_confirms)
             AS change (reservation_id, version, status, seats, expires_at, confirms)
        WHERE reservations.reservation_id = change.reservation_id;
    END IF;
    RETURN NEXT;
END
$$;
