-- Claiming a key, for the scripts that enqueue. They begin with the text of `dead.lua`, and then with this one.
-- KEYS: dead letters, their times, sums of the day.

-- What becomes of a job that is enqueued: queued, joined or conflict. `kept_seconds` is how long its record stays.
local function claim(job, result, id, fingerprint, kept_seconds)
  local known = redis.call('HGET', job, 'fingerprint')
  if known and known ~= fingerprint then
    return 'conflict'
  end
  if known then
    local status = redis.call('HGET', job, 'status')
    local over = status == 'discarded' or status == 'cancelled'
    local forgotten = status == 'completed' and redis.call('EXISTS', result) == 0
    if not over and not forgotten then
      -- What joining saves is what the job cost: known now, or counted when it ends. No count may keep a job out.
      local cost = redis.call('HMGET', job, 'nano_usd', 'cost_labels')
      if cost[2] then
        redis.pcall('HINCRBY', KEYS[3], 'joined_jobs|' .. cost[2], 1)
        redis.pcall('HINCRBY', KEYS[3], 'joined_saved_nano_usd|' .. cost[2], cost[1])
        redis.pcall('EXPIRE', KEYS[3], 400 * 86400)
      elseif status ~= 'completed' then
        redis.pcall('HINCRBY', job, 'joins', 1)
      end
      return 'joined'
    end
    redis.call('DEL', job, result)
  end
  -- A job that died and is enqueued again is dead no longer.
  drop_letter(KEYS[1], KEYS[2], id)
  redis.call('HSET', job, 'fingerprint', fingerprint, 'status', 'available')
  redis.call('EXPIRE', job, kept_seconds)
  return 'queued'
end
