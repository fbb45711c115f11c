-- W9 for a batch: close each head, and claim the thread's next turn under the same lock. An item of
-- another epoch or timeline is dropped (G1), and so is one whose turn has no outcome.
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
       SET owner = NULL, head = NULL, cancel = NULL, resolved = NULL, answering = NULL,
           head_off = NULL,
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

-- W10: give threads back in mid-turn; they wait in ready for the next owner. Not counted as an attempt,
-- unless something is told to be wrong: then the thread waits the longer the more attempts there were.
CREATE OR REPLACE FUNCTION release(
  p_key text[], p_epoch bigint[], p_trouble text DEFAULT NULL
) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  line bigint := timeline();
BEGIN
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;
  RETURN QUERY
    WITH freed AS (
      UPDATE threads t
         SET owner = NULL, trouble = coalesce(p_trouble, t.trouble),
             attempts = greatest(t.attempts - (p_trouble IS NULL)::integer, 0)
        FROM unnest(p_key, p_epoch) AS x(k, e)
       WHERE t.thread_key = x.k AND t.epoch = x.e AND x.e >> 40 = line AND t.owner IS NOT NULL
       RETURNING t.thread_key, t.attempts
    )
    INSERT INTO ready (thread_key, at)
      SELECT f.thread_key, clock_timestamp() + CASE WHEN p_trouble IS NULL THEN interval '0'
               ELSE make_interval(secs => least(2 * 4 ^ (f.attempts - 1), 60) * (0.75 + random() / 2))
             END
        FROM freed f
      ON CONFLICT DO NOTHING RETURNING thread_key;
END
$$;

-- These attempts were taken from a worker that was not at fault (the database could not be reached):
-- they do not count either. `p_seq` tells the turn, for the thread may have gone on.
CREATE OR REPLACE FUNCTION excuse(p_key text[], p_seq bigint[], p_epoch bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;
  UPDATE threads t SET attempts = greatest(t.attempts - 1, (t.owner IS NOT NULL)::integer)
    FROM unnest(p_key, p_seq, p_epoch) AS x(k, s, e)
   WHERE t.thread_key = x.k AND t.head = x.s AND (t.epoch > x.e OR t.owner IS NULL);
END
$$;
