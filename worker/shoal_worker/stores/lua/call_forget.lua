-- Drop doubts that nothing will clear any more.  ARGV: how old in seconds, how many at once.
local ids = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now() - ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
end
return #ids
