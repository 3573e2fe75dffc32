-- Messages of the outbox whose time has come. They stay in it, out of other workers' sight for a while, until they are
-- published: a worker that dies between the two makes a message come twice, and never makes one come not at all.
-- KEYS: parked messages.  ARGV: at most so many, seconds out of sight.
local now = tonumber(redis.call('TIME')[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, message in ipairs(due) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], message)
end
return due
