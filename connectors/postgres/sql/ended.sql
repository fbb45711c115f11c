-- A5: what ended unclaimed and was not closed in time. Turn, outcome and timeline come from one
-- statement; each is left to this caller for `p_grace`.
CREATE OR REPLACE FUNCTION sweep(p_limit integer, p_grace interval) RETURNS SETOF ledger_row
LANGUAGE sql AS $$
  WITH due AS (
    SELECT tenant, turn_id FROM ended WHERE at <= clock_timestamp()
     ORDER BY at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), taken AS (
    UPDATE ended e SET at = clock_timestamp() + p_grace FROM due d
     WHERE e.tenant = d.tenant AND e.turn_id = d.turn_id RETURNING e.tenant, e.turn_id
  )
  SELECT 'ended', u.thread_key, t.partition, timeline(), NULL::bigint, u.tenant, u.turn_id, u.seq,
         NULL::bigint,
         u.kind, u.graph, u.origin, u.body, u.src_topic, u.src_part, u.src_off,
         NULL::bigint, NULL::bigint, NULL::bigint, NULL::jsonb, u.attempts, u.outcome, NULL::text,
         NULL::boolean, NULL::bigint, NULL::jsonb, NULL::jsonb, NULL::text, NULL::json,
         NULL::double precision
    FROM taken x JOIN turns u USING (tenant, turn_id) JOIN threads t USING (thread_key)
$$;

-- The ends are in the log: close their turns, if the timeline is still the one they were decided in.
CREATE OR REPLACE FUNCTION close_ended(
  p_key text[], p_turn uuid[], p_off bigint[], p_timeline bigint
) RETURNS integer LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  done integer;
BEGIN
  IF timeline() <> p_timeline THEN
    RETURN 0;
  END IF;
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;
  WITH x AS MATERIALIZED (
    SELECT k, split_part(k, '/', 1) AS tenant, turn_id, off
      FROM unnest(p_key, p_turn, p_off) AS y(k, turn_id, off)
  ), gone AS (
    DELETE FROM ended e USING x WHERE e.tenant = x.tenant AND e.turn_id = x.turn_id
    RETURNING x.k, x.tenant, x.turn_id, x.off
  ), closed AS (
    UPDATE turns u SET closed_at = now(), first_off = g.off
      FROM gone g WHERE u.tenant = g.tenant AND u.turn_id = g.turn_id
  ), span AS (
    UPDATE threads t
       -- a turn that runs may have begun before this end, and not have told where
       SET first_off = CASE WHEN t.head IS NULL THEN coalesce(t.first_off, g.low) ELSE t.first_off END,
           last_off = greatest(t.last_off, g.high)
      FROM (SELECT k, min(off) AS low, max(off) AS high FROM gone GROUP BY k) g
     WHERE t.thread_key = g.k
  )
  SELECT count(*) INTO done FROM gone;
  IF done > 0 THEN
    PERFORM count_unclosed(-done);
  END IF;
  RETURN done;
END
$$;
