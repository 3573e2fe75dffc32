-- Doubts that are to be looked up now, for one caller; each comes again after a pause that doubles.
-- ARGV: how many at once, the shortest pause in seconds, how often in all.
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now(), 'LIMIT', 0, ARGV[1])) do
  local raw = redis.call('HGET', KEYS[3], id)
  local call = raw and cjson.decode(raw)
  if call then
    call.lookups = (call.lookups or 0) + 1
    look_up(call, call.generation_id, ARGV[2] * 2 ^ call.lookups)
    claimed[#claimed + 1] = raw
  end
  if not call or call.lookups >= tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[5], id)
  end
end
return claimed
