-- What waits and who works, by one look. It begins with the text of `queue.lua`.
-- KEYS: workers, parked messages, unacked, then the queues.
-- ARGV: name of the worker that tells of itself or '', what it tells, seconds after which a silent one is gone, how many
--       tenants are named.
-- Returns {parked, unacked, {what each living worker told, ...}, {messages, jobs, tenant, messages, jobs, ...}, ...}: all
-- of a queue, then of those tenants of whom most waits. Jobs are estimated from the messages that are served next.
local now = tonumber(redis.call('TIME')[1])
local lasting = 3600
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
  redis.call('EXPIRE', KEYS[1], lasting)
end

local LOOKED_AT = 20

-- Not decoded, for a message may be long: within its texts no quote stands without a backslash.
local function jobs_in(message)
  return tonumber(message and string.match(message, '"shoal_jobs":"(%d+)"')) or 1
end

local function waiting_of(queue, tenant)
  local list = list_of(queue, tenant)
  local length, place = redis.call('LLEN', list), -1
  if list == FIRST and redis.call('LINDEX', list, -1) == NOTE then
    -- It is left in an empty list only, so it stands before all others.
    length, place = length - 1, -2
  end
  return {tenant = tenant, list = list, messages = length, place = place}
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
      local there = some.messages * jobs_in(redis.call('LINDEX', some.list, some.place))
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
local reply = {redis.call('ZCARD', KEYS[2]), redis.call('HLEN', KEYS[3]), workers}
for place = 4, #KEYS do
  reply[#reply + 1] = waiting(KEYS[place])
end
return reply
