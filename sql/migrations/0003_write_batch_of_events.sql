-- One transaction for the changes of several events, where 0002 wrote one event's.
DROP FUNCTION write_batch;

-- The one way in which an event's seats change, as a function: PostgreSQL then plans
-- its statements once for a connection instead of once for each batch, which takes
-- as long as running them. Its form is fixed; sql/write_batch.sql calls it.
--
-- A batch has a part for each of its events, and each part is written as a whole
-- or not at all. It is left out if the event's version differs from the one seen
-- (where one was seen), if the event has fewer seats than the part needs on its
-- way, if seats would be sold outside the sales window, if a hold has expired and
-- is not settled (its seats belong to the pool), if a reservation that the part
-- changes has been changed since it was read, or if an idempotency key that it
-- supposes to be new has been used: no row comes back for it then. It is
-- also left out, and comes back as not written, if another transaction has the
-- event's row at this moment: waiting for one row would hold up all the others.
-- Otherwise: the event's row, one ledger row per change, one row per new
-- reservation, and the rows of those that change.
--
-- Every row is found by an index, whatever old statistics say: a plan made while
-- the tables were small is kept, and a whole table that is read is a conflict
-- with every transaction that writes to it.
CREATE FUNCTION write_batch(p_batch_id uuid, p_parts jsonb)
RETURNS TABLE (event_id text, seen_version bigint, written boolean, at timestamptz)
LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_event_ids text[];
    v_seen_versions bigint[];
    v_written boolean[];
BEGIN
    WITH part AS MATERIALIZED (
        SELECT *
        FROM jsonb_to_recordset(p_parts) AS part (
            event_id text, version bigint, sells boolean, brings_keys boolean,
            needed_seats integer, available_change integer, count_change integer,
            changes jsonb, changed jsonb)
    ), seen AS (
        SELECT event_id, events.version, events.available_seats,
               available_change, count_change, changes
        FROM part
        JOIN events USING (event_id)
        WHERE events.version = coalesce(part.version, events.version)
          AND available_seats >= needed_seats
          AND (NOT sells
               OR (sales_open_at IS NULL OR sales_open_at <= now())
              AND (sales_close_at IS NULL OR now() < sales_close_at))
          AND NOT EXISTS (
              SELECT FROM reservations
              WHERE reservations.event_id = part.event_id
                AND status = 'held'
                AND expires_at <= now()
          )
          AND (part.version IS NOT NULL OR NOT brings_keys OR NOT EXISTS (
              SELECT
              FROM jsonb_to_recordset(changes) AS brought (partner_id text, idempotency_key text)
              JOIN reservations USING (partner_id, idempotency_key)
          ))
          AND (jsonb_array_length(changed) = 0 OR NOT EXISTS (
              SELECT
              FROM jsonb_to_recordset(changed) AS was (reservation_id uuid, seen_version bigint)
              JOIN reservations USING (reservation_id)
              WHERE reservations.version <> was.seen_version
          ))
    ), free AS (
        SELECT events.event_id
        FROM seen
        JOIN events ON events.event_id = seen.event_id AND events.version = seen.version
        FOR NO KEY UPDATE OF events SKIP LOCKED
    ), written AS (
        UPDATE events
        SET available_seats = events.available_seats + available_change,
            reservation_count = reservation_count + count_change,
            version = events.version + jsonb_array_length(changes)
        FROM seen
        JOIN free USING (event_id)
        WHERE events.event_id = seen.event_id
          AND events.version = seen.version
        RETURNING seen.event_id, seen.version, seen.available_seats, changes
    ), change AS (
        SELECT event_id, written.version + position AS version, type, reservation_id,
               partner_id, seats, written.available_seats + change.available_change AS available_seats,
               hold_seconds, idempotency_key
        FROM written,
             ROWS FROM (jsonb_to_recordset(changes) AS (
                 type text, reservation_id uuid, partner_id text, seats integer,
                 available_change integer, hold_seconds integer, idempotency_key text
             )) WITH ORDINALITY AS change (
                 type, reservation_id, partner_id, seats,
                 available_change, hold_seconds, idempotency_key, position)
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
    SELECT array_agg(seen.event_id), array_agg(seen.version),
           array_agg(written.event_id IS NOT NULL)
    INTO v_event_ids, v_seen_versions, v_written
    FROM seen
    LEFT JOIN written USING (event_id);

    IF jsonb_path_exists(p_parts, '$[*].changed[*]') THEN
        UPDATE reservations
        SET status = change.status,
            seats = change.seats,
            version = seen_version + change.version,
            expires_at = change.expires_at,
            confirmed_at = CASE WHEN confirms THEN now() ELSE confirmed_at END,
            cancelled_at = CASE change.status WHEN 'cancelled' THEN now() END
        FROM unnest(v_event_ids, v_seen_versions, v_written)
             AS outcome (event_id, seen_version, written)
        JOIN jsonb_to_recordset(p_parts) AS part (event_id text, changed jsonb) USING (event_id),
             jsonb_to_recordset(changed) AS change (
                 reservation_id uuid, version bigint, status text, seats integer,
                 expires_at timestamptz, confirms boolean)
        WHERE reservations.reservation_id = change.reservation_id
          AND written;
    END IF;
    RETURN QUERY
        SELECT outcome.event_id, outcome.seen_version, outcome.written, now()
        FROM unnest(v_event_ids, v_seen_versions, v_written)
             AS outcome (event_id, seen_version, written);
END
$$;
