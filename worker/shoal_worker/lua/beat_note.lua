-- Jobs of an entry that may not have ended, noted only by who leads.
-- KEYS: leader, list of job ids.  ARGV: the writer's term and name, then job ids.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 2))
return 1
