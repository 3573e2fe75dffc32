-- Put a call down before it is sent.
-- ARGV: call id, call as JSON, seconds until it is overdue, question, labels, seconds to keep the job's calls.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now() + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[6], 'labels', ARGV[5], 'call:' .. ARGV[1], ARGV[4])
redis.call('EXPIRE', KEYS[6], ARGV[6])
return 1
