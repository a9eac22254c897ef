-- Report attempts that ended by themselves.
-- KEYS[1]  prefix
-- ARGV[1]  agent
-- ARGV[2...] reports, each: "ID ATTEMPT STATE AGO_MS DURATION_MS STDOUT_LENGTH STDERR_LENGTH" LF JSON LF stdout stderr
--            STATE is done or failed; AGO_MS how long before this call it ended, by the agent's monotonic clock;
--            the JSON object has reason, detail, exit, signal, memory, cpu, stdout, stderr (see agent/report.py)
-- Returns a word for each, with spaces between: 'ok' (accepted), 'retry' (accepted; it waits for another try), 'late'
-- (kept aside: the attempt had been given up); or a single 'unknown' (register first). A repeat answers the same.
local agent = ARGV[1]
if not call('ZSCORE', P .. 'lease', agent) then
  return 'unknown'
end
local now, host = now_ms(), host_of(agent)
local replies, done, failed = {}, 0, 0
local given_up = {lost = true, restarted = true, stopped = true, evicted = true}

local function keep_output(name, id, bytes, tried_before)
  if #bytes > 0 then
    call('HSET', P .. name, id, bytes)
  elseif tried_before then
    call('HDEL', P .. name, id)
  end
end

local function repeated(id, attempt)
  local result = call('HGET', P .. 'result', id)
  if result then
    local state, was, holder, detail = string.match(result, '^(%a+),(%d+),%d+,%d+,%d+,([^\n]*)\n(.*)$')
    local by_us = state ~= 'cancelled' and cjson.decode(detail).reason ~= 'lost'
    if by_us and tonumber(was) == attempt and holder == agent then
      return 'ok'
    end
  end
  for _, try in ipairs(load_tries(id).log) do
    if try[1] == attempt and try[2] == host and not given_up[try[3]] then
      return 'retry'
    end
  end
end

local function fail(id, attempt, claimed, ended, duration, detail)
  local tries = load_tries(id)
  local policy = string.match(call('HGET', P .. 'task', id) or '', '^[^\n]*\n([^\n]*)')
  local retries = policy and policy ~= '' and cjson.decode(policy).retries
  if type(retries) ~= 'number' then
    retries = setting('retries', 0)
  end
  local said = cjson.decode(detail)
  tries.failures = tries.failures + 1
  if tries.failures > retries then
    tries.attempt = attempt
    save_tries(id, tries)
    put_result(id, 'failed', attempt, claimed, ended, duration, agent, detail)
    failed = failed + 1
    return 'ok'
  end
  note_try(tries, attempt, host, said.reason or 'error', said.detail or '', ended)
  add_host(tries, host, now)
  save_tries(id, tries)
  wait_again(id, tries.class or class_of(call('HGET', P .. 'task', id)), 'retry', now)
  wake()
  return 'retry'
end

-- All at once where reports ask the same of the server: most are of tasks that are done.
local reports, ids = {}, {}
for i = 2, #ARGV do
  local id, attempt, state, ago, duration, out_length, err_length, start =
    string.match(ARGV[i], '^(%d+) (%d+) (%a+) (%d+) (%d+) (%d+) (%d+)\n()')
  ids[i - 1] = id
  reports[i - 1] = {attempt = tonumber(attempt), state = state, ended = now - tonumber(ago),
    duration = tonumber(duration), out_length = tonumber(out_length), err_length = tonumber(err_length), start = start}
end
local records = #ids > 0 and call('HMGET', P .. 'running', unpack(ids)) or {}
local gone, results, accepted = {}, {}, {}

for i, id in ipairs(ids) do
  local report, text = reports[i], ARGV[i + 1]
  local attempt = report.attempt
  local held, claimed, holder = parse_running(records[i])
  if held == attempt and holder == agent and not accepted[id] then
    accepted[id] = true
    local stop = string.find(text, '\n', report.start, true)
    local detail = string.sub(text, report.start, stop - 1)
    local middle = stop + report.out_length
    keep_output('stdout', id, string.sub(text, stop + 1, middle), attempt > 1)
    keep_output('stderr', id, string.sub(text, middle + 1, middle + report.err_length), attempt > 1)
    if report.state == 'done' then
      gone[#gone + 1] = id
      results[#results + 1] = id
      results[#results + 1] =
        result_text('done', attempt, claimed, report.ended, report.duration, agent, detail)
      call('XADD', P .. 'log', '*', 'i', id, 'a', int(attempt))
      done = done + 1
      replies[i] = 'ok'
    else
      take_from(agent, id)
      replies[i] = fail(id, attempt, claimed, report.ended, report.duration, detail)
    end
  else
    local reply = repeated(id, attempt)
    if not reply then
      reply = 'late'
      if call('HLEN', P .. 'late') < 1000 then
        call('HSETNX', P .. 'late', id .. ':' .. int(attempt), agent .. '\n' .. text)
      end
    end
    replies[i] = reply
  end
end
if done > 0 then
  call('HDEL', P .. 'running', unpack(gone))
  call('SREM', P .. 'held:' .. agent, unpack(gone))
  call('HSET', P .. 'result', unpack(results))
end
if done + failed > 0 then
  count_ended(host, done, failed, now)
end
return table.concat(replies, ' ')
