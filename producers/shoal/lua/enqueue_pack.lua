-- Claim the keys of many jobs, and queue those that are new in one message; all in one step.
-- KEYS: dead letters, their times, sums of the day, then job record and result record of each.
-- ARGV: queue, tenant, message without its jobs, then id, fingerprint, seconds to keep the record, job of each.
-- Returns what became of each.
local became, jobs = {}, {}
for place = 1, (#KEYS - 3) / 2 do
  local at = 4 * place
  became[place] = claim(KEYS[2 * place + 2], KEYS[2 * place + 3], ARGV[at], ARGV[at + 1], ARGV[at + 2])
  if became[place] == 'queued' then
    jobs[#jobs + 1] = ARGV[at + 3]
  end
end
if #jobs > 0 then
  local text = table.concat(jobs, ',')
  local message = string.gsub(ARGV[3], '\2', tostring(#jobs))
  local before, after = string.match(message, '^(.-)\1(.*)$')
  put('LPUSH', ARGV[1], ARGV[2], before .. text .. after)
end
return became
