-- Start an attempt: replay a stored result, step aside for a live lease, or take the lease.
-- KEYS: job record, result record.  ARGV: holder, lease in ms, seconds to keep the record.
local stored = redis.call('GET', KEYS[2])
if stored then
  return {'done', stored}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'holder', 'lease_until')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > now then
  return {'held', tonumber(held[2]) - now}
end
redis.call('HSET', KEYS[1], 'status', 'running', 'holder', ARGV[1], 'lease_until', now + ARGV[2])
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return {'granted', redis.call('HINCRBY', KEYS[1], 'deliveries', 1)}
