-- Calls that were answered out of a generation that is, or should be, in the books.  Row: none.
WITH given AS (
  SELECT *
  FROM unnest(%(id)s::text[], %(job_id)s::text[], %(source_id)s::text[], %(question)s::text[])
    AS g (id, job_id, source_id, question)
),
known AS (
  SELECT DISTINCT ON (g.id) g.id, c.nano_usd
  FROM given AS g
  JOIN shoal.calls AS c ON c.job_id = g.job_id AND c.generation_id = g.source_id AND c.state = 'billed'
  WHERE g.source_id <> ''
  ORDER BY g.id
),
replayed AS (
  UPDATE shoal.calls AS c
  SET
    state = 'replayed',
    replay_of = g.source_id,
    look_up_at = NULL,
    replay_saved_nano_usd = coalesce(k.nano_usd, 0)
  FROM given AS g
  LEFT JOIN known AS k USING (id)
  WHERE c.id = g.id AND c.state IN ('open', 'maybe')
  RETURNING c.id
),
-- The call that was billed for it: the one that names this generation, or else one that names none.
source AS (
  SELECT DISTINCT ON (g.id) c.id, g.source_id
  FROM given AS g
  JOIN replayed AS r USING (id)
  JOIN shoal.calls AS c ON c.job_id = g.job_id AND c.question = g.question AND c.id <> g.id
  WHERE
    g.source_id <> ''
    AND c.state IN ('open', 'maybe')
    AND c.generation_id IN ('', g.source_id)
    AND NOT EXISTS (SELECT FROM known AS k WHERE k.id = g.id)
  ORDER BY g.id, c.generation_id DESC
)
UPDATE shoal.calls AS c
SET
  state = 'maybe',
  doubted_at = coalesce(c.doubted_at, clock_timestamp()),
  generation_id = s.source_id,
  look_up_at = clock_timestamp()
FROM (SELECT DISTINCT id, source_id FROM source) AS s
WHERE c.id = s.id AND c.state IN ('open', 'maybe')
