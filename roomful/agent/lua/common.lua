-- What the scripts share; put in front of each of them.
--
-- KEYS[1] is always the queue's prefix; every key that a script touches starts with it:
--   meta      hash    next_id; tick (when anyone last looked at leases)
--   task      hash    id -> payload: CLASS LF POLICY LF IDENTITY LF COMMAND
--   digests   set     digests of IDENTITY LF COMMAND of tasks that are todo, running or done
--   copies    hash    digest -> by how many such tasks it is had besides one; nothing where one alone has it
--   classes   zset    CLASS with tasks waiting, best first
--   q:CLASS   list    ids waiting, next first
--   r:CLASS   list    ids waiting for another try; looked at before q:CLASS
--   served    hash    CLASS -> when a task of it was last claimed, or first waited
--   reserve   hash    CLASS -> "AGENT MS": the agent that lets room grow for a task that fits nowhere now
--   void      set     ids whose entry in a list is dead (cancelled while waiting)
--   running   hash    id -> "ATTEMPT,CLAIMED_MS,AGENT"
--   held:AGENT set    ids that the agent holds
--   tries     hash    id -> JSON {attempt, failures, losses, hosts, since, class, log}; only after a first attempt
--   result    hash    id -> "STATE,ATTEMPT,CLAIMED_MS,ENDED_MS,DURATION_MS,AGENT" LF JSON
--   stdout, stderr    hashes of id -> bytes
--   failed, cancelled sets of ids
--   late      hash    "ID:ATTEMPT" -> the report as it came
--   log       stream  {i: id, a: attempt} for each final state reached
--   agents    hash    agent -> JSON as it registered;  sizes: agent -> "CPU_MILLI MEMORY_MIB"
--   lease     zset    agent -> when it was last heard;  beats: agent -> JSON of its last heartbeat
--   gone      hash    agent -> "STATE MS": left or lost;  nonces: hash nonce -> agent
--   claims    hash    agent -> "TOKEN ID ID ...": its last claim, repeated when the reply was lost
--   numbers   hash    host -> its last incarnation
--   draining  set     hosts that take nothing new
--   hungry    set     agents that wanted more than there was;  wake: stream that they block on
--   config    hash    live settings, NAME or NAME@HOST; version rises with each change
--   tally     hash    "HOST done" and "HOST failed";  pace: hash of ten-second period -> tasks that ended
--   sub:TOKEN string  reply of a submission, for an hour
local P = KEYS[1]
local call = redis.call

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function int(number)
  return string.format('%.0f', number)
end

local function host_of(agent)
  return string.match(agent, '^(.*)#%d+$') or agent
end

local function setting(name, default)
  return tonumber(call('HGET', P .. 'config', name) or '') or default
end

local function class_of(payload)
  return string.match(payload, '^[^\n]*')
end

local function digest_of(payload)
  local start = select(3, string.find(payload, '^[^\n]*\n[^\n]*\n()'))
  return string.sub(redis.sha1hex(string.sub(payload, start)), 1, 20)
end

local function add_digest(digest)
  if call('SADD', P .. 'digests', digest) == 0 then
    call('HINCRBY', P .. 'copies', digest, 1)
  end
end

-- A task that had it has failed, was cancelled or is forgotten; others may have the same.
local function drop_digest(digest)
  local others = tonumber(call('HGET', P .. 'copies', digest) or '0')
  if others > 1 then
    call('HINCRBY', P .. 'copies', digest, -1)
  elseif others == 1 then
    call('HDEL', P .. 'copies', digest)
  else
    call('SREM', P .. 'digests', digest)
  end
end

-- Priority first; within one priority the task that is hardest to place.
local function class_score(class)
  local priority, cpu, memory = string.match(class, '^(-?%d+),(%d+),(%d+)$')
  return -(priority * 4294967296 + math.min(cpu * 2048 + math.floor(memory / 64), 4294967295))
end

local function wake()
  if call('SCARD', P .. 'hungry') > 0 then
    call('DEL', P .. 'hungry')
    call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
  end
end

local function open_class(class, now)
  if call('ZADD', P .. 'classes', class_score(class), class) == 1 then
    call('HSETNX', P .. 'served', class, int(now))
  end
end

-- Let an id wait again: 'next' of its class, 'elsewhere' as the next to be tried again, 'retry' as the last of those.
local function wait_again(id, class, place, now)
  if call('SREM', P .. 'void', id) == 0 then
    if place == 'next' then
      call('LPUSH', P .. 'q:' .. class, id)
    elseif place == 'elsewhere' then
      call('LPUSH', P .. 'r:' .. class, id)
    else
      call('RPUSH', P .. 'r:' .. class, id)
    end
  end
  open_class(class, now)
end

local function load_tries(id)
  local text = call('HGET', P .. 'tries', id)
  return text and cjson.decode(text) or {attempt = 0, failures = 0, losses = 0, hosts = {}, log = {}}
end

local function save_tries(id, tries)
  while #tries.log > 20 do
    table.remove(tries.log, 1)
  end
  call('HSET', P .. 'tries', id, cjson.encode(tries))
end

local function note_try(tries, attempt, host, reason, detail, now)
  tries.attempt = attempt
  table.insert(tries.log, {attempt, host, reason, detail, int(now)})
end

local function add_host(tries, host, now)
  tries.since = now
  for _, known in ipairs(tries.hosts) do
    if known == host then
      return
    end
  end
  table.insert(tries.hosts, host)
end

-- Attempt, claim time and agent of a record in 'running'; nothing for none.
local function parse_running(record)
  if record then
    local attempt, claimed, agent = string.match(record, '^(%d+),(%d+),(.*)$')
    return tonumber(attempt), tonumber(claimed), agent
  end
end

-- The same of a task; nothing if it does not run.
local function running_of(id)
  return parse_running(call('HGET', P .. 'running', id))
end

local function result_text(state, attempt, claimed, ended, duration, agent, detail)
  return string.format('%s,%.0f,%.0f,%.0f,%.0f,%s\n', state, attempt, claimed, ended, duration, agent) .. detail
end

local function put_result(id, state, attempt, claimed, ended, duration, agent, detail)
  call('HSET', P .. 'result', id, result_text(state, attempt, claimed, ended, duration, agent, detail))
  if state ~= 'done' then
    call('SADD', P .. state, id)
    local payload = call('HGET', P .. 'task', id)
    if payload then
      drop_digest(digest_of(payload))
    end
  end
  call('XADD', P .. 'log', '*', 'i', id, 'a', int(attempt))
end

-- Count what ended, for the rate and the table of clients.
local function count_ended(host, done, failed, now)
  local period = int(math.floor(now / 10000))
  if call('HINCRBY', P .. 'pace', period, done + failed) == done + failed then
    for _, old in ipairs(call('HKEYS', P .. 'pace')) do
      if tonumber(old) < tonumber(period) - 60 then
        call('HDEL', P .. 'pace', old)
      end
    end
  end
  if done > 0 then
    call('HINCRBY', P .. 'tally', host .. ' done', done)
  end
  if failed > 0 then
    call('HINCRBY', P .. 'tally', host .. ' failed', failed)
  end
end

-- Take a running task from its agent. The caller has checked that it holds it.
local function take_from(agent, id)
  call('HDEL', P .. 'running', id)
  call('SREM', P .. 'held:' .. agent, id)
end

local function largest_memory()
  local most = 0
  for _, size in ipairs(call('HVALS', P .. 'sizes')) do
    most = math.max(most, tonumber(string.match(size, ' (%d+)$')))
  end
  return most
end

-- End an attempt that counts neither as success nor as the task's own failure.
--   released   claimed ahead and never started: next of its class, nothing noted
--   stopped    by an operator: next of its class
--   evicted    for memory: waits with `memory` MiB as its new need, where that is more
--   restarted  its agent died and came back: next of its class, a loss
--   lost       its agent or host is gone: another try elsewhere, a loss
local function give_back(id, attempt, claimed, agent, how, detail, now, memory)
  local payload = call('HGET', P .. 'task', id)
  take_from(agent, id)
  if not payload then
    return
  end
  local tries, host = load_tries(id), host_of(agent)
  local class, place = tries.class or class_of(payload), 'next'
  if how == 'released' then
    tries.attempt = attempt
  else
    note_try(tries, attempt, host, how, detail, now)
  end
  if how == 'evicted' then
    place = 'elsewhere'
    local priority, cpu, declared = string.match(class, '^(-?%d+),(%d+),(%d+)$')
    -- More than the largest host has would never run: there it runs alone instead.
    memory = math.min(memory or 0, largest_memory())
    if memory > tonumber(declared) then
      class = priority .. ',' .. cpu .. ',' .. int(memory)
      tries.class = class
    end
  elseif how == 'lost' or how == 'restarted' then
    tries.losses = tries.losses + 1
    if tries.losses >= setting('max_losses', 3) then
      save_tries(id, tries)
      put_result(id, 'failed', attempt, claimed, now, 0, agent, cjson.encode({reason = 'lost', detail = detail}))
      count_ended(host, 0, 1, now)
      return
    end
    if how == 'lost' or tries.losses > 1 then
      add_host(tries, host, now)
      place = 'elsewhere'
    end
  end
  save_tries(id, tries)
  wait_again(id, class, place, now)
end

-- Everything that an agent holds; returns how many.
local function give_back_all(agent, how, detail, now)
  local ids = call('SMEMBERS', P .. 'held:' .. agent)
  -- Pushed to the front one by one: the oldest last, so that it is first again.
  table.sort(ids, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, id in ipairs(ids) do
    local attempt, claimed, holder = running_of(id)
    if holder == agent then
      give_back(id, attempt, claimed, agent, how, detail, now)
    end
  end
  call('DEL', P .. 'held:' .. agent)
  return #ids
end

-- Forget an agent's place among the living; what it holds is given back.
local function remove_agent(agent, state, how, detail, now)
  local count = give_back_all(agent, how, detail, now)
  call('ZREM', P .. 'lease', agent)
  call('HDEL', P .. 'sizes', agent)
  call('HDEL', P .. 'claims', agent)
  call('SREM', P .. 'hungry', agent)
  local reserved = call('HGETALL', P .. 'reserve')
  for i = 1, #reserved, 2 do
    if string.match(reserved[i + 1], '^(.*) %d+$') == agent then
      call('HDEL', P .. 'reserve', reserved[i])
    end
  end
  call('HSET', P .. 'gone', agent, state .. ' ' .. int(now))
  if count > 0 then
    wake()
  end
  return count
end

-- Leases count only time in which the server was there to hear: after a gap they all start afresh.
local function look_at_leases(now, longest_pause)
  local tick = tonumber(call('HGET', P .. 'meta', 'tick') or '0')
  -- Kept out of the append-only file: a restart is a gap.
  redis.set_repl(redis.REPL_NONE)
  call('HSET', P .. 'meta', 'tick', int(now))
  if now - tick > longest_pause or now < tick then
    for _, agent in ipairs(call('ZRANGE', P .. 'lease', 0, -1)) do
      call('ZADD', P .. 'lease', int(now), agent)
    end
  end
  redis.set_repl(redis.REPL_ALL)
end
