-- The one way in which an event's seats change, as a function: PostgreSQL then plans
-- its statements once for a connection instead of once for each batch, which takes
-- as long as running them. sql/write_batch.sql calls it.
--
-- A batch has a part for each of its events, and each part is written as a whole
-- or not at all. It is left out if the event's version differs from the one seen
-- (where one was seen), if the event has fewer seats than the part needs on its
-- way, if seats would be sold outside the sales window, if a hold has expired and
-- is not settled (its seats belong to the pool) by this very part, or if a reservation that the part
-- changes has been changed since it was read: no row comes back for it then. It is
-- also left out, and comes back as not written, if another transaction has the
-- event's row, or one of the reservations that it changes, at this moment: waiting
-- for one row would hold up all the others. Then stuck_ids are those reservations.
-- Of an atomic batch all parts are left out where one is. Otherwise: the event's
-- row, one ledger row per change, one row per new reservation, and the rows of those
-- that change.
--
-- Every row is found by an index, whatever the statistics say: a plan made while
-- the tables were small is kept, and what is read in passing is a conflict with
-- every transaction that writes to it. So no table is ever joined: a subquery
-- with a LIMIT finds each row by its key, or = ANY names the keys of all. Where
-- several indexes would do, an ORDER BY tells which.
CREATE FUNCTION {write_batch}(p_batch_id uuid, p_parts jsonb, p_atomic boolean)
RETURNS TABLE (
    event_id text, seen_version bigint, written boolean, at timestamptz, stuck_ids uuid[])
LANGUAGE plpgsql
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_event_ids text[];
    v_seen_versions bigint[];
    v_locked_ids text[];
    v_locked_versions bigint[];
    v_changed_ids uuid[];
    v_stuck_ids uuid[];
BEGIN
    WITH seen AS MATERIALIZED (
        SELECT event_id, event.version
        FROM jsonb_to_recordset(p_parts) AS part (
            event_id text, version bigint, sells boolean, settles boolean, needed_seats integer,
            changed jsonb)
        CROSS JOIN LATERAL (
            SELECT version
            FROM events
            WHERE events.event_id = part.event_id
              AND version = coalesce(part.version, version)
              AND archived_version IS NULL
              AND available_seats >= needed_seats
              AND (NOT sells
                   OR (sales_open_at IS NULL OR sales_open_at <= now())
                  AND (sales_close_at IS NULL OR now() < sales_close_at)
                  -- What is supposed has no rules of its own.
                  AND (part.version IS NOT NULL
                       OR max_seats_per_partner IS NULL
                      AND max_held_seats_per_partner IS NULL
                      AND allotted_seats = 0))
            LIMIT 1
        ) AS event
        WHERE (settles OR (
            SELECT expires_at
            FROM reservations
            WHERE reservations.event_id = part.event_id
              AND status = 'held'
            ORDER BY expires_at
            LIMIT 1
        ) <= now() IS NOT TRUE)
          AND NOT EXISTS (
              SELECT
              FROM jsonb_to_recordset(changed) AS was (reservation_id uuid, seen_version bigint)
              WHERE seen_version <> (
                  SELECT version
                  FROM reservations
                  WHERE reservations.reservation_id = was.reservation_id
              )
          )
    ), free AS (
        SELECT event_id
        FROM seen
        CROSS JOIN LATERAL (
            SELECT
            FROM events
            WHERE events.event_id = seen.event_id
              AND events.version = seen.version
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS event
    )
    SELECT array_agg(event_id) FILTER (WHERE free.event_id IS NOT NULL),
           array_agg(version) FILTER (WHERE free.event_id IS NOT NULL),
           array_agg(event_id) FILTER (WHERE free.event_id IS NULL),
           array_agg(version) FILTER (WHERE free.event_id IS NULL)
    INTO v_event_ids, v_seen_versions, v_locked_ids, v_locked_versions
    FROM seen
    LEFT JOIN free USING (event_id);

    v_changed_ids := ARRAY(
        SELECT reservation_id
        FROM jsonb_to_recordset(p_parts) AS part (event_id text, changed jsonb),
             jsonb_to_recordset(changed) AS change (reservation_id uuid)
        WHERE event_id = ANY (v_event_ids)
    );
    IF cardinality(v_changed_ids) > 0 THEN
        v_stuck_ids := ARRAY(
            SELECT unnest(v_changed_ids)
            EXCEPT
            SELECT reservation_id
            FROM (
                SELECT reservation_id
                FROM reservations
                WHERE reservation_id = ANY (v_changed_ids)
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS free
        );
    END IF;
    IF cardinality(v_stuck_ids) > 0 THEN
        SELECT array_agg(seen.event_id) FILTER (WHERE NOT stuck),
               array_agg(seen.version) FILTER (WHERE NOT stuck),
               v_locked_ids || array_agg(seen.event_id) FILTER (WHERE stuck),
               v_locked_versions || array_agg(seen.version) FILTER (WHERE stuck)
        INTO v_event_ids, v_seen_versions, v_locked_ids, v_locked_versions
        FROM unnest(v_event_ids, v_seen_versions) AS seen (event_id, version)
        JOIN jsonb_to_recordset(p_parts) AS part (event_id text, changed jsonb) USING (event_id)
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT
                FROM jsonb_to_recordset(changed) AS change (reservation_id uuid)
                WHERE reservation_id = ANY (v_stuck_ids)
            ) AS stuck
        ) AS found;
    END IF;

    IF p_atomic AND jsonb_array_length(p_parts) > coalesce(cardinality(v_event_ids), 0) THEN
        v_event_ids := '{}';
        v_seen_versions := '{}';
        v_changed_ids := '{}';
    END IF;

    WITH written AS (
        UPDATE events
        SET available_seats = events.available_seats + available_change,
            reservation_count = reservation_count + count_change,
            allotted_seats = events.allotted_seats + allotted_change,
            version = events.version + jsonb_array_length(changes)
        FROM unnest(v_event_ids, v_seen_versions) AS seen (event_id, version)
        JOIN jsonb_to_recordset(p_parts) AS part (
            event_id text, available_change integer, count_change integer,
            allotted_change integer, changes jsonb)
          USING (event_id)
        WHERE events.event_id = ANY (v_event_ids)
          AND events.event_id = seen.event_id
          AND events.version = seen.version
        RETURNING events.event_id, seen.version, changes,
                  events.available_seats - available_change AS available_seats
    ), change AS (
        SELECT event_id, written.version + position AS version, type, reservation_id,
               partner_id, seats, available_seats + available_change AS available_seats, actor,
               coalesce(expires_at, now() + hold_seconds * interval '1 second') AS expires_at,
               hold_seconds, idempotency_key, creates, drawn_from, details
        FROM written,
             ROWS FROM (jsonb_to_recordset(changes) AS (
                 type text, reservation_id uuid, partner_id text, seats integer,
                 available_change integer, actor text, expires_at timestamptz,
                 hold_seconds integer, idempotency_key text, creates boolean, drawn_from uuid,
                 details jsonb
             )) WITH ORDINALITY AS change (
                 type, reservation_id, partner_id, seats, available_change, actor, expires_at,
                 hold_seconds, idempotency_key, creates, drawn_from, details, position)
    ), entry AS (
        SELECT event_id, version, type, reservation_id, partner_id, seats, available_seats,
               now() AS at, p_batch_id AS batch_id, actor, expires_at, idempotency_key, details
        FROM change
    ), entered AS (
        INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                            available_seats, at, batch_id, actor, expires_at, idempotency_key,
                            details, checksum)
        SELECT entry.*, hash_record_extended(entry, 0)
        FROM entry
    )
    INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,
                              status, version, created_at, expires_at, confirmed_at,
                              requested_seats, hold_seconds, idempotency_key, allotment,
                              drawn_from)
    SELECT event_id, version, reservation_id, partner_id, seats,
           CASE type WHEN 'reserved' THEN 'confirmed' ELSE 'held' END,
           version, now(), expires_at,
           CASE type WHEN 'reserved' THEN now() END,
           seats, hold_seconds, idempotency_key, type = 'allotted', drawn_from
    FROM change
    WHERE creates;

    IF cardinality(v_changed_ids) > 0 THEN
        UPDATE reservations
        SET status = change.status,
            seats = change.seats,
            requested_seats = change.requested_seats,
            version = seen.version + change.version,
            expires_at = change.expires_at,
            confirmed_at = CASE WHEN confirms THEN now() ELSE confirmed_at END,
            cancelled_at = CASE change.status WHEN 'cancelled' THEN now() END
        FROM unnest(v_event_ids, v_seen_versions) AS seen (event_id, version)
        JOIN jsonb_to_recordset(p_parts) AS part (event_id text, changed jsonb) USING (event_id),
             jsonb_to_recordset(changed) AS change (
                 reservation_id uuid, version bigint, status text, seats integer,
                 requested_seats integer, expires_at timestamptz, confirms boolean)
        WHERE reservations.reservation_id = ANY (v_changed_ids)
          AND reservations.reservation_id = change.reservation_id;
    END IF;

    RETURN QUERY
        SELECT seen.event_id, seen.version, true, now(), NULL::uuid[]
        FROM unnest(v_event_ids, v_seen_versions) AS seen (event_id, version)
        UNION ALL
        SELECT seen.event_id, seen.version, false, now(), v_stuck_ids
        FROM unnest(v_locked_ids, v_locked_versions) AS seen (event_id, version);
END
$$;
