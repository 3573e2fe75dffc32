-- Doubts that nothing will clear any more stay in the sums and are settled by nobody.  Row: id of each.
UPDATE shoal.calls
SET state = 'forgotten', look_up_at = NULL
WHERE id IN (
  SELECT id
  FROM shoal.calls
  WHERE state = 'maybe' AND doubted_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)
  LIMIT %(most)s
  FOR UPDATE SKIP LOCKED
)
RETURNING id
