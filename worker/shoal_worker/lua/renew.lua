-- Tell the others that these messages are still being worked on.
-- KEYS  1 unacked_index   ARGV (tag, score) for each message
-- Reply {now, then the tags that are no longer this worker's, ...}
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
local reply = {now}
for at = 1, #ARGV, 2 do
  local current = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if current and (ARGV[at + 1] == '' or tonumber(current) == tonumber(ARGV[at + 1])) then
    redis.call('ZADD', KEYS[1], 'XX', now, ARGV[at])
  else
    reply[#reply + 1] = ARGV[at]
  end
end
return reply
