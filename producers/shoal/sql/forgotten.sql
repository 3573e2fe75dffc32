-- Jobs that were answered and whose answers are gone go too, so that they can be claimed anew.  Row: id of each.
-- A statement of its own: what is not in its snapshot is not touched. In the claim, which decides by the newest version of
-- a row, an answer that was stored a moment ago would be missing, and the job be paid for twice.
DELETE FROM shoal.jobs AS j
WHERE
  (id, fingerprint) IN (SELECT * FROM unnest(%(ids)s::text[], %(fingerprints)s::text[]))
  AND status = 'completed'
  AND NOT EXISTS (SELECT FROM shoal.endings AS e WHERE e.job_id = j.id)
RETURNING id
