-- Forget dead letters that are old. It begins with the text of `dead.lua`.
-- KEYS: dead letters, their times.  ARGV: Unix time before which they died, at most so many.  Returns how many there were.
local old = redis.call('ZRANGE', KEYS[2], '-inf', '(' .. ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, id in ipairs(old) do
  drop_letter(KEYS[1], KEYS[2], id)
end

-- Workers of an earlier release keep letters and do not count them.
local counted = 0
for _, number in ipairs(redis.call('HVALS', KEYS[1] .. ':causes')) do
  counted = counted + number
end
if counted ~= redis.call('HLEN', KEYS[1]) then
  redis.call('DEL', KEYS[1] .. ':causes')
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    local letter = redis.call('HGET', KEYS[1], id)
    if letter then
      count_letter(KEYS[1], letter, 1)
    end
  end
end
return #old
