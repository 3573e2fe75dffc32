-- Cancel a job that has no answer yet. The record says so to the worker that meets its message. It begins with the text
-- of `aliases.lua`.
-- KEYS: job record, result record, the job's aliases.  ARGV: result as JSON, seconds to keep it, channel, job id.
-- Returns the status before: cancelling changed something unless it was completed, discarded or cancelled.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  return 'unknown'
end
if status == 'completed' or status == 'discarded' or status == 'cancelled' then
  return status
end
redis.call('HSET', KEYS[1], 'status', 'cancelled')
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
tell_aliases(KEYS[3], ARGV[4], ARGV[3], ARGV[1], ARGV[2])
return status
