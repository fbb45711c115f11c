-- W9 for a batch: close each head, and claim the thread's next turn under the same lock. An item of
-- another epoch or timeline is dropped, and so is one whose turn has no outcome.
CREATE OR REPLACE FUNCTION finish(
  p_worker uuid, p_room integer, p_key text[], p_epoch bigint[], p_last bigint[], p_first bigint[]
) RETURNS SETOF ledger_row LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  line bigint := timeline();
  room integer := worker_room(p_worker, p_room);
  keys text[];
BEGIN
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;
  WITH d AS MATERIALIZED (
    SELECT t.thread_key, t.head, t.attempts, x.l, coalesce(t.head_off, x.f) AS f
      FROM unnest(p_key, p_epoch, p_last, p_first) AS x(k, e, l, f)
      JOIN threads t ON t.thread_key = x.k
     WHERE t.epoch = x.e AND x.e >> 40 = line AND t.head IS NOT NULL
  ), closed AS (
    UPDATE turns u SET closed_at = now(), first_off = d.f, attempts = d.attempts
      FROM d WHERE u.thread_key = d.thread_key AND u.seq = d.head AND u.outcome IS NOT NULL
      RETURNING u.thread_key
  ), freed AS (
    UPDATE threads t
       SET owner = NULL, head = NULL, cancel = NULL, resolved = NULL, head_off = NULL,
           first_off = coalesce(t.first_off, d.f), last_off = greatest(t.last_off, d.l)
      FROM d JOIN closed c USING (thread_key)
     WHERE t.thread_key = d.thread_key
     RETURNING t.thread_key
  )
  SELECT array_agg(thread_key) INTO keys FROM freed;
  IF keys IS NULL THEN
    RETURN;
  END IF;
  DELETE FROM ready WHERE thread_key = ANY (keys);  -- the owner may have been reaped meanwhile
  RETURN QUERY SELECT * FROM claim_threads(keys, p_worker, room);
  PERFORM count_unclosed(-cardinality(keys));
END
$$;

-- Give threads back in mid-turn; they wait in ready for the next owner. Not counted as an attempt.
CREATE OR REPLACE FUNCTION release(p_key text[], p_epoch bigint[]) RETURNS SETOF text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  line bigint := timeline();
BEGIN
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;
  RETURN QUERY
    WITH freed AS (
      UPDATE threads t SET owner = NULL, attempts = greatest(t.attempts - 1, 0)
        FROM unnest(p_key, p_epoch) AS x(k, e)
       WHERE t.thread_key = x.k AND t.epoch = x.e AND x.e >> 40 = line AND t.owner IS NOT NULL
       RETURNING t.thread_key
    )
    INSERT INTO ready (thread_key) SELECT thread_key FROM freed
      ON CONFLICT DO NOTHING RETURNING thread_key;
END
$$;
