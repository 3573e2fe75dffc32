-- The replies of calls were lost. Where a generation is named, it is looked up.  Row: none.
WITH given AS (
  SELECT * FROM unnest(%(id)s::text[], %(generation_id)s::text[]) AS g (id, generation_id)
),
locked AS (
  SELECT c.id
  FROM shoal.calls AS c
  JOIN given AS g USING (id)
  WHERE c.state IN ('open', 'maybe')
  ORDER BY c.id
  FOR UPDATE OF c
)
UPDATE shoal.calls AS c
SET
  state = 'maybe',
  doubted_at = coalesce(c.doubted_at, clock_timestamp()),
  generation_id = CASE WHEN c.generation_id = '' THEN g.generation_id ELSE c.generation_id END,
  look_up_at = CASE
    WHEN c.generation_id = '' AND g.generation_id <> ''
      THEN clock_timestamp() + make_interval(secs => %(look_up_seconds)s)
    ELSE c.look_up_at
  END
FROM given AS g
WHERE c.id = g.id AND c.id IN (SELECT id FROM locked)
