-- A job that has ended and is enqueued again has neither a result nor a letter.
WITH gone AS (DELETE FROM shoal.endings WHERE job_id = ANY(%(ids)s::text[]))
DELETE FROM shoal.dead_letters WHERE job_id = ANY(%(ids)s::text[])
