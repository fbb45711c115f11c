-- G3, the timeline: a number that rises when Postgres is restored or fails over.

CREATE OR REPLACE FUNCTION server_timeline() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
$$;

CREATE OR REPLACE FUNCTION timeline() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint + shift
    FROM timeline_shift
$$;

-- Raise the timeline by hand: after a restore that the server cannot tell from a crash, such as the
-- snapshot of a disk. Every attempt under way is fenced.
CREATE OR REPLACE FUNCTION raise_timeline() RETURNS bigint LANGUAGE sql AS $$
  UPDATE timeline_shift SET shift = shift + 1, high = server_timeline() + shift + 1 RETURNING high
$$;

-- Take over a ledger that was loaded into another cluster or database (its own timeline then starts
-- at 1 again), and remember the highest timeline seen. Called by every migration run.
CREATE OR REPLACE FUNCTION adopt_timeline() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  here_id  bigint;
  here_db  oid;
  s        timeline_shift;
  highest  bigint;
BEGIN
  SELECT system_identifier INTO here_id FROM pg_control_system();
  SELECT oid INTO here_db FROM pg_database WHERE datname = current_database();
  INSERT INTO timeline_shift (shift, high, system_id, database) VALUES (0, 0, here_id, here_db)
    ON CONFLICT DO NOTHING;
  SELECT * INTO s FROM timeline_shift FOR UPDATE;
  IF (s.system_id, s.database) IS DISTINCT FROM (here_id, here_db) THEN
    SELECT greatest(s.high, max(greatest(epoch, rev)) >> 40) INTO highest FROM threads;
    s.shift := highest + 1 - server_timeline();
  END IF;
  UPDATE timeline_shift
     SET shift = s.shift, system_id = here_id, database = here_db,
         high = greatest(s.high, server_timeline() + s.shift);
  RETURN timeline();
END
$$;
