-- Leases: one row a worker's life, renewed from one session and judged by this server's clock.

-- `p_silent`: for how long Kafka has not answered the worker, null where it does not vouch for Kafka.
CREATE OR REPLACE FUNCTION register_worker(
  p_worker uuid, p_name text, p_ttl interval, p_silent interval DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
  INSERT INTO workers (worker, name, pid, backend_start, timeline, lease_until, heard_at)
    SELECT p_worker, p_name, a.pid, a.backend_start, timeline(), clock_timestamp() + p_ttl,
           clock_timestamp() - p_silent
      FROM pg_stat_get_activity(pg_backend_pid()) a
$$;

-- False if the row is gone or of another timeline: the worker's threads are not its own.
CREATE OR REPLACE FUNCTION renew_worker(p_worker uuid, p_ttl interval, p_silent interval)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  UPDATE workers w
     SET lease_until = clock_timestamp() + p_ttl, heard_at = clock_timestamp() - p_silent,
         pid = a.pid, backend_start = a.backend_start
    FROM pg_stat_get_activity(pg_backend_pid()) a
   WHERE w.worker = p_worker AND w.timeline = timeline();
  RETURN FOUND;
END
$$;

-- A missing session means a dead worker only if the server has not been restarted since: then all
-- sessions are missing, and only the lease's time tells.
CREATE OR REPLACE FUNCTION worker_is_dead(w workers) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT w.lease_until < clock_timestamp()
      OR w.timeline <> timeline()
      OR w.backend_start > pg_postmaster_start_time()
         AND NOT EXISTS (SELECT FROM pg_stat_get_activity(w.pid) a
                         WHERE a.backend_start = w.backend_start)
$$;

-- Whether another worker lives that vouches for Kafka and was answered within `p_within`: one that
-- hears nothing may then leave its threads to it. If nobody hears anything, giving them up would only
-- rewind readers.
CREATE OR REPLACE FUNCTION peer_hears(p_worker uuid, p_within interval) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM workers WHERE worker <> p_worker AND timeline = timeline()
       AND lease_until > clock_timestamp() AND heard_at > clock_timestamp() - p_within)
$$;

-- How a dead worker ended, as it is told of the turns that it ran: they count an attempt. Null where
-- the database itself was away or went back; nobody is to blame then.
CREATE OR REPLACE FUNCTION how_it_ended(w workers) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN w.timeline <> timeline() OR w.backend_start <= pg_postmaster_start_time() THEN NULL
    WHEN EXISTS (SELECT FROM pg_stat_get_activity(w.pid) a WHERE a.backend_start = w.backend_start)
      THEN format('worker %s stopped renewing its lease', w.name)
    ELSE format('worker %s died', w.name)
  END
$$;

-- Take a worker's threads from it. The caller holds the worker's lock exclusively. Without a trouble
-- it is as if they were released.
CREATE OR REPLACE FUNCTION free_threads(p_worker uuid, p_trouble text) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
  keys text[];
BEGIN
  keys := ARRAY(SELECT thread_key FROM threads WHERE owner = p_worker
                ORDER BY thread_key FOR UPDATE);
  UPDATE threads
     SET owner = NULL, trouble = coalesce(p_trouble, trouble),
         attempts = greatest(attempts - (p_trouble IS NULL)::integer, 0)
   WHERE thread_key = ANY (keys);
  INSERT INTO ready (thread_key) SELECT unnest(keys) ON CONFLICT DO NOTHING;
  RETURN cardinality(keys);
END
$$;

-- W12: free the threads of one dead worker: how many they were, null if nobody is dead. One worker a
-- transaction, so that rows are locked in key order. Cheap when nobody is dead, so it is polled.
CREATE OR REPLACE FUNCTION reap() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  id   uuid;
  dead workers;
BEGIN
  FOR id IN SELECT worker FROM workers w WHERE worker_is_dead(w) LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(uuid_hash_extended(id, 0));
    DELETE FROM workers w WHERE worker = id AND worker_is_dead(w)  -- it may have renewed by now
      RETURNING * INTO dead;
    IF FOUND THEN
      RETURN free_threads(id, how_it_ended(dead));
    END IF;
  END LOOP;
  RETURN NULL;
END
$$;

-- A worker leaves: what it still holds goes to ready.
CREATE OR REPLACE FUNCTION dismiss_worker(p_worker uuid) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(uuid_hash_extended(p_worker, 0));
  DELETE FROM workers WHERE worker = p_worker;
  RETURN free_threads(p_worker, NULL);
END
$$;
