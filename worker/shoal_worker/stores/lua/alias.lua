-- A job is known by another id too.  KEYS: the job's aliases.  ARGV: id, seconds to keep it.
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
