-- Claim a key and queue its message, in one step: a producer that dies leaves both or neither.
-- KEYS: job record, result record, queue (or, where that is not in this server, the outbox), dead letters, their times,
-- sums of the day.
-- ARGV: fingerprint, message, seconds to keep the record, job id, seconds in the outbox or '' for the queue itself.
-- Returns {what became of it, status}: queued, joined or conflict.
local known = redis.call('HGET', KEYS[1], 'fingerprint')
if known and known ~= ARGV[1] then
  return {'conflict', ''}
end
if known then
  local status = redis.call('HGET', KEYS[1], 'status')
  local over = status == 'discarded' or status == 'cancelled'
  local forgotten = status == 'completed' and redis.call('EXISTS', KEYS[2]) == 0
  if not over and not forgotten then
    -- What joining saves is what the job cost: known now, or counted when it ends. No count may keep a job out.
    local cost = redis.call('HMGET', KEYS[1], 'nano_usd', 'cost_labels')
    if cost[2] then
      redis.pcall('HINCRBY', KEYS[6], 'joined_jobs|' .. cost[2], 1)
      redis.pcall('HINCRBY', KEYS[6], 'joined_saved_nano_usd|' .. cost[2], cost[1])
      redis.pcall('EXPIRE', KEYS[6], 400 * 86400)
    elseif status ~= 'completed' then
      redis.pcall('HINCRBY', KEYS[1], 'joins', 1)
    end
    return {'joined', status}
  end
  redis.call('DEL', KEYS[1], KEYS[2])
end
-- A job that died and is enqueued again is dead no longer.
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[4])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'status', 'available')
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[5] == '' then
  redis.call('LPUSH', KEYS[3], ARGV[2])
else
  redis.call('ZADD', KEYS[3], redis.call('TIME')[1] + ARGV[5], ARGV[2])
end
return {'queued', 'available'}
