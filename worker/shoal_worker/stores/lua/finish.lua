-- Store how a job ended, once: the first writer wins. It begins with the texts of `dead.lua` and
-- `aliases.lua`.
-- KEYS: job record, result record, dead letters, their times, the job's calls, sums of the day, the job's aliases.
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
tell_aliases(KEYS[7], ARGV[6], ARGV[4], ARGV[2], ARGV[3])
-- What the job cost is what each job saved that joined it.
local cost = redis.call('HMGET', KEYS[5], 'labels', 'nano_usd')
if cost[1] then
  local nano_usd = cost[2] or 0
  local joins = redis.call('HGET', KEYS[1], 'joins')
  redis.call('HSET', KEYS[1], 'cost_labels', cost[1], 'nano_usd', nano_usd)
  if joins then
    redis.call('HDEL', KEYS[1], 'joins')
    redis.call('HINCRBY', KEYS[6], 'joined_jobs|' .. cost[1], joins)
    redis.call('HINCRBY', KEYS[6], 'joined_saved_nano_usd|' .. cost[1], joins * nano_usd)
    redis.call('EXPIRE', KEYS[6], 400 * 86400)
  end
  -- Not deleted at once: a script that a server has yet to be told comes after the others of its round trip.
  redis.call('EXPIRE', KEYS[5], 10)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[7] ~= '' then
  keep_letter(KEYS[3], KEYS[4], ARGV[6], ARGV[7], ARGV[8])
end
return 1
