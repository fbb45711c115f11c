-- What has expired: turns that wait end, turns that run are told to stop, interrupts are closed.
-- The time is this server's. Rows of `expiries` are locked before threads, and nobody who holds a
-- thread waits for one of them.
CREATE OR REPLACE FUNCTION expire(p_limit integer) RETURNS SETOF ledger_row
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  line bigint := timeline();
  due  expiries[];
  e    expiries;
  t    threads;
  u    turns;
  r    ledger_row;
  v    json;
BEGIN
  SELECT array_agg(x) INTO due FROM (
    SELECT * FROM expiries WHERE at <= clock_timestamp() ORDER BY at LIMIT p_limit
       FOR UPDATE SKIP LOCKED) x;
  IF due IS NULL THEN
    RETURN;
  END IF;
  PERFORM 1 FROM threads WHERE thread_key IN (SELECT thread_key FROM unnest(due))
    ORDER BY thread_key FOR UPDATE;
  DELETE FROM expiries x USING unnest(due) d
   WHERE x.tenant = d.tenant AND x.turn_id = d.turn_id AND x.what = d.what;

  FOREACH e IN ARRAY due LOOP
    SELECT * INTO t FROM threads WHERE thread_key = e.thread_key;
    SELECT * INTO u FROM turns WHERE tenant = e.tenant AND turn_id = e.turn_id;
    CONTINUE WHEN u.seq IS NULL;
    r := NULL;
    IF e.what = 'interrupt' THEN
      CONTINUE WHEN t.interrupt ->> 'turn_id' IS DISTINCT FROM e.turn_id::text;
      t.rev := greatest(t.rev, line << 40);
      INSERT INTO expired_interrupts (thread_key, interrupt_id, turn_id, rev, due)
        SELECT e.thread_key, x.interrupt_id, e.turn_id, x.rev, clock_timestamp()
          FROM jsonb_to_recordset(resolve(t.interrupt -> 'ids', 'expired', t.rev))
            AS x(interrupt_id text, rev bigint)
        ON CONFLICT (thread_key, interrupt_id) DO UPDATE SET rev = excluded.rev, due = excluded.due;
      UPDATE threads
         SET interrupt = NULL, rev = t.rev + jsonb_array_length(t.interrupt -> 'ids')
       WHERE thread_key = e.thread_key;
    ELSIF u.outcome IS NOT NULL THEN
      CONTINUE;
    ELSIF t.head = u.seq THEN
      UPDATE threads SET cancel = coalesce(cancel, 'expired') WHERE thread_key = e.thread_key;
      r.what := 'cancel';
      r.thread_key := e.thread_key;
      RETURN NEXT r;
    ELSE
      v := expired_outcome();
      UPDATE turns SET outcome = v WHERE thread_key = e.thread_key AND seq = u.seq;
      r := end_unclaimed(u, v);
      RETURN NEXT r;
    END IF;
  END LOOP;
END
$$;

-- Expired interrupts that readers are to be told of; each is left to this caller for `p_grace`.
CREATE OR REPLACE FUNCTION expired_interrupts_due(p_limit integer, p_grace interval)
RETURNS TABLE (thread_key text, partition integer, turn_id uuid, interrupt_id text, rev bigint)
LANGUAGE sql AS $$
  WITH due AS (
    SELECT x.thread_key, x.interrupt_id FROM expired_interrupts x
     WHERE x.due <= clock_timestamp() ORDER BY x.due LIMIT p_limit FOR UPDATE SKIP LOCKED
  )
  UPDATE expired_interrupts x SET due = clock_timestamp() + p_grace
    FROM due d, threads t
   WHERE x.thread_key = d.thread_key AND x.interrupt_id = d.interrupt_id
     AND t.thread_key = x.thread_key
  RETURNING x.thread_key, t.partition, x.turn_id, x.interrupt_id, x.rev
$$;

-- Readers were told of these.
CREATE OR REPLACE FUNCTION expired_interrupts_told(p_key text[], p_id text[], p_rev bigint[])
RETURNS void LANGUAGE sql AS $$
  UPDATE expired_interrupts x SET due = NULL
    FROM unnest(p_key, p_id, p_rev) AS y(k, id, rev)
   WHERE x.thread_key = y.k AND x.interrupt_id = y.id AND x.rev = y.rev
$$;
