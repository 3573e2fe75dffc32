-- Take the lead of the beats, or keep it. Each term has a number of its own, which fences what its leader writes.
-- KEYS: leader, number of the last term.  ARGV: name of the beat, its lease in milliseconds.
-- Returns {the leader's term and name, seconds, microseconds of the server's clock}.
local leader = redis.call('GET', KEYS[1])
if not leader then
  leader = redis.call('INCR', KEYS[2]) .. ' ' .. ARGV[1]
  redis.call('SET', KEYS[1], leader, 'PX', ARGV[2])
elseif string.match(leader, '^%d+ (.*)$') == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local time = redis.call('TIME')
return {leader, time[1], time[2]}
