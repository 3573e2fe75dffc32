-- Take calls and tokens out of the shared buckets, as `quota.granted` does.
-- KEYS: quota (hash). ARGV: calls a second or -1, its depth, tokens a second or -1, its depth, settled, seconds to
--       keep, then the tokens of each call that waits. Answers: calls granted, calls and tokens left, now.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local at = tonumber(known[3] or now)
local function filled(balance, per_second, most)
  balance = tonumber(balance or most)
  return math.max(balance, math.min(most, balance + math.max(0, now - at) * per_second))
end
local rps, tps = tonumber(ARGV[1]), tonumber(ARGV[3])
local requests = filled(known[1], rps, tonumber(ARGV[2]))
local tokens = filled(known[2], tps, tonumber(ARGV[4])) - ARGV[5]
local calls = 0
for place = 7, #ARGV do
  if (rps >= 0 and requests < 1) or (tps >= 0 and tokens <= 0) then
    break
  end
  requests, tokens, calls = requests - 1, tokens - ARGV[place], calls + 1
end
local text = {string.format('%.6f', requests), string.format('%.6f', tokens), string.format('%.6f', now)}
redis.call('HSET', KEYS[1], 'requests', text[1], 'tokens', text[2], 'at', text[3])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return {calls, text[1], text[2], text[3]}
