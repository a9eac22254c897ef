-- Give back what dead agents hold.
-- KEYS[1]  prefix
-- ARGV[1]  lease in ms: an agent that was not heard for so long is dead
-- ARGV[2]  silence in ms after which an agent is dead if its host is known to be alive
-- ARGV[3]  longest pause in ms between two looks: after a longer one nobody is dead yet
-- ARGV[4...] labels of the hosts that are alive (the keeper's link to them is up)
-- Returns {agent, tasks given back, agent, ...}.
local now = now_ms()
look_at_leases(now, tonumber(ARGV[3]))
local dead = {}

-- Whether an agent whose heartbeats were made rarer by a live setting has missed some.
local function missed(agent)
  local beat = setting('heartbeat_seconds@' .. host_of(agent), setting('heartbeat_seconds', 0))
  return now - tonumber(call('ZSCORE', P .. 'lease', agent)) > 2500 * beat
end

for _, agent in ipairs(call('ZRANGEBYSCORE', P .. 'lease', '-inf', int(now - tonumber(ARGV[1])))) do
  if missed(agent) then
    dead[agent] = 'the host ' .. host_of(agent) .. ' was not heard for ' .. tonumber(ARGV[1]) / 1000 .. ' s'
  end
end
local alive = {}
for i = 4, #ARGV do
  alive[ARGV[i]] = true
end
for _, agent in ipairs(call('ZRANGEBYSCORE', P .. 'lease', '-inf', int(now - tonumber(ARGV[2])))) do
  if alive[host_of(agent)] and not dead[agent] and missed(agent) then
    dead[agent] = 'the agent on ' .. host_of(agent) .. ' was silent for ' .. tonumber(ARGV[2]) / 1000 .. ' s'
  end
end
local reply = {}
for agent, why in pairs(dead) do
  reply[#reply + 1] = agent
  reply[#reply + 1] = remove_agent(agent, 'lost', 'lost', why, now)
end
return reply
