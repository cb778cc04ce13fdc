-- Decides about one call over all dimensions at once. A refusal consumes nothing.
-- KEYS: calls that run (zset), requests (hash), tokens (hash), the budget's period (hash), the data's birth.
-- ARGV: see `admit_args` in script.rs. A limit of -1 is none. An empty call only looks.
local call, lease = ARGV[1], tonumber(ARGV[2])
local concurrent, requests, tokens = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local asked = tonumber(ARGV[6])
local budget, begins, ends = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local replica = ARGV[10]
local need, covered, want, least = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local given, spent, returned, idle = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
local replicas, tag, channel = tonumber(ARGV[19]), ARGV[20], ARGV[21]
local valid_until, birth = tonumber(ARGV[22]), ARGV[23]
local ADMITTED, CONCURRENT, REQUESTS, TOKENS, BUDGET, STALE, EMPTIED = 0, 1, 2, 3, 4, 5, 6

local now = clock()
-- Not the data that who asks knows of: until every replica has told what it knows, the sums are too low.
if birth ~= '' and redis.call('GET', KEYS[5]) ~= birth then
  return { EMPTIED, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end
-- The period is over, or has not begun: the caller takes another key and asks again.
if budget >= 0 and (now < begins or (ends >= 0 and now >= ends)) then
  return { STALE, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end

local looks = call == ''
-- Who asked waits no longer and has decided without us: a Redis that stood still must count nothing for it.
if not looks and now > valid_until then
  return { STALE, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end
local tracks = concurrent >= 0 or tokens >= 0
local code, retry = ADMITTED, 0
local running, head_r, used_r, head_t, used_t = 0, 0, 0, 0, 0

if tracks then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  running = redis.call('ZCARD', KEYS[1])
  if concurrent >= 0 and running >= concurrent then
    code, retry = CONCURRENT, 1000
  end
end
if requests >= 0 then
  head_r, used_r = advance(KEYS[2], now)
  if code == ADMITTED and used_r + 1 > requests then
    code, retry = REQUESTS, wait(KEYS[2], head_r, used_r, 1, requests, now)
  end
end
if tokens >= 0 then
  head_t, used_t = advance(KEYS[3], now)
  if code == ADMITTED and used_t + asked > tokens then
    code, retry = TOKENS, wait(KEYS[3], head_t, used_t, asked, tokens, now)
  end
end

local record, used, total, granted, elsewhere, scarce, gone = nil, 0, 0, 0, 0, 0, 0
if budget >= 0 then
  record, used, total = merge(KEYS[4], replica, given, spent, returned, idle)
  local until_then = tonumber(redis.call('HGET', KEYS[4], 'scarce')) or 0
  if now < until_then then
    scarce = 1
  end
  local free = math.max(budget - used, 0)
  local grant, over = 0, false -- with what is for calls to come
  if code == ADMITTED and not looks then
    -- Under a limit that was lowered what is held for calls to come may be more than is left.
    if used > budget and covered > 0 then
      over = used - record.idle - idle_elsewhere(KEYS[4], replica, now) > budget
    end
    if over then
      code, retry = BUDGET, ends >= 0 and ends - now or -1
    elseif (need < 0 and covered + free <= 0) or need > free then
      code, retry = BUDGET, ends >= 0 and ends - now or -1
      elsewhere = idle_elsewhere(KEYS[4], replica, now)
      if elsewhere > 0 then
        -- Others hold what is missing: they hear of it and give it back; for a while nobody stocks up.
        scarce = 1
        redis.call('HSET', KEYS[4], 'scarce', now + 5000)
        redis.call('PUBLISH', channel, tag)
      end
    elseif need < 0 then
      grant, granted = free, free
    else
      local extra = 0
      if scarce == 0 then
        extra = math.min(want, math.floor((free - need) / (4 * replicas)))
        if extra < least then
          extra = 0
        end
      end
      grant, granted = need + extra, need
      record.idle = record.idle + extra
    end
  end
  if looks then
    gone = held_by_the_gone(KEYS[4], now)
  else
    if record.is_new then
      total = forget(KEYS[4], total, now)
    end
    record.given = record.given + grant
    used = used + grant
    keep(KEYS[4], replica, record, used, total, ends, now)
  end
end

if code == ADMITTED and not looks then
  if tracks then
    redis.call('ZADD', KEYS[1], now + lease, call)
    redis.call('PEXPIRE', KEYS[1], lease * 2)
    running = running + 1
  end
  if requests >= 0 then
    used_r = count(KEYS[2], head_r, head_r, 1, used_r)
  end
  if tokens >= 0 then
    used_t = count(KEYS[3], head_t, head_t, asked, used_t)
  end
end

return {
  code, now, retry, running,
  used_r, requests >= 0 and reset(KEYS[2], used_r, now) or 0,
  head_t, used_t, tokens >= 0 and reset(KEYS[3], used_t, now) or 0,
  record and record.given or 0, granted, used, total, elsewhere, scarce, gone,
}
