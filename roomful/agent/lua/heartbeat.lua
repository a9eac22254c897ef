-- Keep an agent's lease, and tell it what has changed.
-- KEYS[1]  prefix
-- ARGV[1]  agent
-- ARGV[2]  its state, JSON: load, memory_free, running, waiting ...
-- ARGV[3]  version of the settings that it has
-- ARGV[4]  '1' when ARGV[5] is complete (no claim of it is under way)
-- ARGV[5]  "ID:ATTEMPT ID:ATTEMPT ..." of the tasks that it holds
-- ARGV[6]  longest silence in ms after which leases still count
-- Returns {'unknown'} (register), or {'ok', '1' if draining, tasks waiting, settings version, {setting, value, ...} or {},
-- {id, ...} of the tasks that are not its any more}.
local agent = ARGV[1]
if not call('ZSCORE', P .. 'lease', agent) then
  return {'unknown'}
end
local now = now_ms()
look_at_leases(now, tonumber(ARGV[6]))
-- Kept out of the append-only file: after a restart leases start afresh anyway.
redis.set_repl(redis.REPL_NONE)
call('ZADD', P .. 'lease', int(now), agent)
call('HSET', P .. 'beats', agent, ARGV[2])
redis.set_repl(redis.REPL_ALL)

local lost, holds = {}, {}
for id, attempt in string.gmatch(ARGV[5], '(%d+):(%d+)') do
  holds[id] = true
  local held, _, holder = running_of(id)
  if held ~= tonumber(attempt) or holder ~= agent then
    lost[#lost + 1] = id
  end
end
if ARGV[4] == '1' then
  -- What the agent does not know of was claimed by a call whose reply it has given up.
  local given = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'held:' .. agent)) do
    if not holds[id] then
      local attempt, claimed = running_of(id)
      if now - claimed > 10000 then
        give_back(id, attempt, claimed, agent, 'released', '', now)
        given = given + 1
      end
    end
  end
  if given > 0 then
    wake()
  end
end
local version, settings = call('HGET', P .. 'config', 'version') or '0', {}
if version ~= ARGV[3] then
  settings = call('HGETALL', P .. 'config')
end
return {'ok', int(call('SISMEMBER', P .. 'draining', host_of(agent))), call('ZCARD', P .. 'classes'), version, settings, lost}
