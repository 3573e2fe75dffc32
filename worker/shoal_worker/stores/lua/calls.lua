-- What the scripts of the ledger begin with. A call counts where it moves, so that asking again changes nothing.
-- KEYS: open calls, when they are overdue, maybe-billed calls, since when, when to look them up; then, where the script
-- is about one call, the calls of its job and the sums of its day.
local SUMS_SECONDS = 400 * 86400

local function now()
  return tonumber(redis.call('TIME')[1])
end

local function count(sums, labels, what, by)
  if by ~= 0 then
    redis.call('HINCRBY', sums, what .. '|' .. labels, by)
    redis.call('EXPIRE', sums, SUMS_SECONDS)
  end
end

-- Take a call out of the open or the maybe-billed ones: what is known of a doubt, {} of an open call, nil of neither.
local function take(id, sums, labels)
  if redis.call('HDEL', KEYS[1], id) == 1 then
    redis.call('ZREM', KEYS[2], id)
    return {}
  end
  local raw = redis.call('HGET', KEYS[3], id)
  if not raw then
    return nil
  end
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
  local call = cjson.decode(raw)
  count(sums, labels, 'maybe_calls', -1)
  count(sums, labels, 'maybe_nano_usd', -call.bound_nano_usd)
  return call
end

-- Move an open call to the maybe-billed ones; nil when it is not open.
local function doubt(id)
  local raw = redis.call('HGET', KEYS[1], id)
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  if not raw then
    return nil
  end
  local call = cjson.decode(raw)
  redis.call('HSET', KEYS[3], id, raw)
  redis.call('ZADD', KEYS[4], now(), id)
  count(call.sums, call.labels, 'maybe_calls', 1)
  count(call.sums, call.labels, 'maybe_nano_usd', call.bound_nano_usd)
  return call
end

-- A doubt whose generation is known is looked up.
local function look_up(call, generation_id, after_seconds)
  call.generation_id = generation_id
  redis.call('HSET', KEYS[3], call.id, cjson.encode(call))
  redis.call('ZADD', KEYS[5], now() + after_seconds, call.id)
end

