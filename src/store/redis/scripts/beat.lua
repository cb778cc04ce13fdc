-- Says that a replica is there, and answers the time, since when these data are there and who else is.
-- KEYS: replicas (zset), the data's birth. ARGV: replica, how long a beat counts in ms, 1 where it says
-- farewell, a word that nobody else has.
local now = clock()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
-- Who finds none begins: everything that was here is gone, or nothing ever was.
local birth = redis.call('GET', KEYS[2])
if not birth then
  birth = ARGV[4] .. ':' .. string.format('%.0f', now)
  redis.call('SET', KEYS[2], birth)
end
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(members, 1, birth)
table.insert(members, 1, string.format('%.0f', now))
return members
