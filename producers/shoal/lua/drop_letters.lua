-- Forget dead letters. It begins with the text of `dead.lua`.
-- KEYS: dead letters, their times.  ARGV: ids.  Returns how many there were.
local dropped = 0
for _, id in ipairs(ARGV) do
  dropped = dropped + drop_letter(KEYS[1], KEYS[2], id)
end
return dropped
