-- Change live settings; agents see them with their next heartbeat.
-- KEYS[1]  prefix
-- ARGV     name, value, name, value ...; NAME@HOST is for one host; an empty value removes the setting
-- Returns the new version.
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    call('HDEL', P .. 'config', ARGV[i])
  else
    call('HSET', P .. 'config', ARGV[i], ARGV[i + 1])
  end
end
call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
return call('HINCRBY', P .. 'config', 'version', 1)
