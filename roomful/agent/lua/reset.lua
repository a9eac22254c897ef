-- Remove every task, result and history; agents, settings and the counter of ids stay.
-- KEYS[1]  prefix
-- Returns how many tasks there were.
local count = call('HLEN', P .. 'task')
for _, class in ipairs(call('ZRANGE', P .. 'classes', 0, -1)) do
  call('UNLINK', P .. 'q:' .. class, P .. 'r:' .. class)
end
for _, agent in ipairs(call('HKEYS', P .. 'agents')) do
  call('UNLINK', P .. 'held:' .. agent)
end
for _, key in ipairs({'task', 'digests', 'copies', 'classes', 'served', 'reserve', 'void', 'running', 'tries', 'result', 'stdout',
  'stderr', 'failed', 'cancelled', 'late', 'log', 'claims', 'tally', 'pace'}) do
  call('UNLINK', P .. key)
end
call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
return count
