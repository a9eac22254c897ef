-- Remove tasks that have ended, with everything that is known of them.
-- KEYS[1]  prefix
-- ARGV     ids
-- Returns how many were removed.
local count = 0
for _, id in ipairs(ARGV) do
  local result = call('HGET', P .. 'result', id)
  if result then
    -- Those that failed or were cancelled have lost it before; a later task may have it now.
    if string.match(result, '^%a+') == 'done' then
      drop_digest(digest_of(call('HGET', P .. 'task', id)))
    end
    for _, key in ipairs({'task', 'result', 'tries', 'stdout', 'stderr'}) do
      call('HDEL', P .. key, id)
    end
    call('SREM', P .. 'failed', id)
    call('SREM', P .. 'cancelled', id)
    count = count + 1
  end
end
return count
