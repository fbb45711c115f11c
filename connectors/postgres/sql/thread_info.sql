-- What clients say about a thread, beside the ledger's row of it: a thread made by POST /threads has
-- no ledger row before its first turn, and one that a backend started has no row here.
-- A deleted thread keeps its row.
CREATE TABLE thread_info (
  thread_key text COLLATE "C" PRIMARY KEY,
  metadata   jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX thread_info_metadata ON thread_info USING gin (metadata jsonb_path_ops);
