-- Give the lead up, so that another beat need not wait for the end of the lease.
-- KEYS: leader.  ARGV: the term and name of who gives it up.
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
