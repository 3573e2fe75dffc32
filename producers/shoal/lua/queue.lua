-- How a message comes to wait, for all scripts that put one into a queue. They begin with this text.
--
-- Jobs of no named tenant wait in the queue's own list, as messages of a stock Celery client do. Each named tenant has a
-- list of its own and a turn: a score in a sorted set that grows with what was served to it. Workers wait for messages in
-- the list of the first queue only, so whoever puts one elsewhere leaves a note there.
local FIRST = 'shoal'
local NOTE = '{"shoal":"look"}'

local function list_of(queue, tenant)
  return tenant == '' and queue or 'shoal:tenant:' .. queue .. ':' .. tenant
end

local function turns_of(queue)
  return 'shoal:turns:' .. queue
end

-- Who comes anew has been served as much as who is next: it neither waits for others' past nor makes them wait for its own.
local function line_up(queue, tenant)
  local turns = turns_of(queue)
  local next_one = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
  redis.call('ZADD', turns, 'NX', next_one[2] or 0, tenant)
end

local function leave_note()
  if redis.call('EXISTS', FIRST) == 0 then
    redis.call('LPUSH', FIRST, NOTE)
  end
end

-- `push` is LPUSH for the end of the list, RPUSH for the place that is served next.
local function put(push, queue, tenant, message)
  redis.call(push, list_of(queue, tenant), message)
  if tenant ~= '' then
    line_up(queue, tenant)
  end
  if queue ~= FIRST or tenant ~= '' then
    leave_note()
  end
end

-- What an envelope says of itself: tag, exchange, routing key, tenant. Nothing when kombu could not deliver it either.
local function envelope(message, queue)
  local ok, decoded = pcall(cjson.decode, message)
  if not ok or type(decoded) ~= 'table' or type(decoded.properties) ~= 'table' then return nil end
  local tag, info = decoded.properties.delivery_tag, decoded.properties.delivery_info
  if type(tag) ~= 'string' or tag == '' then return nil end
  local tenant = type(decoded.headers) == 'table' and decoded.headers.shoal_tenant
  tenant = type(tenant) == 'string' and tenant or ''
  if type(info) == 'table' and type(info.exchange) == 'string' and type(info.routing_key) == 'string' then
    return tag, info.exchange, info.routing_key, tenant
  end
  return tag, '', queue, tenant
end

-- Put a message where it says that it belongs.
local function put_home(push, queue, message)
  local tag, exchange, routing_key, tenant = envelope(message, queue)
  if tag and exchange == '' then
    put(push, routing_key, tenant, message)
  else
    redis.call(push, queue, message)
  end
end
