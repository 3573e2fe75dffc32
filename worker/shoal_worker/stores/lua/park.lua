-- Give a job back to the queue for later; the caller then acknowledges the message that brought it.
-- KEYS: job record, result record, parked messages.  ARGV: holder, message, seconds to wait, cause.
-- Without the lease (another attempt has it, or nobody) only the message is parked, and the job's state stays as it is.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'holder', 'lease_until', 'deliveries')
  redis.call('HSET', KEYS[1], 'status', 'retryable', 'due_at', redis.call('TIME')[1] + ARGV[3], 'cause', ARGV[4])
end
redis.call('ZADD', KEYS[3], redis.call('TIME')[1] + ARGV[3], ARGV[2])
return 1
