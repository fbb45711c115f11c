-- What admit, reclaim, finish and expire give back; `what` says which columns count:
-- claim, woken, cancel (thread_key), ended, moved (position).
CREATE TYPE ledger_row AS (
  what text, thread_key text, partition integer, timeline bigint, position bigint,
  tenant text, turn_id uuid, seq bigint, epoch bigint, kind text, graph text, origin uuid,
  body bytea, src_topic text, src_part integer, src_off bigint,
  base bigint, keep_n bigint, high_n bigint, keep jsonb, attempts integer,
  outcome json, cancel text, again boolean, head_off bigint, resolved jsonb, answering jsonb,
  parked text, carried json, age_s double precision
);

-- How many threads the worker may still claim: none once its life is over. The shared lock keeps
-- dismiss_worker() out until this transaction ends, so that no thread is claimed behind its back.
CREATE OR REPLACE FUNCTION worker_room(p_worker uuid, p_room integer) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
  IF p_room <= 0 THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(p_worker, 0));
  PERFORM 1 FROM workers w WHERE w.worker = p_worker AND w.timeline = timeline();
  RETURN CASE WHEN FOUND THEN p_room ELSE 0 END;
END
$$;

CREATE OR REPLACE FUNCTION count_unclosed(p_change bigint) RETURNS void LANGUAGE sql AS $$
  UPDATE tally SET unclosed = unclosed + p_change WHERE bucket = pg_backend_pid() & 63
$$;

-- A turn that was never claimed has its outcome: the caller publishes it, the sweep stands behind.
CREATE OR REPLACE FUNCTION end_unclaimed(u turns, p_outcome json) RETURNS ledger_row
LANGUAGE plpgsql AS $$
DECLARE
  r ledger_row;
BEGIN
  INSERT INTO ended (tenant, turn_id, at)
    VALUES (u.tenant, u.turn_id, clock_timestamp() + interval '2 s');
  r.what := 'ended';
  r.thread_key := u.thread_key;
  SELECT partition INTO r.partition FROM threads WHERE thread_key = u.thread_key;
  r.timeline := timeline();
  r.tenant := u.tenant;
  r.turn_id := u.turn_id;
  r.seq := u.seq;
  r.graph := u.graph;
  r.body := u.body;
  r.src_topic := u.src_topic;
  r.src_part := u.src_part;
  r.src_off := u.src_off;
  r.outcome := p_outcome;
  RETURN r;
END
$$;

-- The first claim of a turn settles which interrupt it answers or drops; `p_rev` is the thread's rev
-- before. `resolved` is what readers are to be told.
CREATE OR REPLACE FUNCTION resolve(p_ids jsonb, p_actor text, p_rev bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT jsonb_agg(jsonb_build_object('interrupt_id', id, 'rev', p_rev + i, 'actor', p_actor) ORDER BY i)
    FROM jsonb_array_elements_text(p_ids) WITH ORDINALITY AS x(id, i)
$$;

-- What the ledger decides by itself, and when (µs since 1970): the turn's end is in the log after that.
CREATE OR REPLACE FUNCTION decided(p_status text, p_code text, p_message text DEFAULT '')
RETURNS json LANGUAGE sql VOLATILE AS $$
  SELECT json_build_object('status', p_status, 'code', p_code, 'message', p_message,
                           'at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

CREATE OR REPLACE FUNCTION expired_outcome() RETURNS json LANGUAGE sql VOLATILE AS $$
  SELECT decided('failed', 'expired', 'the turn expired before it could run')
$$;

-- Whether an interrupt's time to be answered is over.
CREATE OR REPLACE FUNCTION is_late(p_interrupt jsonb) RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT coalesce((p_interrupt ->> 'expires_at')::bigint
                  <= extract(epoch FROM clock_timestamp()) * 1000000, false)
$$;

-- Poison. Attempts that end without a release stay counted. A turn with 2 of them is a suspect, and a
-- worker runs one suspect at a time beside its other turns; so a turn with 4 was the only suspect in
-- two crashes, and is parked: its next owner ends it without running it. If even that ends without a
-- release, no graph's code is touched any more (claim_threads).
CREATE OR REPLACE FUNCTION take_suspect(p_worker uuid, p_key text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM workers WHERE worker = p_worker FOR UPDATE;
  UPDATE workers w SET suspect = p_key
   WHERE w.worker = p_worker AND NOT EXISTS (
     SELECT FROM threads t
      WHERE t.thread_key = w.suspect AND t.owner = p_worker AND t.attempts > 2);
  RETURN FOUND;
END
$$;

-- W1 for each of these threads, whose rows the caller has locked. Beyond the room they go to ready.
CREATE OR REPLACE FUNCTION claim_threads(p_keys text[], p_worker uuid, p_room integer)
RETURNS SETOF ledger_row LANGUAGE plpgsql AS $$
DECLARE
  line  bigint := timeline();
  left_ integer := p_room;
  k     text;
  t     threads;
  u     turns;
  r     ledger_row;
  again boolean;
BEGIN
  FOREACH k IN ARRAY coalesce(p_keys, '{}') LOOP
    SELECT * INTO t FROM threads WHERE thread_key = k;
    CONTINUE WHEN t.owner IS NOT NULL;
    again := t.head IS NOT NULL;
    IF again THEN
      SELECT * INTO u FROM turns WHERE thread_key = k AND seq = t.head;
    ELSE
      SELECT * INTO u FROM turns
        WHERE thread_key = k AND seq > t.settled AND front AND outcome IS NULL
        ORDER BY seq LIMIT 1;
      IF NOT FOUND THEN
        SELECT * INTO u FROM turns
          WHERE thread_key = k AND seq > t.settled AND outcome IS NULL
          ORDER BY seq LIMIT 1;
      END IF;
    END IF;
    CONTINUE WHEN u.seq IS NULL;

    r := NULL;
    r.thread_key := k;
    IF left_ <= 0 THEN
      INSERT INTO ready (thread_key) VALUES (k) ON CONFLICT DO NOTHING;
      r.what := 'woken';
      RETURN NEXT r;
      CONTINUE;
    END IF;
    IF again AND u.outcome IS NULL AND t.attempts >= 2 THEN
      IF t.attempts >= 4 THEN
        r.parked := format('parked after %s attempts that ended without a result, %s of them as the'
                           ' only suspect of its worker; the last: %s',
                           t.attempts, t.attempts - 2, coalesce(t.trouble, 'unknown'));
        IF t.attempts >= 5 THEN
          u.outcome := decided('failed', 'poisoned', r.parked);
          UPDATE turns SET outcome = u.outcome WHERE thread_key = k AND seq = u.seq;
        END IF;
      ELSIF NOT take_suspect(p_worker, k) THEN
        INSERT INTO ready (thread_key, at) VALUES (k, clock_timestamp() + interval '250 ms')
          ON CONFLICT DO NOTHING;
        CONTINUE;
      END IF;
    END IF;
    left_ := left_ - 1;

    t.epoch := greatest(t.epoch, line << 40) + 1;  -- G3
    t.attempts := t.attempts + 1;
    IF NOT again THEN
      t.attempts := 1;
      t.trouble := NULL;
      t.carried := NULL;
      t.head_at := clock_timestamp();
      t.keep_n := 0;
      t.high_n := 0;
      t.keep := '[]';
      t.base := 0;
      t.cancel := NULL;
      t.head_off := NULL;
      t.resolved := NULL;
      t.answering := NULL;
      t.rev := greatest(t.rev, line << 40);
      IF NOT u.front THEN
        t.settled := u.seq;
      END IF;
      IF u.expires_at <= clock_timestamp() THEN
        u.outcome := expired_outcome();
      ELSIF u.kind = 'start' AND t.interrupt IS NOT NULL THEN
        t.resolved := resolve(t.interrupt -> 'ids', 'superseded', t.rev);
        t.interrupt := NULL;
      ELSIF u.kind = 'resume' THEN
        IF u.answers <> '[]' AND t.interrupt -> 'ids' @> u.answers AND NOT is_late(t.interrupt) THEN
          SELECT origin INTO u.origin FROM turns
            WHERE tenant = u.tenant AND turn_id = (t.interrupt ->> 'turn_id')::uuid;
          u.origin := coalesce(u.origin, (t.interrupt ->> 'turn_id')::uuid);
          t.resolved := resolve(u.answers, u.actor, t.rev);
          t.answering := t.interrupt;
          t.interrupt := NULL;
        ELSIF t.interrupt -> 'ids' @> u.answers AND is_late(t.interrupt) OR EXISTS (
                SELECT FROM expired_interrupts e
                 WHERE e.thread_key = k AND u.answers ? e.interrupt_id) THEN
          u.outcome := decided(
            'rejected', 'interrupt_expired', 'it answers an interrupt that has expired');
        ELSE
          u.outcome := decided('rejected', 'unknown_interrupt',
                               'it answers an interrupt that is not open on this thread');
        END IF;
      END IF;
      -- the questions that a resume leaves open get their revs too: they may end with it
      t.rev := t.rev + coalesce(jsonb_array_length(t.answering -> 'ids'),
                                jsonb_array_length(t.resolved), 0);
      IF u.outcome IS NOT NULL OR u.kind = 'resume' THEN
        UPDATE turns SET outcome = u.outcome, origin = u.origin
          WHERE thread_key = k AND seq = u.seq;
      END IF;
    END IF;

    UPDATE threads
       SET epoch = t.epoch, owner = p_worker, head = u.seq, settled = t.settled,
           keep_n = t.keep_n, high_n = t.high_n, keep = t.keep, base = t.base, cancel = t.cancel,
           attempts = t.attempts, trouble = t.trouble, carried = t.carried, head_at = t.head_at,
           interrupt = t.interrupt, resolved = t.resolved, rev = t.rev,
           answering = t.answering, graph = u.graph, head_off = t.head_off
     WHERE thread_key = k;

    r.what := 'claim';
    r.partition := t.partition;
    r.timeline := line;
    r.tenant := u.tenant;
    r.turn_id := u.turn_id;
    r.seq := u.seq;
    r.epoch := t.epoch;
    r.kind := u.kind;
    r.graph := u.graph;
    r.origin := u.origin;
    r.body := u.body;
    r.src_topic := u.src_topic;
    r.src_part := u.src_part;
    r.src_off := u.src_off;
    r.base := t.base;
    r.keep_n := t.keep_n;
    r.high_n := t.high_n;
    r.keep := t.keep;
    r.attempts := t.attempts;
    r.outcome := u.outcome;
    r.cancel := t.cancel;
    r.again := again;
    r.head_off := t.head_off;
    r.resolved := t.resolved;
    r.answering := t.answering;
    r.carried := t.carried;
    r.age_s := extract(epoch FROM clock_timestamp() - t.head_at);
    RETURN NEXT r;
  END LOOP;
END
$$;

-- The slow path: threads that wait in ready, the longest first. A lock that is taken only when it is
-- free cannot deadlock, so age decides and not the key. The thread's row comes before ready's.
CREATE OR REPLACE FUNCTION reclaim(p_worker uuid, p_room integer) RETURNS SETOF ledger_row
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  room integer := worker_room(p_worker, p_room);
  keys text[] := '{}';
  k    text;
BEGIN
  IF room = 0 THEN
    RETURN;
  END IF;
  FOR k IN SELECT thread_key FROM ready WHERE at <= clock_timestamp()
           ORDER BY at LIMIT 4 * room + 8 LOOP
    PERFORM 1 FROM threads WHERE thread_key = k FOR UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    keys := keys || k;
    EXIT WHEN cardinality(keys) >= room;
  END LOOP;
  DELETE FROM ready WHERE thread_key = ANY (keys);
  RETURN QUERY SELECT * FROM claim_threads(keys, p_worker, room);
END
$$;
