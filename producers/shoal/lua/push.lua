-- Put messages into the queues that they name.  KEYS: queue of those that name none.  ARGV: messages.
for _, message in ipairs(ARGV) do
  put_home('LPUSH', KEYS[1], message)
end
return #ARGV
