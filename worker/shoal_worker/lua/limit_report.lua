-- One process tells what it saw of a model and hears where all stand.
-- KEYS: pace (hash), members (hash), pause of the whole key (string).
-- ARGV: member, its state, seconds until a silent member is dead, pause seconds or 0, seconds to keep, then name and
--       number for each count.
-- Answers: now, version, pace, since, pause, counts (name, number, …), members (id, state, …).
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local stamp = string.format('%.6f', now)
local counted = false
for place = 6, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', KEYS[1], 'n.' .. ARGV[place], ARGV[place + 1])
  counted = true
end
if counted then
  redis.call('HSETNX', KEYS[1], 'since', stamp)
end
redis.call('HSET', KEYS[2], ARGV[1], stamp .. ' ' .. ARGV[2])
local members = {}
local all = redis.call('HGETALL', KEYS[2])
for place = 1, #all, 2 do
  local seen, state = string.match(all[place + 1], '^(%S+) (.*)$')
  if now - tonumber(seen) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[2], all[place])
  else
    table.insert(members, all[place])
    table.insert(members, state)
  end
end
local pause = tonumber(redis.call('GET', KEYS[3]) or '0')
if tonumber(ARGV[4]) > 0 and now + ARGV[4] > pause then
  pause = now + ARGV[4]
  redis.call('SET', KEYS[3], string.format('%.6f', pause), 'PX', math.ceil(ARGV[4] * 1000))
end
local counts = {}
local fields = redis.call('HGETALL', KEYS[1])
local known = {}
for place = 1, #fields, 2 do
  if string.sub(fields[place], 1, 2) == 'n.' then
    table.insert(counts, string.sub(fields[place], 3))
    table.insert(counts, fields[place + 1])
  else
    known[fields[place]] = fields[place + 1]
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return {stamp, known.version or '0', known.pace or '', known.since or stamp, string.format('%.6f', pause), counts, members}
