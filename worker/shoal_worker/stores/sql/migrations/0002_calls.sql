-- The ledger of paid calls, one row a call, and what rows that have gone and joined jobs add up to.

CREATE TABLE shoal.calls (
  id text PRIMARY KEY,
  job_id text NOT NULL,
  kind text NOT NULL,
  tenant text NOT NULL,
  model text NOT NULL,
  day date NOT NULL,                             -- the UTC day it started on: whose sums it is in
  started_at timestamptz NOT NULL,
  question text NOT NULL,                        -- equal for requests of equal bytes
  -- open; billed or free (nothing was charged); replayed (answered out of another call, for nothing);
  -- maybe (its reply was lost), forgotten (the same, and nothing will tell any more)
  state text NOT NULL DEFAULT 'open',
  bound_nano_usd bigint NOT NULL,                -- what it can cost at most
  overdue_seconds double precision NOT NULL,
  overdue_at timestamptz NOT NULL,               -- open for longer, its worker is gone
  doubted_at timestamptz,
  generation_id text NOT NULL DEFAULT '',        -- the provider's own name for it
  look_up_at timestamptz,                        -- when the provider is asked what it charged
  lookups integer NOT NULL DEFAULT 0,
  replay_of text NOT NULL DEFAULT '',            -- the generation that answered it
  nano_usd bigint NOT NULL DEFAULT 0,
  input_tokens bigint NOT NULL DEFAULT 0,
  cached_tokens bigint NOT NULL DEFAULT 0,
  output_tokens bigint NOT NULL DEFAULT 0,
  cache_saved_nano_usd bigint NOT NULL DEFAULT 0,
  replay_saved_nano_usd bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE INDEX calls_job_id ON shoal.calls (job_id);
CREATE INDEX calls_day ON shoal.calls (day);
CREATE INDEX calls_overdue_at ON shoal.calls (overdue_at) WHERE state = 'open';
CREATE INDEX calls_doubted_at ON shoal.calls (doubted_at) WHERE state = 'maybe';
CREATE INDEX calls_look_up_at ON shoal.calls (look_up_at) WHERE look_up_at IS NOT NULL;

CREATE TABLE shoal.cost_sums (
  day date NOT NULL,
  kind text NOT NULL,
  tenant text NOT NULL,
  model text NOT NULL,
  billed_calls bigint NOT NULL DEFAULT 0,
  billed_nano_usd bigint NOT NULL DEFAULT 0,
  input_tokens bigint NOT NULL DEFAULT 0,
  cached_tokens bigint NOT NULL DEFAULT 0,
  output_tokens bigint NOT NULL DEFAULT 0,
  maybe_calls bigint NOT NULL DEFAULT 0,
  maybe_nano_usd bigint NOT NULL DEFAULT 0,
  replayed_calls bigint NOT NULL DEFAULT 0,
  replay_saved_nano_usd bigint NOT NULL DEFAULT 0,
  cache_saved_nano_usd bigint NOT NULL DEFAULT 0,
  joined_jobs bigint NOT NULL DEFAULT 0,
  joined_saved_nano_usd bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (day, kind, tenant, model)
);

-- Jobs that joined this one while it ran; what they saved is known when it ends.
ALTER TABLE shoal.jobs ADD COLUMN joins integer NOT NULL DEFAULT 0;

-- Each call in the columns of the sums.
CREATE VIEW shoal.call_costs AS
SELECT
  day, kind, tenant, model,
  (state = 'billed')::int AS billed_calls,
  nano_usd AS billed_nano_usd,
  input_tokens,
  cached_tokens,
  output_tokens,
  (state IN ('maybe', 'forgotten'))::int AS maybe_calls,
  CASE WHEN state IN ('maybe', 'forgotten') THEN bound_nano_usd ELSE 0 END AS maybe_nano_usd,
  (state = 'replayed')::int AS replayed_calls,
  replay_saved_nano_usd,
  cache_saved_nano_usd,
  0 AS joined_jobs,
  0 AS joined_saved_nano_usd
FROM shoal.calls
WHERE state <> 'open';

-- All of it, by day, kind, tenant and model: what `shoal cost` prints.
CREATE VIEW shoal.cost AS
SELECT
  day, kind, tenant, model,
  sum(billed_calls)::bigint AS billed_calls,
  sum(billed_nano_usd)::bigint AS billed_nano_usd,
  sum(input_tokens)::bigint AS input_tokens,
  sum(cached_tokens)::bigint AS cached_tokens,
  sum(output_tokens)::bigint AS output_tokens,
  sum(maybe_calls)::bigint AS maybe_calls,
  sum(maybe_nano_usd)::bigint AS maybe_nano_usd,
  sum(replayed_calls)::bigint AS replayed_calls,
  sum(replay_saved_nano_usd)::bigint AS replay_saved_nano_usd,
  sum(cache_saved_nano_usd)::bigint AS cache_saved_nano_usd,
  sum(joined_jobs)::bigint AS joined_jobs,
  sum(joined_saved_nano_usd)::bigint AS joined_saved_nano_usd
FROM (SELECT * FROM shoal.cost_sums UNION ALL SELECT * FROM shoal.call_costs) AS every
GROUP BY day, kind, tenant, model;

-- The same in dollars, for people.
CREATE VIEW shoal.cost_by_day AS
SELECT
  day, kind, tenant,
  sum(billed_calls) AS calls,
  sum(billed_nano_usd) / 1e9 AS billed_usd,
  sum(maybe_calls) AS maybe_billed_calls,
  sum(maybe_nano_usd) / 1e9 AS maybe_billed_usd_at_most,
  sum(replay_saved_nano_usd) / 1e9 AS saved_by_replay_usd,
  sum(cache_saved_nano_usd) / 1e9 AS saved_by_prompt_cache_usd,
  sum(joined_saved_nano_usd) / 1e9 AS saved_by_joining_usd
FROM shoal.cost
GROUP BY day, kind, tenant;
