-- Dead letters, for all scripts that keep or drop one. They begin with this text. How many died of what is counted beside
-- them, so that nobody has to read them all to know.
local function count_letter(letters, letter, by)
  -- The first words of a letter: within its texts no quote stands without a backslash.
  local cause = string.match(letter, '"cause":"([^"]*)"') or 'unknown'
  if redis.call('HINCRBY', letters .. ':causes', cause, by) <= 0 then
    redis.call('HDEL', letters .. ':causes', cause)
  end
end

local function drop_letter(letters, times, id)
  local letter = redis.call('HGET', letters, id)
  if not letter then
    return 0
  end
  redis.call('HDEL', letters, id)
  redis.call('ZREM', times, id)
  count_letter(letters, letter, -1)
  return 1
end

local function keep_letter(letters, times, id, letter, died_at)
  drop_letter(letters, times, id)
  redis.call('HSET', letters, id, letter)
  redis.call('ZADD', times, died_at, id)
  count_letter(letters, letter, 1)
end
