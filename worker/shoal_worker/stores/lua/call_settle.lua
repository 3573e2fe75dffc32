-- Count what a call was charged.
-- ARGV: call id, labels, generation id, 1 where it is billed, nano-USD, tokens in, cached, out, nano-USD that the prompt
-- cache saved.
local call = take(ARGV[1], KEYS[7], ARGV[2])
if not call then
  return 0
end
local known = redis.call('HDEL', KEYS[6], 'call:' .. ARGV[1]) == 1
if ARGV[4] ~= '1' then
  return 1
end
local names = {'nano_usd', 'input_tokens', 'cached_tokens', 'output_tokens', 'cache_saved_nano_usd'}
count(KEYS[7], ARGV[2], 'billed_calls', 1)
for place, name in ipairs(names) do
  count(KEYS[7], ARGV[2], name == 'nano_usd' and 'billed_nano_usd' or name, tonumber(ARGV[4 + place]))
end
count(KEYS[7], ARGV[2], 'replay_saved_nano_usd', (call.replays or 0) * ARGV[5])
if known then
  redis.call('HINCRBY', KEYS[6], 'nano_usd', ARGV[5])
  redis.call('HSET', KEYS[6], 'generation:' .. ARGV[3], ARGV[5])
end
return 1
