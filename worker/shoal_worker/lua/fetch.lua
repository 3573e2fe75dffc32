-- One turn of a worker: settle what is decided, bring in what is due, take what there is room for.
-- A server runs it whole or not at all, so a worker killed at any moment leaves no message outside a key.
-- It begins with the text of `queue.lua`.
--
-- KEYS  1 unacked (hash: tag -> [message, exchange, routing key])   2 unacked_index (zset: tag by delivery time)
--       3 undecodable (list)   then Q parked zsets   then for each queue its lists, best priority first
-- ARGV  1 Q   2 number of acks   3 number of moves   then room, in messages, of each queue; the first is served first
--       then (tag, score) for each ack   then (tag, score, list, message) for each move
-- Reply {now, for each queue 1 where more is waiting or else 0, then queue's place, list, tag, message, ...}
local unacked, index, undecodable = KEYS[1], KEYS[2], KEYS[3]
local queues, acks, moves = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
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

local at = 4 + queues
for _ = 1, acks do
  if held(ARGV[at], ARGV[at + 1]) then release(ARGV[at]) end
  at = at + 2
end
for _ = 1, moves do
  if held(ARGV[at], ARGV[at + 1]) and release(ARGV[at]) then
    local queue, tenant = string.match(ARGV[at + 2], '^shoal:tenant:([^:]+):(.+)$')
    if queue then
      put('RPUSH', queue, tenant, ARGV[at + 3])
    else
      redis.call('RPUSH', ARGV[at + 2], ARGV[at + 3])
    end
  end
  at = at + 4
end

local reply = {now}
local taken = {}

-- Move messages from a list into the unacked hash; how many left the list, and their bytes.
local function take(place, queue, list, most)
  -- Read, write elsewhere, and only then cut off: an error in between leaves a copy too many, never one too few.
  local messages, bytes = redis.call('LRANGE', list, -most, -1), 0
  for at_end = #messages, 1, -1 do
    local message = messages[at_end]
    local tag, exchange, routing_key = envelope(message, queue)
    bytes = bytes + #message
    if message == NOTE then
      bytes = bytes - #NOTE
    elseif not tag then
      redis.call('RPUSH', undecodable, message)
    elseif redis.call('HSETNX', unacked, tag,
        '[' .. message .. ', ' .. cjson.encode(exchange) .. ', ' .. cjson.encode(routing_key) .. ']') == 1 then
      redis.call('ZADD', index, now, tag)
      for _, part in ipairs({place, list, tag, message}) do taken[#taken + 1] = part end
    else
      -- The same tag is in flight: writing over it could lose that one, so this one comes back later.
      redis.call('ZADD', index, 'NX', now, tag)
      redis.call('ZADD', KEYS[3 + place], string.format('%.6f', tonumber(now) + 1), message)
    end
  end
  if #messages > 0 then redis.call('LTRIM', list, 0, -#messages - 1) end
  return #messages, bytes
end

local steps = (#KEYS - 3 - queues) / queues

-- The list from which a tenant is served next; nil when it has nothing.
local function waiting_list(place, queue, tenant)
  if tenant ~= '' then
    local list = list_of(queue, tenant)
    return redis.call('EXISTS', list) == 1 and list or nil
  end
  for step = 1, steps do
    local list = KEYS[3 + queues + (place - 1) * steps + step]
    if redis.call('EXISTS', list) == 1 then return list end
  end
end

-- Whose turn it is and where its messages are; who has none left, and has had its share, gives its turn up.
local function next_turn(place, queue)
  while true do
    local tenant = redis.call('ZRANGE', turns_of(queue), 0, 0)[1]
    if not tenant then return nil end
    local list = waiting_list(place, queue, tenant)
    if list then return tenant, list end
    redis.call('ZREM', turns_of(queue), tenant)
  end
end

-- Tenants are served in turns, by bytes. Where there is only one, all at once.
local function serve(place, queue, room)
  local turns = turns_of(queue)
  if waiting_list(place, queue, '') and redis.call('EXISTS', turns) == 1 then line_up(queue, '') end
  while true do
    local tenant, list = next_turn(place, queue)
    if not tenant then list = waiting_list(place, queue, '') end
    if not list then return 0 end
    if room == 0 then return 1 end
    local others = tenant and redis.call('ZCARD', turns) > 1
    local count, bytes = take(place, queue, list, others and 1 or room)
    if tenant then redis.call('ZINCRBY', turns, bytes, tenant) end
    room = room - count
  end
end

local is_more = false
for place = 1, queues do
  local parked, queue = KEYS[3 + place], KEYS[3 + queues + (place - 1) * steps + 1]
  local due = redis.call('ZRANGEBYSCORE', parked, '-inf', now, 'LIMIT', 0, 100)
  for at_end = #due, 1, -1 do put_home('RPUSH', queue, due[at_end]) end
  if #due > 0 then redis.call('ZREM', parked, unpack(due)) end
end
for place = 1, queues do
  local queue = KEYS[3 + queues + (place - 1) * steps + 1]
  local more = serve(place, queue, tonumber(ARGV[3 + place]))
  is_more = is_more or more == 1
  reply[#reply + 1] = more
end
-- Others that wait must hear of what is left here.
if is_more and queues > 0 and KEYS[4 + queues] == FIRST then leave_note() end
for _, part in ipairs(taken) do reply[#reply + 1] = part end
return reply
