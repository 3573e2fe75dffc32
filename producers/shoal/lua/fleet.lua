-- What waits and who works, by one look. It begins with the text of `queue.lua`.
-- KEYS: workers, parked messages, unacked, who leads the beats, then the queues.
-- ARGV: name of the worker that tells of itself or '', what it tells, seconds after which a silent one is gone, how many
--       tenants are named.
-- Returns {parked, unacked, 1 while a beat leads, {what each living worker told, ...}, {messages, jobs, tenant, messages,
-- jobs, ...}, ...}: all of a queue, then of those tenants of whom most waits. Jobs are estimated.
local now = tonumber(redis.call('TIME')[1])
local lasting = 3600
if ARGV[1] ~= '' then
  -- A full server refuses a script whose first write may grow; once this no-op has written, it lets workers tell.
  redis.call('HDEL', KEYS[1], '')
  redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
  redis.call('EXPIRE', KEYS[1], lasting)
end

-- Jobs are counted in so many lists, in messages that lie so deep from both ends: no deeper, for a list is walked through.
local LOOKED_AT, DEPTHS = 5, {0, 3, 30}

-- What our envelopes say after their bodies, which may be long; within the texts no quote stands without a backslash.
local function jobs_in(message)
  return tonumber(string.match(string.sub(message, -2000), '"shoal_jobs":"(%d+)"')) or 1
end

-- All are like those looked at, but for the fifth that holds least and the fifth that holds most: what is put in front of
-- others, as retries are, comes alone.
local function estimated(some)
  local seen, jobs = {}, 0
  if some.messages <= 2 * #DEPTHS then
    for _, message in ipairs(redis.call('LRANGE', some.list, 0, -1 - some.skipped)) do jobs = jobs + jobs_in(message) end
    return jobs
  end
  for _, depth in ipairs(DEPTHS) do
    if 2 * depth < some.messages then
      seen[#seen + 1] = jobs_in(redis.call('LINDEX', some.list, depth))
      seen[#seen + 1] = jobs_in(redis.call('LINDEX', some.list, -1 - some.skipped - depth))
    end
  end
  table.sort(seen)
  local left_out = math.floor(#seen / 5)
  for place = left_out + 1, #seen - left_out do jobs = jobs + seen[place] end
  return some.messages * jobs / (#seen - 2 * left_out)
end

local function waiting_of(queue, tenant)
  local list = list_of(queue, tenant)
  -- A note is left in an empty list only, so it stands before all others.
  local skipped = list == FIRST and redis.call('LINDEX', list, -1) == NOTE and 1 or 0
  return {tenant = tenant, list = list, messages = redis.call('LLEN', list) - skipped, skipped = skipped}
end

local function waiting(queue)
  local found = {waiting_of(queue, '')}
  for _, tenant in ipairs(redis.call('ZRANGE', turns_of(queue), 0, -1)) do
    if tenant ~= '' then found[#found + 1] = waiting_of(queue, tenant) end
  end
  table.sort(found, function(one, other) return one.messages > other.messages end)
  local messages, seen, jobs, named = 0, 0, 0, {}
  for rank, some in ipairs(found) do
    messages = messages + some.messages
    if rank <= LOOKED_AT and some.messages > 0 then
      local there = math.floor(estimated(some) + 0.5)
      seen, jobs = seen + some.messages, jobs + there
      if rank <= tonumber(ARGV[4]) then
        for _, part in ipairs({some.tenant, some.messages, there}) do named[#named + 1] = part end
      end
    end
  end
  return {messages, seen == 0 and 0 or math.floor(messages * jobs / seen + 0.5), unpack(named)}
end

local workers = {}
local told = redis.call('HGETALL', KEYS[1])
for at = 1, #told, 2 do
  local said_at, text = string.match(told[at + 1], '^(%d+) (.*)$')
  if not said_at or now - tonumber(said_at) > lasting then
    redis.call('HDEL', KEYS[1], told[at])
  elseif now - tonumber(said_at) <= tonumber(ARGV[3]) then
    workers[#workers + 1] = text
  end
end
local reply = {redis.call('ZCARD', KEYS[2]), redis.call('HLEN', KEYS[3]), redis.call('EXISTS', KEYS[4]), workers}
for place = 5, #KEYS do
  reply[#reply + 1] = waiting(KEYS[place])
end
return reply
