-- Stop or resume handing tasks to hosts.
-- KEYS[1]  prefix
-- ARGV[1]  '1' to drain, '0' to resume
-- ARGV[2...] host labels
-- Returns how many hosts changed.
if #ARGV < 2 then
  return 0
end
local changed = call(ARGV[1] == '1' and 'SADD' or 'SREM', P .. 'draining', unpack(ARGV, 2))
call('DEL', P .. 'hungry')
call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
return changed
