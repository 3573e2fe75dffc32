-- Other ids of a job, for all scripts that store how one ended. They begin with this text.

-- Stored and announced under each of them, as under the job's own id: `name` is its record's, which is `record`.
local function tell_aliases(aliases, id, name, record, kept_seconds)
  local pattern = string.gsub(id, '%-', '%%-')
  for _, alias in ipairs(redis.call('SMEMBERS', aliases)) do
    local own_name, own = string.gsub(name, pattern, alias), string.gsub(record, pattern, alias)
    if redis.call('SET', own_name, own, 'NX', 'EX', kept_seconds) then
      redis.call('PUBLISH', own_name, own)
    end
  end
end

