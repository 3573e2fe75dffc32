-- What open or maybe-billed calls were charged. Replays of theirs have saved as much.  Row: id of each that was settled.
WITH given AS (
  SELECT *
  FROM unnest(
    %(id)s::text[], %(state)s::text[], %(generation_id)s::text[], %(nano_usd)s::bigint[], %(input_tokens)s::bigint[],
    %(cached_tokens)s::bigint[], %(output_tokens)s::bigint[], %(cache_saved_nano_usd)s::bigint[]
  ) AS g (
    id, state, generation_id, nano_usd, input_tokens, cached_tokens, output_tokens, cache_saved_nano_usd
  )
),
locked AS (
  SELECT c.id
  FROM shoal.calls AS c
  JOIN given AS g USING (id)
  WHERE c.state IN ('open', 'maybe')
  ORDER BY c.id
  FOR UPDATE OF c
),
settled AS (
  UPDATE shoal.calls AS c
  SET
    state = g.state,
    generation_id = g.generation_id,
    look_up_at = NULL,
    nano_usd = g.nano_usd,
    input_tokens = g.input_tokens,
    cached_tokens = g.cached_tokens,
    output_tokens = g.output_tokens,
    cache_saved_nano_usd = g.cache_saved_nano_usd
  FROM given AS g
  WHERE c.id = g.id AND c.id IN (SELECT id FROM locked)
  RETURNING c.id, c.job_id, c.generation_id, c.nano_usd
),
saved AS (
  UPDATE shoal.calls AS c
  SET replay_saved_nano_usd = s.nano_usd
  FROM settled AS s
  WHERE s.generation_id <> '' AND c.job_id = s.job_id AND c.state = 'replayed' AND c.replay_of = s.generation_id
)
SELECT id FROM settled
