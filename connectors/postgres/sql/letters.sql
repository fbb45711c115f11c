-- What people decided of dead letters. A letter is known by the record that was refused first, not by
-- its place in the topic: one record may have two letters, and two people may look at each of them.
-- The first decision of (topic, letter, requeues) stands. A requeue is carried out by a worker, again
-- and again until it is noted: `due` says when, and is null with nothing to do. What is sent twice is
-- admitted once, for it says which letter it is.
CREATE TABLE letter_decisions (
  topic      text COLLATE "C" NOT NULL,
  letter     uuid NOT NULL,
  requeues   integer NOT NULL,
  what       text NOT NULL CHECK (what IN ('requeue', 'drop')),
  tenant     text NOT NULL,
  actor      text NOT NULL,
  note       text NOT NULL,
  code       text NOT NULL,
  message    text NOT NULL,
  place      text NOT NULL,
  partition  integer NOT NULL,
  src_off    bigint NOT NULL,
  edited     boolean NOT NULL,
  key        bytea,
  value      bytea,
  value_sha  bytea,
  decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  due        timestamptz,
  sent_at    timestamptz,
  sent_part  integer,
  sent_off   bigint,
  PRIMARY KEY (topic, letter, requeues)
);
CREATE INDEX letter_decisions_due ON letter_decisions (due) WHERE due IS NOT NULL;

-- Requeues to carry out on these topics, each left to this caller for `p_grace`.
CREATE OR REPLACE FUNCTION due_letters(p_topics text[], p_limit integer, p_grace interval)
RETURNS SETOF letter_decisions LANGUAGE sql AS $$
  UPDATE letter_decisions d SET due = clock_timestamp() + p_grace
    FROM (SELECT topic, letter, requeues FROM letter_decisions
           WHERE due <= clock_timestamp() AND topic = ANY (p_topics)
           ORDER BY due LIMIT p_limit FOR UPDATE SKIP LOCKED) x
   WHERE (d.topic, d.letter, d.requeues) = (x.topic, x.letter, x.requeues)
  RETURNING d.*
$$;
