-- Open calls past their time become maybe billed: their workers are gone.  ARGV: how many at once.
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now(), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  doubt(id)
end
return #ids
