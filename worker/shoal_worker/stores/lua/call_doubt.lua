-- The reply of a call was lost.  ARGV: call id, generation id or '', seconds until it is looked up.
local call = doubt(ARGV[1])
if ARGV[2] == '' then
  return 1
end
if not call then
  local raw = redis.call('HGET', KEYS[3], ARGV[1])
  call = raw and cjson.decode(raw)
end
if call and call.generation_id == '' then
  look_up(call, ARGV[2], ARGV[3])
end
return 1
