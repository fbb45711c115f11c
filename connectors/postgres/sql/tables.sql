-- The ledger's tables. No index stands on a column that changes, so that updates stay HOT (heap-only)
-- within the space that fillfactor leaves, and vacuum comes early and without pauses.

-- One row a thread. keep_n, high_n, keep, base, cancel, attempts, trouble, carried, head_at, head_off
-- and resolved are of the head: the claimed turn that is not closed. `attempts` are its claims that
-- were not released, `trouble` is how the last of them ended that counts, `carried` what attempts
-- hand on to the next, `head_at` its first claim. Turns up to `settled` have been claimed or have an
-- outcome, but for those that go to the front. `graph` is what was claimed last. `interrupt`:
-- {"turn_id": …, "ids": [open ids]}.
CREATE TABLE threads (
  thread_key text COLLATE "C" PRIMARY KEY,
  partition  integer NOT NULL,
  epoch      bigint NOT NULL DEFAULT 0,
  owner      uuid,
  head       bigint,
  settled    bigint NOT NULL DEFAULT 0,
  keep_n     bigint NOT NULL DEFAULT 0,
  high_n     bigint NOT NULL DEFAULT 0,
  keep       jsonb NOT NULL DEFAULT '[]',
  base       bigint NOT NULL DEFAULT 0,
  cancel     text,
  attempts   integer NOT NULL DEFAULT 0,
  trouble    text,
  carried    json,
  head_at    timestamptz,
  interrupt  jsonb,
  resolved   jsonb,
  answering  jsonb,
  graph      text,
  rev        bigint NOT NULL DEFAULT 0,
  head_off   bigint,
  first_off  bigint,
  last_off   bigint,
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- One row a turn. `seq` is drawn under the lock of the thread's row and orders the thread's turns.
-- `outcome` is json, not jsonb: a model's text may hold U+0000, which jsonb refuses.
CREATE TABLE turns (
  tenant     text COLLATE "C" NOT NULL,
  turn_id    uuid NOT NULL,
  seq        bigint GENERATED ALWAYS AS IDENTITY,
  thread_key text COLLATE "C" NOT NULL,
  kind       text NOT NULL,
  graph      text NOT NULL,
  origin     uuid NOT NULL,
  front      boolean NOT NULL DEFAULT false,
  answers    jsonb NOT NULL DEFAULT '[]',
  actor      text NOT NULL,
  policy     text NOT NULL,
  src_topic  text NOT NULL,
  src_part   integer NOT NULL,
  src_off    bigint NOT NULL,
  body_sha   bytea NOT NULL,
  body       bytea NOT NULL,
  outcome    json,
  attempts   integer NOT NULL DEFAULT 0,
  first_off  bigint,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  closed_at  timestamptz,
  PRIMARY KEY (tenant, turn_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX turns_thread ON turns (thread_key, seq);
CREATE INDEX turns_front ON turns (thread_key, seq) WHERE front;
CREATE INDEX turns_created ON turns (created_at);

-- Threads with a turn to run and no owner; due from `at` on.
CREATE TABLE ready (
  thread_key text COLLATE "C" PRIMARY KEY,
  at         timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ready_at ON ready (at);

-- Turns that got their outcome unclaimed and are not closed; the sweep takes them from `at` on.
CREATE TABLE ended (
  tenant  text COLLATE "C" NOT NULL,
  turn_id uuid NOT NULL,
  at      timestamptz NOT NULL,
  PRIMARY KEY (tenant, turn_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What is to be looked at when its time has come: a turn that may not have ended by then, or the
-- interrupt that a turn ended with.
CREATE TABLE expiries (
  tenant     text COLLATE "C" NOT NULL,
  turn_id    uuid NOT NULL,
  what       text NOT NULL,
  thread_key text COLLATE "C" NOT NULL,
  at         timestamptz NOT NULL,
  PRIMARY KEY (tenant, turn_id, what)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX expiries_at ON expiries (at);

-- Interrupts that nobody answered in time. Readers are told from `due` on; null: they were told.
CREATE TABLE expired_interrupts (
  thread_key   text COLLATE "C" NOT NULL,
  interrupt_id text COLLATE "C" NOT NULL,
  turn_id      uuid NOT NULL,
  rev          bigint NOT NULL,
  at           timestamptz NOT NULL DEFAULT now(),
  due          timestamptz,
  PRIMARY KEY (thread_key, interrupt_id)
);
CREATE INDEX expired_interrupts_due ON expired_interrupts (due) WHERE due IS NOT NULL;

-- Cancels that came before their turn. The thread is part of the key: a cancel that names another
-- thread than its turn's does nothing.
CREATE TABLE early_cancels (
  tenant     text COLLATE "C" NOT NULL,
  turn_id    uuid NOT NULL,
  thread_key text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, turn_id, thread_key)
);

-- The next offset to read of each input partition.
CREATE TABLE intake (
  topic     text NOT NULL,
  partition integer NOT NULL,
  next_off  bigint NOT NULL,
  PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20);

-- One row a worker's life. `pid` and `backend_start` name the session that renews the lease. A life
-- does not outlast its timeline: all that it claimed is fenced then, and has to be freed. `heard_at`:
-- when Kafka last answered it, as it said at its last renewal; null while peers are not to go by it,
-- as after an outage. `taking`: false once it hands over. `suspect`: the thread of the last suspect
-- that it claimed (see take_suspect).
CREATE TABLE workers (
  worker        uuid PRIMARY KEY,
  name          text NOT NULL,
  pid           integer NOT NULL,
  backend_start timestamptz NOT NULL,
  timeline      bigint NOT NULL,
  lease_until   timestamptz NOT NULL,
  suspect       text COLLATE "C",
  heard_at      timestamptz,
  taking        boolean NOT NULL DEFAULT true,
  since         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- How many turns are not closed is the sum over these; many rows, so that writers seldom meet.
CREATE TABLE tally (
  bucket   integer PRIMARY KEY,
  unclosed bigint NOT NULL
) WITH (fillfactor = 20);
INSERT INTO tally SELECT b, 0 FROM generate_series(0, 63) b;

-- One row: what is added to the server's own timeline, and which database last adopted the ledger.
CREATE TABLE timeline_shift (
  one       boolean PRIMARY KEY DEFAULT true CHECK (one),
  shift     bigint NOT NULL,
  high      bigint NOT NULL,
  system_id bigint NOT NULL,
  database  oid NOT NULL
);
