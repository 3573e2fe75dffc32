-- Put everything into the outbox that was accepted and never answered, and that nobody works on.
UPDATE shoal.jobs
SET due_at = clock_timestamp()
WHERE
  status NOT IN ('completed', 'discarded', 'cancelled')
  AND message IS NOT NULL
  AND due_at IS NULL
  AND (holder IS NULL OR lease_until <= clock_timestamp())
  AND enqueued_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)
