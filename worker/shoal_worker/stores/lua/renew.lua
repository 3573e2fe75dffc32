-- Keep a lease that is still ours.  KEYS: job record.  ARGV: holder, lease in ms.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'lease_until', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
return 1
