-- One turn of a worker: settle what is decided, bring in what is due, take what there is room for.
-- A server runs it whole or not at all, so a worker killed at any moment leaves no message outside a key.
--
-- KEYS  1 unacked (hash: tag -> [message, exchange, routing key])   2 unacked_index (zset: tag by delivery time)
--       3 undecodable (list)   then Q parked zsets   then the lists, Q for each priority step, best step first
-- ARGV  1 room   2 Q   3 number of acks   4 number of moves
--       then (tag, score) for each ack   then (tag, score, list, message) for each move
-- Reply {now, drained 0|1, seconds until the next parked one is due or -1, then list index, tag, message, ...}
local unacked, index, undecodable = KEYS[1], KEYS[2], KEYS[3]
local room, queues, acks, moves = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))

-- A full server refuses a script whose first write may grow; once this no-op has written, taking goes on.
redis.call('ZREM', index, '')

-- The score is the fence: a message that was restored and delivered again carries another one.
local function held(tag, score)
  if score == '' then return true end
  local current = redis.call('ZSCORE', index, tag)
  return current and tonumber(current) == tonumber(score)
end

local function release(tag)
  redis.call('ZREM', index, tag)
  return redis.call('HDEL', unacked, tag) == 1
end

local at = 5
for _ = 1, acks do
  if held(ARGV[at], ARGV[at + 1]) then release(ARGV[at]) end
  at = at + 2
end
for _ = 1, moves do
  if held(ARGV[at], ARGV[at + 1]) and release(ARGV[at]) then
    redis.call('RPUSH', ARGV[at + 2], ARGV[at + 3])
  end
  at = at + 4
end

local reply = {now, 0, '-1'}
if room == 0 then return reply end

local next_due = -1
for i = 1, queues do
  local parked, list = KEYS[3 + i], KEYS[3 + queues + i]
  local due = redis.call('ZRANGEBYSCORE', parked, '-inf', now, 'LIMIT', 0, 100)
  for j = #due, 1, -1 do redis.call('RPUSH', list, due[j]) end
  if #due > 0 then redis.call('ZREM', parked, unpack(due)) end
  local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
  if first[2] then
    local wait = math.max(tonumber(first[2]) - tonumber(now), 0)
    if next_due < 0 or wait < next_due then next_due = wait end
  end
end

-- Its tag, and where kombu sends it back to; nothing when kombu could not deliver it either.
local function envelope(message, list)
  local ok, decoded = pcall(cjson.decode, message)
  if not ok or type(decoded) ~= 'table' or type(decoded.properties) ~= 'table' then return nil end
  local tag, info = decoded.properties.delivery_tag, decoded.properties.delivery_info
  if type(tag) ~= 'string' or tag == '' then return nil end
  if type(info) == 'table' and type(info.exchange) == 'string' and type(info.routing_key) == 'string' then
    return tag, info.exchange, info.routing_key
  end
  return tag, '', list
end

local left, drained = room, 1
for i = 4 + queues, #KEYS do
  if left == 0 then break end
  local parked, list = KEYS[4 + (i - 4) % queues], KEYS[4 + queues + (i - 4) % queues]
  -- Read, write elsewhere, and only then cut off: an error in between leaves a copy too many, never one too few.
  local messages = redis.call('LRANGE', KEYS[i], -left, -1)
  for j = #messages, 1, -1 do
    local message = messages[j]
    local tag, exchange, routing_key = envelope(message, list)
    if not tag then
      redis.call('RPUSH', undecodable, message)
      drained = 0
    else
      local value = '[' .. message .. ', ' .. cjson.encode(exchange) .. ', ' .. cjson.encode(routing_key) .. ']'
      if redis.call('HSETNX', unacked, tag, value) == 1 then
        redis.call('ZADD', index, now, tag)
        reply[#reply + 1] = i
        reply[#reply + 1] = tag
        reply[#reply + 1] = message
      else
        -- The same tag is in flight: writing over it could lose that one, so this one comes back later.
        redis.call('ZADD', index, 'NX', now, tag)
        redis.call('ZADD', parked, string.format('%.6f', tonumber(now) + 1), message)
        if next_due < 0 or next_due > 1 then next_due = 1 end
      end
    end
  end
  if #messages > 0 then redis.call('LTRIM', KEYS[i], 0, -#messages - 1) end
  left = left - #messages
end
if left == 0 then drained = 0 end
reply[2] = drained
reply[3] = string.format('%.3f', next_due)
return reply
