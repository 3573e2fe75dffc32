-- Claim keys and put their messages into the outbox: a producer that dies leaves both or neither.
-- Row: id of each that is to be queued, whether there was a row before, its mark in the outbox. Those left out are there already.
INSERT INTO shoal.jobs AS j (
  id, key, fingerprint, kind, tenant, status, message, enqueued_at, expires_at, due_at, keep_until
)
SELECT
  id, key, fingerprint, kind, tenant, 'available', message, to_timestamp(enqueued_at), to_timestamp(expires_at),
  clock_timestamp() + make_interval(secs => %(grace_seconds)s), to_timestamp(keep_until)
FROM unnest(
  %(id)s::text[], %(key)s::text[], %(fingerprint)s::text[], %(kind)s::text[], %(tenant)s::text[], %(message)s::text[],
  %(enqueued_at)s::float8[], %(expires_at)s::float8[], %(keep_until)s::float8[]
) AS g (id, key, fingerprint, kind, tenant, message, enqueued_at, expires_at, keep_until)
ORDER BY id
ON CONFLICT (id) DO UPDATE SET
  key = excluded.key,
  fingerprint = excluded.fingerprint,
  kind = excluded.kind,
  tenant = excluded.tenant,
  status = 'available',
  message = excluded.message,
  enqueued_at = excluded.enqueued_at,
  expires_at = excluded.expires_at,
  due_at = excluded.due_at,
  holder = NULL,
  lease_until = NULL,
  deliveries = 0,
  keep_until = excluded.keep_until
WHERE
  j.fingerprint IS NULL
  OR (
    j.fingerprint = excluded.fingerprint
    AND j.status IN ('discarded', 'cancelled')
  )
RETURNING id, xmax <> 0, due_at
