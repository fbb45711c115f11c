-- Forget what is older than p_age, at most p_limit rows of each table: how many rows of which table.
-- One caller at a time; whoever comes meanwhile gets no row. What may still be asked for stays: the
-- turn whose question is open or being answered, for the chain goes on from it; calls of a thread
-- that runs or waits for an answer, for its chain may find them again; what nobody was told of, or
-- has not been carried out. A turn that is gone may be admitted again. Large tables are read from
-- their old end on: a BRIN index would be as wide as the table once the space of old rows is used again.
CREATE FUNCTION purge(p_age interval, p_limit integer) RETURNS TABLE (what text, gone bigint)
LANGUAGE plpgsql AS $$
DECLARE
  before timestamptz := now() - p_age;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('turnstream.purge', 0)) THEN
    RETURN;
  END IF;

  what := 'turns';
  DELETE FROM turns WHERE ctid = ANY (ARRAY(
    SELECT u.ctid FROM turns u JOIN threads t USING (thread_key)
     WHERE u.created_at < before AND u.closed_at < before
       AND t.interrupt ->> 'turn_id' IS DISTINCT FROM u.turn_id::text
       AND t.answering ->> 'turn_id' IS DISTINCT FROM u.turn_id::text
     ORDER BY u.created_at LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;

  what := 'tool_calls';
  DELETE FROM tool_calls WHERE ctid = ANY (ARRAY(
    SELECT c.ctid FROM tool_calls c JOIN threads t USING (thread_key)
     WHERE c.started_at < before AND t.head IS NULL AND t.interrupt IS NULL
     ORDER BY c.started_at LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;

  what := 'letter_decisions';
  DELETE FROM letter_decisions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM letter_decisions
     WHERE decided_at < before AND coalesce(sent_at < before, due IS NULL) LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;

  what := 'usage_turns';
  DELETE FROM usage_turns WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM usage_turns WHERE counted_at < before ORDER BY counted_at LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;

  what := 'early_cancels';
  DELETE FROM early_cancels WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM early_cancels WHERE created_at < before LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;

  what := 'expired_interrupts';
  DELETE FROM expired_interrupts WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM expired_interrupts WHERE at < before AND due IS NULL LIMIT p_limit));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
END
$$;
