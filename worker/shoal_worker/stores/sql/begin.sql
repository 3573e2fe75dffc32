-- Start attempts: take the leases that are free. Parameters: ids, holders, lease and record life in seconds.
-- Row: id, starts since the last orderly end or null, the stored record or null, seconds the lease of another still runs.
WITH asked AS (
  SELECT * FROM unnest(%(id)s::text[], %(holder)s::text[]) AS a (id, holder)
),
taken AS (
  INSERT INTO shoal.jobs AS j (id, status, holder, lease_until, deliveries, keep_until)
  SELECT
    id,
    'running',
    holder,
    clock_timestamp() + make_interval(secs => %(lease_seconds)s),
    1,
    clock_timestamp() + make_interval(secs => %(keep_seconds)s)
  FROM asked
  WHERE NOT EXISTS (SELECT FROM shoal.endings WHERE job_id = asked.id)
  ORDER BY id
  ON CONFLICT (id) DO UPDATE SET
    status = 'running',
    holder = excluded.holder,
    lease_until = excluded.lease_until,
    deliveries = j.deliveries + 1,
    due_at = NULL
  -- The newest version of the row decides, whatever this statement's snapshot saw.
  WHERE
    j.status NOT IN ('completed', 'discarded', 'cancelled')
    AND (j.holder IS NULL OR j.holder = excluded.holder OR j.lease_until <= clock_timestamp())
  RETURNING id, deliveries
)
SELECT
  a.id,
  t.deliveries,
  CASE WHEN t.id IS NULL THEN coalesce(e.exact, e.record::text) END,
  greatest(0, extract(epoch FROM j.lease_until - clock_timestamp()))::double precision
FROM asked AS a
LEFT JOIN taken AS t USING (id)
LEFT JOIN shoal.endings AS e ON e.job_id = a.id
LEFT JOIN shoal.jobs AS j ON j.id = a.id
