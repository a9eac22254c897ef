-- Let failed and cancelled tasks wait again, as if they had never been tried, but for attempt number and history.
-- KEYS[1]  prefix
-- ARGV     ids
-- Returns how many wait again.
local now, count = now_ms(), 0
for _, id in ipairs(ARGV) do
  local payload, result = call('HGET', P .. 'task', id), call('HGET', P .. 'result', id)
  if payload and result and string.match(result, '^%a+') ~= 'done' then
    local attempt, ended, agent, detail = string.match(result, '^%a+,(%d+),%d+,(%d+),%d+,([^\n]*)\n(.*)$')
    local tries = load_tries(id)
    if tonumber(attempt) > 0 then
      local said = cjson.decode(detail)
      note_try(tries, tonumber(attempt), host_of(agent), said.reason or 'error', said.detail or '', tonumber(ended))
    end
    tries.failures, tries.losses, tries.hosts = 0, 0, {}
    save_tries(id, tries)
    call('HDEL', P .. 'result', id)
    call('SREM', P .. 'failed', id)
    call('SREM', P .. 'cancelled', id)
    add_digest(digest_of(payload))
    wait_again(id, tries.class or class_of(payload), 'retry', now)
    count = count + 1
  end
end
if count > 0 then
  wake()
end
return count
