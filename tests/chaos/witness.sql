-- Instruments of the campaign in its own database: who writes what nobody but the owner may write.
-- Every process names itself as its connections' application_name, workers by their unique names.

CREATE TABLE chaos_stale_writes (
  thread_key text NOT NULL,
  what       text NOT NULL,
  writer     text NOT NULL,
  owner      text NOT NULL,
  epoch      bigint NOT NULL,
  at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A thread without an owner may still get what was sent before its release: its epoch is the same.
CREATE FUNCTION chaos_witness(p_key text, p_what text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO chaos_stale_writes (thread_key, what, writer, owner, epoch)
    SELECT t.thread_key, p_what, current_setting('application_name'), w.name, t.epoch
      FROM threads t JOIN workers w ON w.worker = t.owner
     WHERE t.thread_key = p_key AND w.name <> current_setting('application_name')
$$;

CREATE FUNCTION chaos_witness_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM chaos_witness(thread_id, TG_TABLE_NAME)
     FROM (SELECT DISTINCT thread_id FROM fresh) f;
  RETURN NULL;
END $$;
CREATE TRIGGER chaos_witness AFTER INSERT ON checkpoints
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION chaos_witness_rows();
CREATE TRIGGER chaos_witness AFTER INSERT ON checkpoint_writes
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION chaos_witness_rows();

CREATE FUNCTION chaos_witness_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM chaos_witness(NEW.thread_key, 'outcome');
  RETURN NULL;
END $$;
CREATE TRIGGER chaos_witness AFTER UPDATE ON turns FOR EACH ROW
  WHEN (OLD.outcome IS NULL AND NEW.outcome IS NOT NULL AND NEW.attempts > 0)
  EXECUTE FUNCTION chaos_witness_outcome();
