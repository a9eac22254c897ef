-- Let an agent in, or back in, and settle what it still holds.
-- KEYS[1]  prefix
-- ARGV[1]  host label
-- ARGV[2]  nonce of the agent's process: the same nonce is the same agent
-- ARGV[3]  instance: names the agent's state directory, of which only one agent can be alive
-- ARGV[4]  what it says of itself, JSON
-- ARGV[5]  "CPU_MILLI MEMORY_MIB" of the host
-- ARGV[6]  "ID:ATTEMPT ID:ATTEMPT ..." of the tasks that it holds
-- Returns {agent, id, id, ...}: its name, and the tasks of ARGV[6] that are not its any more.
local host, nonce, instance = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
local agent = call('HGET', P .. 'nonces', nonce)
if not agent then
  agent = host .. '#' .. int(call('HINCRBY', P .. 'numbers', host, 1))
  call('HSET', P .. 'nonces', nonce, agent)
end
local about = cjson.decode(ARGV[4])
about.instance, about.nonce = instance, nonce

local agents = call('HGETALL', P .. 'agents')
for i = 1, #agents, 2 do
  local other = agents[i]
  if other ~= agent and host_of(other) == host then
    local said = cjson.decode(agents[i + 1])
    if said.instance == instance then
      if call('ZSCORE', P .. 'lease', other) then
        remove_agent(other, 'lost', 'restarted', 'the agent on ' .. host .. ' died and was started again', now)
      end
      call('HDEL', P .. 'agents', other)
      call('HDEL', P .. 'beats', other)
      call('HDEL', P .. 'gone', other)
      call('HDEL', P .. 'nonces', said.nonce)
    elseif call('HEXISTS', P .. 'gone', other) == 1 then
      call('HDEL', P .. 'agents', other)
      call('HDEL', P .. 'beats', other)
      call('HDEL', P .. 'gone', other)
      call('HDEL', P .. 'nonces', said.nonce)
    end
  end
end

call('HSET', P .. 'agents', agent, cjson.encode(about))
call('HSET', P .. 'sizes', agent, ARGV[5])
call('ZADD', P .. 'lease', int(now), agent)
call('HDEL', P .. 'gone', agent)

-- An attempt that was given up, but that nobody has begun anew, goes on where it is.
local function take_back(id, attempt)
  local tries = load_tries(id)
  local payload = call('HGET', P .. 'task', id)
  if not payload or tries.attempt ~= attempt or call('HEXISTS', P .. 'result', id) == 1 then
    return false
  end
  local last = tries.log[#tries.log]
  if not last or last[1] ~= attempt or last[2] ~= host or last[3] ~= 'lost' then
    return false
  end
  local class = tries.class or class_of(payload)
  if call('LREM', P .. 'r:' .. class, 1, id) + call('LREM', P .. 'q:' .. class, 1, id) == 0 then
    return false
  end
  table.remove(tries.log)
  tries.attempt, tries.losses = attempt - 1, tries.losses - 1
  for i, failed in ipairs(tries.hosts) do
    if failed == host then
      table.remove(tries.hosts, i)
      break
    end
  end
  save_tries(id, tries)
  call('HSET', P .. 'running', id, int(attempt) .. ',' .. int(now) .. ',' .. agent)
  call('SADD', P .. 'held:' .. agent, id)
  return true
end

local reply, holds = {agent}, {}
for id, attempt in string.gmatch(ARGV[6], '(%d+):(%d+)') do
  local held, _, holder = running_of(id)
  if (held == tonumber(attempt) and holder == agent) or (not held and take_back(id, tonumber(attempt))) then
    holds[id] = true
  else
    reply[#reply + 1] = id
  end
end
for _, id in ipairs(call('SMEMBERS', P .. 'held:' .. agent)) do
  if not holds[id] then
    local attempt, claimed = running_of(id)
    give_back(id, attempt, claimed, agent, 'released', '', now)
  end
end
return reply
