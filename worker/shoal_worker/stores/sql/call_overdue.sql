-- Open calls past their time become maybe billed: their workers are gone.  Row: id of each.
UPDATE shoal.calls
SET state = 'maybe', doubted_at = clock_timestamp()
WHERE id IN (
  SELECT id
  FROM shoal.calls
  WHERE state = 'open' AND overdue_at <= clock_timestamp()
  ORDER BY overdue_at
  LIMIT %(most)s
  FOR UPDATE SKIP LOCKED
)
RETURNING id
