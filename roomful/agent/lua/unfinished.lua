-- Tell which tasks have not ended; changes nothing.
-- KEYS[1]  prefix
-- ARGV     ids
-- Returns {id, ...} of those that wait or run.
local found = {}
for _, id in ipairs(ARGV) do
  if call('HEXISTS', P .. 'task', id) == 1 and call('HEXISTS', P .. 'result', id) == 0 then
    found[#found + 1] = id
  end
end
return found
