-- Messages that nobody renewed for the visibility timeout: their worker is gone.
-- KEYS  1 unacked   2 unacked_index   ARGV  1 visibility timeout, seconds   2 at most so many
-- Reply {tag, score, value, ...}; an index entry without a message is dropped here.
local time = redis.call('TIME')
local before = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6 - tonumber(ARGV[1]))
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', before, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local reply = {}
for at = 1, #found, 2 do
  local value = redis.call('HGET', KEYS[1], found[at])
  if value then
    reply[#reply + 1] = found[at]
    reply[#reply + 1] = found[at + 1]
    reply[#reply + 1] = value
  else
    redis.call('ZREM', KEYS[2], found[at])
  end
end
return reply
