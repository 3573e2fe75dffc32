-- What becomes of an entry, written only by who leads: a leader that was frozen, and replaced, changes nothing.
-- KEYS: leader, entry.  ARGV: the writer's term and name, then fields and their values.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
return 1
