-- Delete what has been kept long enough, a bounded number of rows.  Row: how many were deleted.
WITH endings AS (
  DELETE FROM shoal.endings
  WHERE job_id IN (
    SELECT job_id FROM shoal.endings WHERE keep_until < clock_timestamp() LIMIT %(most)s FOR UPDATE SKIP LOCKED
  )
  RETURNING 1
),
jobs AS (
  DELETE FROM shoal.jobs
  WHERE id IN (
    SELECT id FROM shoal.jobs WHERE keep_until < clock_timestamp() LIMIT %(most)s FOR UPDATE SKIP LOCKED
  )
  RETURNING 1
),
aliases AS (
  DELETE FROM shoal.aliases
  WHERE (job_id, alias) IN (
    SELECT job_id, alias FROM shoal.aliases
    WHERE keep_until < clock_timestamp()
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING 1
),
letters AS (
  DELETE FROM shoal.dead_letters
  WHERE job_id IN (
    SELECT job_id FROM shoal.dead_letters
    WHERE died_at < to_timestamp(%(died_before)s)
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING 1
)
SELECT
  (SELECT count(*) FROM endings) + (SELECT count(*) FROM jobs)
  + (SELECT count(*) FROM aliases) + (SELECT count(*) FROM letters)
