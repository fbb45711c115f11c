-- A1-A4 for one batch of one input partition. Error TS001 (detail: offsets) if a turn id comes with
-- another body than the turn has; nothing is written then.
CREATE OR REPLACE FUNCTION admit(
  p_topic text, p_part integer, p_at bigint, p_next bigint, p_worker uuid, p_room integer,
  p_kind text[], p_tenant text[], p_turn uuid[], p_key text[], p_partition integer[],
  p_off bigint[], p_body bytea[], p_sha bytea[], p_graph text[], p_known boolean[],
  p_policy text[], p_expires timestamptz[], p_answers jsonb[], p_actor text[]
) RETURNS SETOF ledger_row LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  room   integer;
  added  bigint := 0;
  reused bigint[] := '{}';
  keys   text[];
  made   text[];
  early  text[] := '{}';
  pos    bigint;
  c      record;
  u      turns;
  v      json;
  sha    bytea;
  r      ledger_row;
BEGIN
  -- A1: the position is compared, not raised: a restored ledger has lost what lies between
  SELECT next_off INTO pos FROM intake WHERE topic = p_topic AND partition = p_part FOR UPDATE;
  IF pos IS DISTINCT FROM p_at THEN
    r.what := 'moved';
    r.position := pos;
    RETURN NEXT r;
    RETURN;
  END IF;
  UPDATE intake SET next_off = p_next WHERE topic = p_topic AND partition = p_part;
  room := worker_room(p_worker, p_room);

  WITH m AS (
    INSERT INTO threads (thread_key, partition)
      SELECT DISTINCT ON (x.k) x.k, x.p FROM unnest(p_key, p_partition) AS x(k, p) ORDER BY x.k
      ON CONFLICT DO NOTHING RETURNING thread_key)
  SELECT array_agg(thread_key) INTO made FROM m;
  PERFORM 1 FROM threads WHERE thread_key = ANY (p_key) ORDER BY thread_key FOR UPDATE;

  FOR c IN
    SELECT * FROM unnest(p_kind, p_tenant, p_turn, p_key, p_off, p_body, p_sha, p_graph, p_known,
                         p_policy, p_expires, p_answers, p_actor)
      AS x(kind, tenant, turn_id, key, off, body, sha, graph, known, policy, expires, answers, actor)
  LOOP
    r := NULL;
    IF c.kind = 'cancel' THEN  -- A3
      SELECT * INTO u FROM turns WHERE tenant = c.tenant AND turn_id = c.turn_id;
      IF NOT FOUND THEN
        INSERT INTO early_cancels (tenant, turn_id, thread_key, created_at)
          VALUES (c.tenant, c.turn_id, c.key, clock_timestamp()) ON CONFLICT DO NOTHING;
        IF FOUND THEN
          early := early || c.tenant;
          -- anybody can cancel turns that never come: a thread keeps the latest 100
          DELETE FROM early_cancels WHERE (tenant, turn_id, thread_key) IN (
            SELECT e.tenant, e.turn_id, e.thread_key FROM early_cancels e
             WHERE e.thread_key = c.key ORDER BY e.created_at DESC OFFSET 100);
        END IF;
        CONTINUE;
      END IF;
      CONTINUE WHEN u.thread_key <> c.key OR u.outcome IS NOT NULL;
      UPDATE threads
         SET cancel = CASE c.policy WHEN 'rollback' THEN c.policy ELSE coalesce(cancel, 'cancel') END
       WHERE thread_key = c.key AND head = u.seq;
      IF FOUND THEN
        r.what := 'cancel';
        r.thread_key := c.key;
        RETURN NEXT r;
        CONTINUE;
      END IF;
      v := decided('cancelled', 'cancelled');
      UPDATE turns SET outcome = v WHERE thread_key = c.key AND seq = u.seq;
    ELSE  -- A2
      v := CASE
        WHEN EXISTS (SELECT FROM early_cancels e
                     WHERE e.tenant = c.tenant AND e.turn_id = c.turn_id AND e.thread_key = c.key)
          THEN decided('cancelled', 'cancelled')
        WHEN NOT c.known
          THEN decided('failed', 'unknown_graph', format('there is no graph %s', c.graph))
        WHEN c.policy = 'reject' AND EXISTS (
               SELECT FROM threads t JOIN turns q ON q.thread_key = t.thread_key
               WHERE t.thread_key = c.key AND q.seq >= t.settled AND q.outcome IS NULL)
          THEN decided('rejected', 'thread_busy', 'the thread has a turn that is not over')
      END;
      INSERT INTO turns (tenant, turn_id, thread_key, kind, graph, origin, front, answers, actor,
                         policy, src_topic, src_part, src_off, body_sha, body, expires_at, outcome)
        VALUES (c.tenant, c.turn_id, c.key, c.kind, c.graph, c.turn_id,
                c.policy IN ('interrupt', 'rollback'), c.answers, c.actor,
                c.policy, p_topic, p_part, c.off, c.sha, c.body, c.expires, v)
        ON CONFLICT (tenant, turn_id) DO NOTHING RETURNING * INTO u;
      IF NOT FOUND THEN
        SELECT body_sha INTO sha FROM turns WHERE tenant = c.tenant AND turn_id = c.turn_id;
        IF sha <> c.sha THEN
          reused := reused || c.off;
        END IF;
        CONTINUE;
      END IF;
      added := added + 1;
      IF v IS NULL THEN
        IF c.expires IS NOT NULL THEN
          INSERT INTO expiries VALUES (c.tenant, c.turn_id, 'turn', c.key, c.expires);
        END IF;
        CONTINUE WHEN NOT u.front;
        -- a rollback that was promised stays one, whatever comes after it
        UPDATE threads t
           SET cancel = CASE c.policy WHEN 'rollback' THEN c.policy ELSE coalesce(cancel, c.policy) END
         WHERE thread_key = c.key AND EXISTS (
               SELECT FROM turns h WHERE h.thread_key = c.key AND h.seq = t.head AND h.outcome IS NULL);
        IF FOUND THEN
          r.what := 'cancel';
          r.thread_key := c.key;
          RETURN NEXT r;
        END IF;
        CONTINUE;
      END IF;
    END IF;

    r := end_unclaimed(u, v);
    RETURN NEXT r;
  END LOOP;

  IF reused <> '{}' THEN
    RAISE EXCEPTION 'turn id reused with another body'
      USING ERRCODE = 'TS001', DETAIL = array_to_string(reused, ',');
  END IF;

  IF made IS NOT NULL AND 'cancel' = ANY (p_kind) THEN
    -- the row was the lock: a batch with the cancelled turn waited for it
    DELETE FROM threads t WHERE t.thread_key = ANY (made)
      AND NOT EXISTS (SELECT FROM turns q WHERE q.thread_key = t.thread_key);
  END IF;
  IF early <> '{}' THEN
    PERFORM bound_early_cancels(x) FROM (SELECT DISTINCT unnest(early)) AS y(x);
  END IF;

  -- A4, in the order in which the batch names the threads
  SELECT array_agg(t.thread_key ORDER BY x.i) INTO keys
    FROM (SELECT k, min(i) AS i FROM unnest(p_key) WITH ORDINALITY AS y(k, i) GROUP BY k) x
    JOIN threads t ON t.thread_key = x.k
   WHERE t.owner IS NULL AND NOT EXISTS (SELECT FROM ready w WHERE w.thread_key = t.thread_key);
  RETURN QUERY SELECT * FROM claim_threads(keys, p_worker, room);
  IF added > 0 THEN
    PERFORM count_unclosed(added);
  END IF;
END
$$;
