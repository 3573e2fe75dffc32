-- Set the next pace, if nobody was faster, and take out the counts that it was made of.
-- KEYS: pace. ARGV: the version it was made from, the pace, then name and number for each count.
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'pace', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HDEL', KEYS[1], 'since')
for place = 3, #ARGV, 2 do
  local name = 'n.' .. ARGV[place]
  local left = tonumber(redis.call('HINCRBYFLOAT', KEYS[1], name, -ARGV[place + 1]))
  if left < 0.000001 then
    redis.call('HDEL', KEYS[1], name)
  end
end
return 1
