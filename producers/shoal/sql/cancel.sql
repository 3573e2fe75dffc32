-- Cancel a job that has not ended.  Row: its status before; none for an unknown job.
WITH job AS (
  SELECT id, status, kind, tenant FROM shoal.jobs WHERE id = %(id)s FOR UPDATE
),
stored AS (
  INSERT INTO shoal.endings (job_id, kind, tenant, status, record, exact, finished_at, keep_until)
  SELECT
    id, kind, tenant, 'cancelled', %(record)s::text::jsonb, %(exact)s::text, to_timestamp(%(now)s),
    clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM job
  WHERE status NOT IN ('completed', 'discarded', 'cancelled')
  ON CONFLICT (job_id) DO NOTHING
  RETURNING job_id
),
ended AS (
  UPDATE shoal.jobs AS j SET status = 'cancelled', due_at = NULL FROM stored AS s WHERE j.id = s.job_id
),
aliased AS (
  INSERT INTO shoal.endings (job_id, kind, tenant, status, record, exact, finished_at, keep_until)
  SELECT
    a.alias, job.kind, job.tenant, 'cancelled', replace(%(record)s::text, s.job_id, a.alias)::jsonb,
    replace(%(exact)s::text, s.job_id, a.alias), to_timestamp(%(now)s),
    clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM stored AS s
  JOIN job ON job.id = s.job_id
  JOIN shoal.aliases AS a ON a.job_id = s.job_id
  ON CONFLICT (job_id) DO NOTHING
  RETURNING job_id
),
told AS (
  SELECT pg_notify('shoal_endings', job_id) FROM (SELECT job_id FROM stored UNION ALL SELECT job_id FROM aliased) AS ended
)
SELECT status, (SELECT count(*) FROM told) FROM job
