-- Jobs are known by other ids too.
INSERT INTO shoal.aliases (job_id, alias, keep_until)
SELECT job_id, alias, clock_timestamp() + interval '30 days'
FROM unnest(%(job_id)s::text[], %(alias)s::text[]) AS g (job_id, alias)
ORDER BY job_id, alias
ON CONFLICT (job_id, alias) DO NOTHING
RETURNING job_id
