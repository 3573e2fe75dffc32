-- What waits and who works, by one look. It begins with the text of `queue.lua`.
-- KEYS: workers, parked messages, unacked, then the queues.
-- ARGV: name of the worker that tells of itself or '', what it tells, seconds after which a silent one is gone.
-- Returns {parked, unacked, messages and jobs of each queue, ..., what each living worker told, ...}; the jobs of a queue
-- are estimated from the messages that are served next.
local now = tonumber(redis.call('TIME')[1])
local lasting = 3600
-- A full server refuses a script whose first write may grow; once this no-op has written, it lets workers tell.
redis.call('HDEL', KEYS[1], '')
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
  redis.call('EXPIRE', KEYS[1], lasting)
end

local LOOKED_AT = 20

local function jobs_in(message)
  local ok, decoded = pcall(cjson.decode, message)
  local said = ok and type(decoded) == 'table' and type(decoded.headers) == 'table' and decoded.headers.shoal_jobs
  return tonumber(said) or 1
end

local function waiting(queue)
  local lists = {queue}
  for _, tenant in ipairs(redis.call('ZRANGE', turns_of(queue), 0, -1)) do
    if tenant ~= '' then lists[#lists + 1] = list_of(queue, tenant) end
  end
  local messages, seen, jobs = 0, 0, 0
  for _, list in ipairs(lists) do
    local length, first = redis.call('LLEN', list), redis.call('LINDEX', list, -1)
    if first == NOTE then
      -- It is left in an empty list only, so it stands before all others.
      length, first = length - 1, redis.call('LINDEX', list, -2)
    end
    messages = messages + length
    if length > 0 and seen < LOOKED_AT then
      seen = seen + 1
      jobs = jobs + jobs_in(first)
    end
  end
  return messages, seen == 0 and 0 or math.floor(messages * jobs / seen + 0.5)
end

local reply = {redis.call('ZCARD', KEYS[2]), redis.call('HLEN', KEYS[3])}
for place = 4, #KEYS do
  local messages, jobs = waiting(KEYS[place])
  reply[#reply + 1] = messages
  reply[#reply + 1] = jobs
end
local told = redis.call('HGETALL', KEYS[1])
for at = 1, #told, 2 do
  local said_at, text = string.match(told[at + 1], '^(%d+) (.*)$')
  if not said_at or now - tonumber(said_at) > lasting then
    redis.call('HDEL', KEYS[1], told[at])
  elseif now - tonumber(said_at) <= tonumber(ARGV[3]) then
    reply[#reply + 1] = text
  end
end
return reply
