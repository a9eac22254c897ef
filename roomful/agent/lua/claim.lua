-- Hand tasks to an agent: what fits now, then some ahead of time.
-- KEYS[1]  prefix
-- ARGV[1]  agent
-- ARGV[2]  token: a repeat with the last token returns the same tasks
-- ARGV[3]  most tasks to start now
-- ARGV[4]  most tasks to take ahead of time; they only need to fit the host as a whole
-- ARGV[5]  free CPU, thousandths
-- ARGV[6]  free memory, MiB
-- Returns {status, tasks}: status 'ok', 'more' (ask again at once: dead entries took up the call, or it asked for more
-- than one call gives), 'draining' or 'unknown' (register first; then there is nothing else). Tasks come in one string,
-- because Python takes long to read a reply of many: for each "ID ATTEMPT CLASS LENGTH" LF and the payload, so long.
local agent, token = ARGV[1], ARGV[2]
local size = call('HGET', P .. 'sizes', agent)
if not size or not call('ZSCORE', P .. 'lease', agent) then
  return {'unknown'}
end

local function packed(id, attempt, class, payload)
  return id .. ' ' .. attempt .. ' ' .. class .. ' ' .. #payload .. '\n' .. payload
end

-- What an earlier call has claimed, as far as it is still so.
local function answer_again(ids)
  local found = {}
  if #ids == 0 then
    return {'ok', ''}
  end
  local payloads = call('HMGET', P .. 'task', unpack(ids))
  local records = call('HMGET', P .. 'running', unpack(ids))
  for i, id in ipairs(ids) do
    local attempt, _, holder = parse_running(records[i])
    if payloads[i] and holder == agent then
      found[#found + 1] = packed(id, int(attempt), load_tries(id).class or class_of(payloads[i]), payloads[i])
    end
  end
  return {'ok', table.concat(found)}
end

local last = call('HGET', P .. 'claims', agent)
if last and string.match(last, '^%S+') == token then
  local ids = {}
  for id in string.gmatch(last, ' (%d+)') do
    ids[#ids + 1] = id
  end
  return answer_again(ids)
end
local host = host_of(agent)
if call('SISMEMBER', P .. 'draining', host) == 1 then
  return {'draining', ''}
end

local now = now_ms()
local total_cpu, total_memory = string.match(size, '^(%d+) (%d+)$')
total_cpu, total_memory = tonumber(total_cpu), tonumber(total_memory)
-- Lua hands at most some thousand arguments to one command.
local most_to_start, most_ahead = 1500, 500
local slots, ahead = math.min(tonumber(ARGV[3]), most_to_start), math.min(tonumber(ARGV[4]), most_ahead)
local cpu, memory = tonumber(ARGV[5]), tonumber(ARGV[6])
local some_void = call('SCARD', P .. 'void') > 0
-- Ids, and what the reply says of each.
local claimed, payloads, classes = {}, {}, {}
-- A call passes over this many cancelled tasks at most, so that it never holds up the server.
local patience_for_dead = 5000

-- Whether a live agent elsewhere could take what failed on this host; asked at most once for each task class.
local function others_for(need_cpu, need_memory)
  local able = {}
  local agents = call('HGETALL', P .. 'sizes')
  for i = 1, #agents, 2 do
    local other = host_of(agents[i])
    local c, m = string.match(agents[i + 1], '^(%d+) (%d+)$')
    if other ~= host and tonumber(c) >= need_cpu and tonumber(m) >= need_memory
      and call('SISMEMBER', P .. 'draining', other) == 0 then
      able[other] = true
    end
  end
  return able
end

local function take(id, class, payload)
  if some_void and call('SREM', P .. 'void', id) == 1 then
    patience_for_dead = patience_for_dead - 1
    return
  end
  if payload then
    claimed[#claimed + 1] = id
    payloads[id], classes[id] = payload, class
    return true
  end
end

-- Those that failed here before are left for a host that has not seen them, as long as there is one.
local function take_retries(class, want, need_cpu, need_memory)
  local key = P .. 'r:' .. class
  local taken, able = 0, nil
  local patience = nil
  for _, id in ipairs(call('LRANGE', key, 0, 63)) do
    if taken == want then
      break
    end
    local tries = load_tries(id)
    local here, left = false, false
    for _, failed in ipairs(tries.hosts) do
      here = here or failed == host
    end
    if here then
      able = able or others_for(need_cpu, need_memory)
      patience = patience or setting('elsewhere_wait_seconds', 300) * 1000
      if now - (tries.since or 0) < patience then
        local untried = {}
        for other in pairs(able) do
          untried[other] = true
        end
        for _, failed in ipairs(tries.hosts) do
          untried[failed] = nil
        end
        left = next(untried) ~= nil
      end
    end
    if not left then
      call('LREM', key, 1, id)
      if take(id, class, call('HGET', P .. 'task', id)) then
        taken = taken + 1
      end
    end
  end
  return taken
end

local function take_fresh(class, want)
  local key = P .. 'q:' .. class
  local taken = 0
  while taken < want and patience_for_dead > 0 do
    local ids = call('LPOP', key, want - taken)
    if not ids or #ids == 0 then
      break
    end
    local found = call('HMGET', P .. 'task', unpack(ids))
    for i, id in ipairs(ids) do
      if take(id, class, found[i]) then
        taken = taken + 1
      end
    end
  end
  return taken
end

-- Let room grow for a class that would fit this host but not beside what runs: one agent at a time does so.
local function reserved_here(class)
  local since = tonumber(call('HGET', P .. 'served', class) or int(now))
  if now - since < setting('reserve_after_seconds', 10) * 1000 then
    return false
  end
  local holder, at = string.match(call('HGET', P .. 'reserve', class) or '', '^(.*) (%d+)$')
  if holder and holder ~= agent and now - tonumber(at) < 60000 then
    return false
  end
  call('HSET', P .. 'reserve', class, agent .. ' ' .. int(now))
  return true
end

for _, class in ipairs(call('ZRANGE', P .. 'classes', 0, -1)) do
  if slots <= 0 and ahead <= 0 then
    break
  end
  local _, need_cpu, need_memory = string.match(class, '^(-?%d+),(%d+),(%d+)$')
  need_cpu, need_memory = tonumber(need_cpu), tonumber(need_memory)
  if need_cpu <= total_cpu and need_memory <= total_memory then
    local fit = slots
    if need_cpu > 0 then
      fit = math.min(fit, math.floor(cpu / need_cpu))
    end
    if need_memory > 0 then
      fit = math.min(fit, math.floor(memory / need_memory))
    end
    fit = math.max(fit, 0)
    if fit + ahead > 0 then
      local taken = take_retries(class, fit + ahead, need_cpu, need_memory)
      taken = taken + take_fresh(class, fit + ahead - taken)
      local started = math.min(taken, fit)
      slots, ahead = slots - started, ahead - (taken - started)
      cpu, memory = cpu - started * need_cpu, memory - started * need_memory
      if taken > 0 then
        call('HSET', P .. 'served', class, int(now))
        call('HDEL', P .. 'reserve', class)
      end
      if call('EXISTS', P .. 'q:' .. class, P .. 'r:' .. class) == 0 then
        call('ZREM', P .. 'classes', class)
        call('HDEL', P .. 'served', class)
        call('HDEL', P .. 'reserve', class)
      end
    elseif slots > 0 and reserved_here(class) then
      break
    end
  end
end

if slots > 0 and patience_for_dead > 0 then
  call('SADD', P .. 'hungry', agent)
end
local status = (patience_for_dead <= 0 or #claimed >= most_to_start) and 'more' or 'ok'
local tasks = {}
if #claimed > 0 then
  local fields = {}
  local some_tries = call('HLEN', P .. 'tries') > 0
  local since = ',' .. int(now) .. ',' .. agent
  for i, id in ipairs(claimed) do
    local attempt = some_tries and int(load_tries(id).attempt + 1) or '1'
    fields[#fields + 1] = id
    fields[#fields + 1] = attempt .. since
    tasks[i] = packed(id, attempt, classes[id], payloads[id])
  end
  call('HSET', P .. 'running', unpack(fields))
  call('SADD', P .. 'held:' .. agent, unpack(claimed))
  call('HSET', P .. 'claims', agent, token .. ' ' .. table.concat(claimed, ' '))
end
return {status, table.concat(tasks)}
