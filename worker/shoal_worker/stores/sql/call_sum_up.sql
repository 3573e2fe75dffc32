-- Calls of long ago become sums.  Row: how many.
WITH gone AS (
  DELETE FROM shoal.calls
  WHERE id IN (
    SELECT id
    FROM shoal.calls
    WHERE day < (clock_timestamp() AT TIME ZONE 'UTC')::date - %(keep_days)s::int AND state NOT IN ('open', 'maybe')
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING *
),
sums AS (
  INSERT INTO shoal.cost_sums AS s
  SELECT
    day, kind, tenant, model,
    count(*) FILTER (WHERE state = 'billed'),
    sum(nano_usd),
    sum(input_tokens),
    sum(cached_tokens),
    sum(output_tokens),
    count(*) FILTER (WHERE state = 'forgotten'),
    coalesce(sum(bound_nano_usd) FILTER (WHERE state = 'forgotten'), 0),
    count(*) FILTER (WHERE state = 'replayed'),
    sum(replay_saved_nano_usd),
    sum(cache_saved_nano_usd),
    0,
    0
  FROM gone
  GROUP BY day, kind, tenant, model
  ON CONFLICT (day, kind, tenant, model) DO UPDATE SET
    billed_calls = s.billed_calls + excluded.billed_calls,
    billed_nano_usd = s.billed_nano_usd + excluded.billed_nano_usd,
    input_tokens = s.input_tokens + excluded.input_tokens,
    cached_tokens = s.cached_tokens + excluded.cached_tokens,
    output_tokens = s.output_tokens + excluded.output_tokens,
    maybe_calls = s.maybe_calls + excluded.maybe_calls,
    maybe_nano_usd = s.maybe_nano_usd + excluded.maybe_nano_usd,
    replayed_calls = s.replayed_calls + excluded.replayed_calls,
    replay_saved_nano_usd = s.replay_saved_nano_usd + excluded.replay_saved_nano_usd,
    cache_saved_nano_usd = s.cache_saved_nano_usd + excluded.cache_saved_nano_usd
)
SELECT count(*) FROM gone
