-- Tool calls that may take effect outside: recorded before they run, with the result behind it. The
-- key is the chain's, so that a later attempt and a resume find them. State: started, asked (the tool
-- stopped to ask the user and is called again), done. A turn id is unique in its tenant only, hence
-- the thread in the key.
CREATE TABLE tool_calls (
  thread_key text COLLATE "C" NOT NULL,
  origin     uuid NOT NULL,
  path       text COLLATE "C" NOT NULL,
  ordinal    integer NOT NULL,
  name       text NOT NULL,
  call_id    text NOT NULL,
  digest     bytea NOT NULL,
  state      text NOT NULL DEFAULT 'started',
  epoch      bigint NOT NULL,
  type       text,
  result     bytea,
  started_at timestamptz NOT NULL DEFAULT now(),
  ended_at   timestamptz,
  PRIMARY KEY (thread_key, origin, path, ordinal)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tool_calls_started ON tool_calls (started_at);

-- G1: the thread's row, locked, if the attempt still holds it; else no row. Comes first in each function.
CREATE FUNCTION hold_thread(p_key text, p_epoch bigint) RETURNS TABLE (cancel text)
LANGUAGE sql AS $$
  SELECT t.cancel FROM threads t
   WHERE t.thread_key = p_key AND t.epoch = p_epoch AND p_epoch >> 40 = timeline()
     FOR NO KEY UPDATE
$$;

-- T1. No row: fenced. `found`: new (call it), started, done (with type and result), other
-- (recorded with another digest), cancelled (the turn is to stop: nothing was recorded).
CREATE FUNCTION start_tool(
  p_key text, p_epoch bigint, p_origin uuid, p_path text, p_ordinal integer, p_name text,
  p_call text, p_digest bytea
) RETURNS TABLE (found text, type text, result bytea, cancel text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  held  record;
  known tool_calls;
BEGIN
  SELECT * INTO held FROM hold_thread(p_key, p_epoch);
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF held.cancel IS NOT NULL THEN
    RETURN QUERY SELECT 'cancelled', NULL::text, NULL::bytea, held.cancel;
    RETURN;
  END IF;
  INSERT INTO tool_calls (thread_key, origin, path, ordinal, name, call_id, digest, epoch)
    VALUES (p_key, p_origin, p_path, p_ordinal, p_name, p_call, p_digest, p_epoch)
    ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN QUERY SELECT 'new', NULL::text, NULL::bytea, NULL::text;
    RETURN;
  END IF;
  SELECT * INTO known FROM tool_calls
    WHERE thread_key = p_key AND origin = p_origin AND path = p_path AND ordinal = p_ordinal;
  IF known.digest <> p_digest THEN
    RETURN QUERY SELECT 'other', NULL::text, NULL::bytea, NULL::text;
  ELSIF known.state = 'asked' THEN
    UPDATE tool_calls SET state = 'started', epoch = p_epoch
      WHERE thread_key = p_key AND origin = p_origin AND path = p_path AND ordinal = p_ordinal;
    RETURN QUERY SELECT 'new', NULL::text, NULL::bytea, NULL::text;
  ELSE
    RETURN QUERY SELECT known.state, known.type, known.result, NULL::text;
  END IF;
END
$$;

-- T2: what the tool returned (done), or that it asks (asked). A recorded result is never
-- replaced. No row: fenced.
CREATE FUNCTION end_tool(
  p_key text, p_epoch bigint, p_origin uuid, p_path text, p_ordinal integer, p_state text,
  p_type text, p_result bytea
) RETURNS TABLE (cancel text) LANGUAGE plpgsql AS $$
DECLARE
  held record;
BEGIN
  SELECT * INTO held FROM hold_thread(p_key, p_epoch);
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE tool_calls c
     SET state = p_state, type = p_type, result = p_result, ended_at = clock_timestamp()
   WHERE c.thread_key = p_key AND c.origin = p_origin AND c.path = p_path AND c.ordinal = p_ordinal
     AND c.state = 'started';
  RETURN QUERY SELECT held.cancel;
END
$$;
