-- Which incarnation of a topic an id is: 1 for the first id ever seen, one more for each new one.
-- Cursors carry it, so that an offset of a topic that was recreated is not taken for one of today's.
CREATE TABLE incarnations (
    topic text COLLATE "C" NOT NULL,
    topic_id uuid NOT NULL,
    incarnation int NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, topic_id),
    UNIQUE (topic, incarnation)
);

CREATE FUNCTION incarnation(p_topic text, p_topic_id uuid) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    v_found int;
BEGIN
    SELECT i.incarnation INTO v_found FROM incarnations i
     WHERE i.topic = p_topic AND i.topic_id = p_topic_id;
    IF FOUND THEN
        RETURN v_found;
    END IF;
    -- processes that meet a new id at once come one after the other
    PERFORM pg_advisory_xact_lock(hashtextextended('incarnation ' || p_topic, 0));
    INSERT INTO incarnations (topic, topic_id, incarnation)
    SELECT p_topic, p_topic_id, coalesce(max(i.incarnation) + 1, 1)
      FROM incarnations i WHERE i.topic = p_topic
    ON CONFLICT (topic, topic_id) DO NOTHING;
    RETURN (SELECT i.incarnation FROM incarnations i
             WHERE i.topic = p_topic AND i.topic_id = p_topic_id);
END;
$$;
