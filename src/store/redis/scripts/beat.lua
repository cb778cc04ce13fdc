-- Says that a replica is there, and answers the time and who else is. KEYS: replicas (zset).
-- ARGV: replica, how long a beat counts in ms, 1 where it says farewell.
local now = clock()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(members, 1, string.format('%.0f', now))
return members
