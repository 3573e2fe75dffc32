-- Jobs that joined others: what that saved is what those cost, counted now or when they end.
WITH running AS (
  UPDATE shoal.jobs SET joins = joins + 1
  WHERE id = ANY(%(ids)s::text[]) AND status NOT IN ('completed', 'discarded', 'cancelled')
)
INSERT INTO shoal.cost_sums AS c (day, kind, tenant, model, joined_jobs, joined_saved_nano_usd)
SELECT
  (clock_timestamp() AT TIME ZONE 'UTC')::date,
  kind,
  tenant,
  coalesce((SELECT model FROM shoal.calls AS p WHERE p.job_id = e.job_id LIMIT 1), record #>> '{result,model}'),
  count(*),
  sum(round((record #>> '{result,usage,cost_usd}')::numeric * 1e9))
FROM shoal.endings AS e
WHERE job_id = ANY(%(ids)s::text[]) AND status = 'completed'
GROUP BY 1, 2, 3, 4
ON CONFLICT (day, kind, tenant, model) DO UPDATE SET
  joined_jobs = c.joined_jobs + excluded.joined_jobs,
  joined_saved_nano_usd = c.joined_saved_nano_usd + excluded.joined_saved_nano_usd
