-- Takes a replica's word about one account: what it spent and returned, which calls ended and which
-- still run, and what it admitted while Redis was away. May come twice; then the second changes
-- nothing, but for the last part, which then counts twice for a minute: too strict, never too lax.
-- KEYS as for `admit`. ARGV: see `report_args` in script.rs.
local lease = tonumber(ARGV[1])
local has_budget, ends, replica = ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4]
local given, spent, returned, idle = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local at = 9
local function next_number()
  at = at + 1
  return tonumber(ARGV[at - 1])
end

local now = clock()

-- Whatever is foreign is stumbled over before anything is counted, since the same report comes again.
redis.call('ZCARD', KEYS[1])
redis.call('HGET', KEYS[2], 'head')
redis.call('HGET', KEYS[3], 'head')
local record, used, total
if has_budget then
  record, used, total = merge(KEYS[4], replica, given, spent, returned, idle)
end

for _ = 1, next_number() do -- ended: call, the slot its tokens are counted in, by how many they were wrong
  local call = ARGV[at]
  at = at + 1
  local slot, by = next_number(), next_number()
  -- Whoever takes the call out corrects its tokens, so that it happens once.
  if redis.call('ZREM', KEYS[1], call) == 1 and by ~= 0 then
    local head, used = advance(KEYS[3], now)
    count(KEYS[3], head, slot, by, used)
  end
end

local running = next_number()
for _ = 1, running do
  redis.call('ZADD', KEYS[1], now + lease, ARGV[at])
  at = at + 1
end
if running > 0 then
  redis.call('PEXPIRE', KEYS[1], lease * 2)
end

for _ = 1, next_number() do -- admitted without Redis: how long ago in ms, requests, tokens
  local age, requests, tokens = next_number(), next_number(), next_number()
  local slot = math.floor((now - age) / GRAIN)
  if requests > 0 then
    local head, used = advance(KEYS[2], now)
    count(KEYS[2], head, slot, requests, used)
  end
  if tokens > 0 then
    local head, used = advance(KEYS[3], now)
    count(KEYS[3], head, slot, tokens, used)
  end
end

if not has_budget then
  return { now, 0, 0, 0, 0 }
end
keep(KEYS[4], replica, record, used, total, ends, now)
local scarce = (tonumber(redis.call('HGET', KEYS[4], 'scarce')) or 0) > now and 1 or 0
return { now, record.given, used, total, scarce }
