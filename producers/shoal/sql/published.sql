-- They are in the queue now: take them out of the outbox, unless they are there again for another time.
UPDATE shoal.jobs AS j
SET due_at = NULL
FROM unnest(%(ids)s::text[], %(marks)s::timestamptz[]) AS p (id, mark)
WHERE j.id = p.id AND j.due_at IS NOT DISTINCT FROM p.mark
