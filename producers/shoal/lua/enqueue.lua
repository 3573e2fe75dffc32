-- Claim a key and queue its message, in one step: a producer that dies leaves both or neither.
-- KEYS: dead letters, their times, sums of the day, job record, result record, outbox.
-- ARGV: job id, fingerprint, seconds to keep the record, message, seconds in the outbox or '' for the queue itself,
-- queue, tenant.
local became = claim(KEYS[4], KEYS[5], ARGV[1], ARGV[2], ARGV[3])
if became == 'queued' then
  if ARGV[5] == '' then
    put('LPUSH', ARGV[6], ARGV[7], ARGV[4])
  else
    redis.call('ZADD', KEYS[6], redis.call('TIME')[1] + ARGV[5], ARGV[4])
  end
end
return became
