-- Take what the outbox has to publish. Whoever takes it and dies leaves it to the next, some time later.
-- Row: id, message, the mark that tells this taking from others.
UPDATE shoal.jobs
SET due_at = clock_timestamp() + make_interval(secs => %(claim_seconds)s)
WHERE id IN (
  SELECT id FROM shoal.jobs WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
RETURNING id, message, due_at
