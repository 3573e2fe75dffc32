-- Doubts that are to be looked up now, for one caller; each comes again after a pause that doubles.  Row: the call.
UPDATE shoal.calls
SET
  lookups = lookups + 1,
  look_up_at = CASE
    WHEN lookups + 1 < %(lookups)s
      THEN clock_timestamp() + make_interval(secs => %(look_up_seconds)s * 2 ^ (lookups + 1))
  END
WHERE id IN (
  SELECT id
  FROM shoal.calls
  WHERE look_up_at <= clock_timestamp()
  ORDER BY look_up_at
  LIMIT %(most)s
  FOR UPDATE SKIP LOCKED
)
RETURNING
  id, job_id, kind, tenant, model, question, extract(epoch FROM started_at)::float8, bound_nano_usd,
  overdue_seconds, generation_id
