-- Remove tasks that have ended, with everything that is known of them.
-- KEYS[1]  prefix
-- ARGV     ids
-- Returns how many were removed.
local count = 0
for _, id in ipairs(ARGV) do
  if call('HEXISTS', P .. 'result', id) == 1 then
    local payload = call('HGET', P .. 'task', id)
    call('SREM', P .. 'digests', digest_of(payload))
    for _, key in ipairs({'task', 'result', 'tries', 'stdout', 'stderr'}) do
      call('HDEL', P .. key, id)
    end
    call('SREM', P .. 'failed', id)
    call('SREM', P .. 'cancelled', id)
    count = count + 1
  end
end
return count
