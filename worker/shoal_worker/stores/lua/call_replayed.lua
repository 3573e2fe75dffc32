-- A call was answered out of a generation that is, or should be, in the books.
-- ARGV: call id, labels, generation or '' where none was named, question.
if not take(ARGV[1], KEYS[7], ARGV[2]) then
  return 0
end
redis.call('HDEL', KEYS[6], 'call:' .. ARGV[1])
count(KEYS[7], ARGV[2], 'replayed_calls', 1)
local nano_usd = redis.call('HGET', KEYS[6], 'generation:' .. ARGV[3])
if nano_usd then
  count(KEYS[7], ARGV[2], 'replay_saved_nano_usd', tonumber(nano_usd))
  return 1
end
if ARGV[3] == '' then
  return 1
end
-- The call that was billed for it: the one that names this generation, or else one that names none.
local source
local fields = redis.call('HGETALL', KEYS[6])
for place = 1, #fields, 2 do
  local id = string.match(fields[place], '^call:(.+)$')
  local raw = id and fields[place + 1] == ARGV[4]
    and (redis.call('HGET', KEYS[3], id) or redis.call('HGET', KEYS[1], id))
  if raw then
    local call = cjson.decode(raw)
    if call.generation_id == ARGV[3] then
      source = call
      break
    elseif call.generation_id == '' then
      source = call
    end
  end
end
if source then
  doubt(source.id)
  source.replays = (source.replays or 0) + 1
  look_up(source, ARGV[3], 0)
end
return 1
