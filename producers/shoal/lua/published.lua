-- A message has reached its queue.  KEYS: outbox.  ARGV: message.
return redis.call('ZREM', KEYS[1], ARGV[1])
