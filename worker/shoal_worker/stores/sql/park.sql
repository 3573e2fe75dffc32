-- Give jobs back to the queue for later, through the outbox.  Row: id of each that has not ended.
-- Without the lease (another attempt has it, or nobody) the job only comes up again, and its state stays as it is.
WITH given AS (
  SELECT *
  FROM unnest(%(id)s::text[], %(holder)s::text[], %(message)s::text[], %(after_seconds)s::float8[])
    AS g (id, holder, message, after_seconds)
),
locked AS (
  SELECT j.id FROM shoal.jobs AS j JOIN given AS g USING (id) ORDER BY j.id FOR UPDATE OF j
)
UPDATE shoal.jobs AS j
SET
  status = CASE WHEN j.holder = g.holder THEN 'retryable' ELSE j.status END,
  message = CASE WHEN j.holder = g.holder OR j.message IS NULL THEN g.message ELSE j.message END,
  holder = CASE WHEN j.holder = g.holder THEN NULL ELSE j.holder END,
  lease_until = CASE WHEN j.holder = g.holder THEN NULL ELSE j.lease_until END,
  deliveries = CASE WHEN j.holder = g.holder THEN 0 ELSE j.deliveries END,
  due_at = CASE
    WHEN j.holder = g.holder OR j.due_at IS NULL THEN clock_timestamp() + make_interval(secs => g.after_seconds)
    ELSE j.due_at
  END
FROM given AS g
WHERE
  j.id = g.id
  AND j.id IN (SELECT id FROM locked)
  AND j.status NOT IN ('completed', 'discarded', 'cancelled')
RETURNING j.id
