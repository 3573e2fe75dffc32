-- Jobs, how they ended, and dead letters. Everything is in the schema `shoal`, but for the view Celery looks for.

CREATE TABLE shoal.jobs (
  id text PRIMARY KEY,
  key text NOT NULL DEFAULT '',
  fingerprint text,                            -- null: a message came whose claim is not here
  kind text NOT NULL DEFAULT '',
  tenant text NOT NULL DEFAULT '',
  status text NOT NULL,
  message text,                                -- the JobMessage as it was last queued, JSON
  enqueued_at timestamptz,
  expires_at timestamptz,
  due_at timestamptz,                          -- the outbox: to be put into the queue then. Null: it is there, or over
  holder text,                                 -- the attempt that has the lease
  lease_until timestamptz,
  deliveries integer NOT NULL DEFAULT 0,       -- starts since the last orderly end
  keep_until timestamptz NOT NULL
) WITH (fillfactor = 70);                      -- room for new versions of a row on its own page
CREATE INDEX jobs_due ON shoal.jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_keep_until ON shoal.jobs (keep_until);

-- One row a job that has ended, written once: the first writer wins.
CREATE TABLE shoal.endings (
  job_id text PRIMARY KEY,
  kind text NOT NULL DEFAULT '',
  tenant text NOT NULL DEFAULT '',
  status text NOT NULL,                        -- completed, discarded or cancelled
  record jsonb NOT NULL,                       -- Celery's result record; its result is the Outcome
  exact text,                                  -- the record's own text, where JSONB cannot hold it (U+0000)
  finished_at timestamptz NOT NULL,
  keep_until timestamptz NOT NULL
);
CREATE INDEX endings_finished_at ON shoal.endings (finished_at);
CREATE INDEX endings_keep_until ON shoal.endings (keep_until);

CREATE TABLE shoal.dead_letters (
  job_id text PRIMARY KEY,
  kind text NOT NULL,
  tenant text NOT NULL DEFAULT '',
  cause text NOT NULL,
  fingerprint text NOT NULL,                   -- shared by letters that died of the same
  reason text NOT NULL,
  attempts integer NOT NULL,
  died_at timestamptz NOT NULL,
  letter text NOT NULL                         -- the DeadLetter, JSON
);
CREATE INDEX dead_letters_died_at ON shoal.dead_letters (died_at);
CREATE INDEX dead_letters_cause ON shoal.dead_letters (cause, died_at);

-- For people and their dashboards.

CREATE VIEW shoal.results AS
SELECT
  job_id,
  kind,
  tenant,
  finished_at,
  record #> '{result,result}' AS result,
  (record #>> '{result,usage,cost_usd}')::numeric AS cost_usd,
  (record #>> '{result,usage,input_tokens}')::bigint AS input_tokens,
  (record #>> '{result,usage,cached_tokens}')::bigint AS cached_tokens,
  (record #>> '{result,usage,output_tokens}')::bigint AS output_tokens,
  record #>> '{result,model}' AS model,
  record #>> '{result,provider}' AS provider,
  (record #>> '{result,attempts}')::integer AS attempts,
  (record #>> '{result,queue_seconds}')::double precision AS queue_seconds,
  (record #>> '{result,run_seconds}')::double precision AS run_seconds
FROM shoal.endings
WHERE status = 'completed';

CREATE VIEW shoal.failures AS
SELECT
  cause,
  fingerprint,
  count(*) AS letters,
  min(died_at) AS oldest,
  max(died_at) AS newest,
  (array_agg(job_id ORDER BY died_at DESC))[1] AS newest_job_id,
  (array_agg(reason ORDER BY died_at DESC))[1] AS newest_reason
FROM shoal.dead_letters
GROUP BY cause, fingerprint;

-- What `Celery(backend="db+postgresql+psycopg://…")` reads: its own table's columns.
CREATE VIEW public.celery_taskmeta AS
SELECT
  row_number() OVER () AS id,
  job_id AS task_id,
  record ->> 'status' AS status,
  convert_to(coalesce((exact::json -> 'result')::text, (record -> 'result')::text), 'UTF8') AS result,
  finished_at AT TIME ZONE 'UTC' AS date_done,
  NULL::text AS traceback,
  NULL::bytea AS children
FROM shoal.endings;
