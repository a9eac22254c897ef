-- Take every task from the agents of a host and let it wait again; nothing counts against it.
-- KEYS[1]  prefix
-- ARGV[1]  host label
-- Returns how many tasks wait again; the host's agents are woken to kill theirs.
local now, count = now_ms(), 0
for _, agent in ipairs(call('HKEYS', P .. 'agents')) do
  if host_of(agent) == ARGV[1] then
    count = count + give_back_all(agent, 'stopped', 'moved from ' .. ARGV[1] .. ' by the operator', now)
  end
end
if count > 0 then
  call('DEL', P .. 'hungry')
  call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
end
return count
