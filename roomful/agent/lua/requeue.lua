-- Give back tasks that the agent holds and does not finish.
-- KEYS[1]  prefix
-- ARGV[1]  agent
-- ARGV[2]  released (never started), stopped (by an operator) or evicted (for memory)
-- ARGV[3]  a sentence for the task's history
-- ARGV[4...] "ID ATTEMPT MEMORY_MIB"; the last is what an evicted task was seen to need, else 0
-- Returns how many were given back; those that the agent does not hold (any more) are passed over.
local agent, how, count = ARGV[1], ARGV[2], 0
local now = now_ms()
for i = #ARGV, 4, -1 do
  local id, attempt, memory = string.match(ARGV[i], '^(%d+) (%d+) (%d+)$')
  local held, claimed, holder = running_of(id)
  if held == tonumber(attempt) and holder == agent then
    give_back(id, held, claimed, agent, how, ARGV[3], now, tonumber(memory))
    count = count + 1
  end
end
if count > 0 then
  wake()
end
return count
