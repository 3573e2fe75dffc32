-- Store how a job ended, once: the first writer wins.
-- KEYS: job record, result record, dead letters, their times.
-- ARGV: holder, result, seconds to keep it, channel, status, job id, dead letter or '', Unix time of its death.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'holder', 'lease_until', 'deliveries')
elseif holder and ARGV[1] ~= '' and ARGV[7] ~= '' then
  -- Who has lost the lease (frozen for longer than it) may bring an answer, for it is paid, but must not give the job
  -- up while another works on it.
  return 0
end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'EX', ARGV[3]) then
  return 0
end
redis.call('PUBLISH', ARGV[4], ARGV[2])
redis.call('HSET', KEYS[1], 'status', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
  redis.call('ZADD', KEYS[4], ARGV[8], ARGV[6])
end
return 1
