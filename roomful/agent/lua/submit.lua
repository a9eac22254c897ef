-- Add tasks to the queue.
-- KEYS[1]  prefix
-- ARGV[1]  token of this chunk: a repeat with the same token adds nothing and answers the same
-- ARGV[2]  '1' to accept duplicates of tasks that are todo, running or done
-- ARGV[3]  their digests, as digest_of makes them, one after the other: the server has the most to do of all
-- ARGV[4...] payloads; at most 2,000
-- Returns {first id, tasks added, duplicates skipped}; the ids are consecutive.
local reply = call('GET', P .. 'sub:' .. ARGV[1])
if reply then
  return cjson.decode(reply)
end
local now = now_ms()
local count = #ARGV - 3
local digests, known = {}, {}
for i = 1, count do
  digests[i] = string.sub(ARGV[3], i * 20 - 19, i * 20)
end
if count > 0 then
  known = call('SMISMEMBER', P .. 'digests', unpack(digests))
end
local first = tonumber(call('HGET', P .. 'meta', 'next_id') or '1')
local next_id, fresh, copies, seen, fields, lists = first, {}, {}, {}, {}, {}
for i = 1, count do
  local digest = digests[i]
  local duplicate = known[i] == 1 or seen[digest]
  if ARGV[2] == '1' or not duplicate then
    if duplicate then
      copies[#copies + 1] = digest
    end
    seen[digest] = true
    fresh[#fresh + 1] = digest
    local payload, id = ARGV[i + 3], int(next_id)
    next_id = next_id + 1
    fields[#fields + 1] = id
    fields[#fields + 1] = payload
    local class = class_of(payload)
    local list = lists[class]
    if not list then
      list = {}
      lists[class] = list
    end
    list[#list + 1] = id
  end
end
local added = #fresh
if added > 0 then
  call('HSET', P .. 'meta', 'next_id', int(next_id))
  call('HSET', P .. 'task', unpack(fields))
  call('SADD', P .. 'digests', unpack(fresh))
  for _, digest in ipairs(copies) do
    call('HINCRBY', P .. 'copies', digest, 1)
  end
  for class, ids in pairs(lists) do
    call('RPUSH', P .. 'q:' .. class, unpack(ids))
    open_class(class, now)
  end
  wake()
end
reply = {first, added, count - added}
call('SET', P .. 'sub:' .. ARGV[1], cjson.encode(reply), 'PX', '3600000')
return reply
