-- Cancel tasks that wait or run.
-- KEYS[1]  prefix
-- ARGV     ids
-- Returns how many were cancelled; the agents of those that ran are woken to kill them.
local now, count, kill = now_ms(), 0, false
local detail = cjson.encode({reason = 'cancelled'})
for _, id in ipairs(ARGV) do
  if call('HEXISTS', P .. 'task', id) == 1 and call('HEXISTS', P .. 'result', id) == 0 then
    local attempt, claimed, agent = running_of(id)
    if attempt then
      take_from(agent, id)
      local tries = load_tries(id)
      tries.attempt = attempt
      save_tries(id, tries)
      put_result(id, 'cancelled', attempt, claimed, now, 0, agent, detail)
      kill = true
    else
      call('SADD', P .. 'void', id)
      put_result(id, 'cancelled', load_tries(id).attempt, 0, now, 0, '', detail)
    end
    count = count + 1
  end
end
if kill then
  call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
end
return count
