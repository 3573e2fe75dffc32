-- Store how jobs ended, once: the first writer wins. Their waiters are told when this commits.
-- Row: id of each that had not ended before.
WITH given AS (
  SELECT *
  FROM unnest(
    %(id)s::text[], %(holder)s::text[], %(status)s::text[], %(kind)s::text[], %(record)s::text[], %(exact)s::text[],
    %(finished_at)s::float8[], %(cause)s::text[], %(fingerprint)s::text[], %(reason)s::text[], %(attempts)s::int[],
    %(letter)s::text[]
  ) AS g (id, holder, status, kind, record, exact, finished_at, cause, fingerprint, reason, attempts, letter)
),
locked AS (
  SELECT j.id, j.holder, j.tenant, j.joins
  FROM shoal.jobs AS j
  JOIN given AS g USING (id)
  ORDER BY j.id
  FOR UPDATE OF j
),
-- Who has lost the lease (frozen for longer than it) may bring an answer, for it is paid, but must not give the job
-- up while another works on it.
allowed AS (
  SELECT g.*, coalesce(l.tenant, '') AS tenant, coalesce(l.joins, 0) AS joins
  FROM given AS g
  LEFT JOIN locked AS l USING (id)
  WHERE g.letter IS NULL OR g.holder = '' OR l.holder IS NULL OR l.holder = g.holder
),
stored AS (
  INSERT INTO shoal.endings (job_id, kind, tenant, status, record, exact, finished_at, keep_until)
  SELECT
    id, kind, tenant, status, record::jsonb, exact, to_timestamp(finished_at),
    clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM allowed
  ORDER BY id
  ON CONFLICT (job_id) DO NOTHING
  RETURNING job_id, status
),
aliased AS (
  INSERT INTO shoal.endings (job_id, kind, tenant, status, record, exact, finished_at, keep_until)
  SELECT
    a.alias, g.kind, g.tenant, g.status, replace(g.record, g.id, a.alias)::jsonb, replace(g.exact, g.id, a.alias),
    to_timestamp(g.finished_at), clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM allowed AS g
  JOIN stored AS s ON s.job_id = g.id
  JOIN shoal.aliases AS a ON a.job_id = g.id
  ORDER BY a.alias
  ON CONFLICT (job_id) DO NOTHING
  RETURNING job_id
),
released AS (
  UPDATE shoal.jobs AS j
  SET
    status = coalesce(s.status, j.status),
    holder = CASE WHEN j.holder = g.holder THEN NULL ELSE j.holder END,
    lease_until = CASE WHEN j.holder = g.holder THEN NULL ELSE j.lease_until END,
    deliveries = CASE WHEN j.holder = g.holder THEN 0 ELSE j.deliveries END,
    due_at = NULL,
    joins = 0,
    keep_until = clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM allowed AS g
  LEFT JOIN stored AS s ON s.job_id = g.id
  WHERE j.id = g.id
),
buried AS (
  INSERT INTO shoal.dead_letters (job_id, kind, tenant, cause, fingerprint, reason, attempts, died_at, letter)
  SELECT g.id, g.kind, g.tenant, g.cause, g.fingerprint, g.reason, g.attempts, to_timestamp(g.finished_at), g.letter
  FROM allowed AS g
  JOIN stored AS s ON s.job_id = g.id
  WHERE g.letter IS NOT NULL
  ON CONFLICT (job_id) DO NOTHING
),
-- What the job cost is what each job saved that joined it.
joined AS (
  INSERT INTO shoal.cost_sums AS c (day, kind, tenant, model, joined_jobs, joined_saved_nano_usd)
  SELECT
    (clock_timestamp() AT TIME ZONE 'UTC')::date,
    g.kind,
    g.tenant,
    coalesce((SELECT model FROM shoal.calls WHERE job_id = g.id LIMIT 1), g.record::jsonb #>> '{result,model}'),
    sum(g.joins),
    sum(g.joins * round((g.record::jsonb #>> '{result,usage,cost_usd}')::numeric * 1e9))
  FROM allowed AS g
  JOIN stored AS s ON s.job_id = g.id
  WHERE g.joins > 0 AND g.status = 'completed'
  GROUP BY 1, 2, 3, 4
  ON CONFLICT (day, kind, tenant, model) DO UPDATE SET
    joined_jobs = c.joined_jobs + excluded.joined_jobs,
    joined_saved_nano_usd = c.joined_saved_nano_usd + excluded.joined_saved_nano_usd
),
-- A payload has room for 8,000 bytes.
told AS (
  SELECT pg_notify('shoal_endings', string_agg(job_id, ','))
  FROM (
    SELECT job_id, sum(octet_length(job_id) + 1) OVER (ORDER BY job_id) / 4000 AS part
    FROM (SELECT job_id FROM stored UNION ALL SELECT job_id FROM aliased) AS ended
  ) AS parts
  GROUP BY part
)
SELECT job_id, (SELECT count(*) FROM told) FROM stored
