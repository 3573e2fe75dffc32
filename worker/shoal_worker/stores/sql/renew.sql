-- Keep leases that are still ours. Parameters: ids, holders, lease in seconds.  Row: id of each that is.
WITH asked AS (
  SELECT * FROM unnest(%(id)s::text[], %(holder)s::text[]) AS a (id, holder)
),
locked AS (
  SELECT j.id
  FROM shoal.jobs AS j
  JOIN asked AS a ON a.id = j.id AND a.holder = j.holder
  ORDER BY j.id
  FOR UPDATE OF j
)
UPDATE shoal.jobs AS j
SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
FROM asked AS a
WHERE j.id = a.id AND j.holder = a.holder AND j.id IN (SELECT id FROM locked)
RETURNING j.id
