-- Let an agent go that was told to stop; what it holds waits again, and nothing counts against it.
-- KEYS[1]  prefix
-- ARGV[1]  agent
-- Returns how many tasks were given back.
if not call('ZSCORE', P .. 'lease', ARGV[1]) then
  return 0
end
return remove_agent(ARGV[1], 'stopped', 'stopped', 'the agent was told to stop', now_ms())
