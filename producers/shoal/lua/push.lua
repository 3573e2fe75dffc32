-- Put messages into a queue.  KEYS: queue.  ARGV: messages.
return redis.call('LPUSH', KEYS[1], unpack(ARGV))
