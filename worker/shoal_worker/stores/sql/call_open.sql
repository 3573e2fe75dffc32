-- Put calls down before they are sent.  Row: none.
INSERT INTO shoal.calls (
  id, job_id, kind, tenant, model, day, started_at, question, bound_nano_usd, overdue_seconds, overdue_at
)
SELECT
  id, job_id, kind, tenant, model, (to_timestamp(started_at) AT TIME ZONE 'UTC')::date, to_timestamp(started_at),
  question, bound_nano_usd, overdue_seconds, clock_timestamp() + make_interval(secs => overdue_seconds)
FROM unnest(
  %(id)s::text[], %(job_id)s::text[], %(kind)s::text[], %(tenant)s::text[], %(model)s::text[], %(question)s::text[],
  %(started_at)s::float8[], %(bound_nano_usd)s::bigint[], %(overdue_seconds)s::float8[]
) AS g (id, job_id, kind, tenant, model, question, started_at, bound_nano_usd, overdue_seconds)
ORDER BY id
ON CONFLICT (id) DO NOTHING
