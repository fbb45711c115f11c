-- Usage, derived from the results. A turn counts once, in the window of its result's time; `usage` is what it was counted with.
CREATE TABLE usage_turns (
  tenant       text COLLATE "C" NOT NULL,
  turn_id      uuid NOT NULL,
  window_start bigint NOT NULL,
  usage        jsonb NOT NULL,
  counted_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, turn_id)
);
CREATE INDEX usage_turns_counted ON usage_turns (counted_at);

-- Totals of a window and model; `window_start` in microseconds since 1970. Each change raises `rev`;
-- `published` is the rev that stands in the topic.
CREATE TABLE usage_totals (
  tenant           text COLLATE "C" NOT NULL,
  window_start     bigint NOT NULL,
  window_s         integer NOT NULL,
  model            text COLLATE "C" NOT NULL,
  turns            bigint NOT NULL,
  input_tokens     bigint NOT NULL,
  output_tokens    bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  cached_tokens    bigint NOT NULL,
  rev              bigint NOT NULL DEFAULT 1,
  published        bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, window_start, window_s, model)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX usage_totals_due ON usage_totals (tenant) WHERE rev > published;

-- Count one turn; false where it had been counted before. Totals are locked in the order of models,
-- so that two turns with several models each cannot wait for each other.
CREATE FUNCTION count_usage(
  p_tenant text, p_turn_id uuid, p_window_start bigint, p_window_s integer, p_usage jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO usage_turns (tenant, turn_id, window_start, usage)
  VALUES (p_tenant, p_turn_id, p_window_start, p_usage)
  ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO usage_totals AS t (tenant, window_start, window_s, model, turns, input_tokens,
                                 output_tokens, reasoning_tokens, cached_tokens)
  SELECT p_tenant, p_window_start, p_window_s, u.model, 1, sum(u.input_tokens),
         sum(u.output_tokens), sum(u.reasoning_tokens), sum(u.cached_tokens)
  FROM jsonb_to_recordset(p_usage) AS u(model text, input_tokens bigint, output_tokens bigint,
                                        reasoning_tokens bigint, cached_tokens bigint)
  GROUP BY u.model
  ORDER BY u.model COLLATE "C"
  ON CONFLICT (tenant, window_start, window_s, model) DO UPDATE SET
    turns = t.turns + 1,
    input_tokens = t.input_tokens + excluded.input_tokens,
    output_tokens = t.output_tokens + excluded.output_tokens,
    reasoning_tokens = t.reasoning_tokens + excluded.reasoning_tokens,
    cached_tokens = t.cached_tokens + excluded.cached_tokens,
    rev = t.rev + 1;
  RETURN true;
END $$;
