-- Other ids under which a job's ending is stored too: those that producers have chosen which are not ours.
CREATE TABLE shoal.aliases (
  job_id text NOT NULL,
  alias text NOT NULL,
  keep_until timestamptz NOT NULL,
  PRIMARY KEY (job_id, alias)
);
CREATE INDEX aliases_keep_until ON shoal.aliases (keep_until);
