-- A window counts units of the last minute in slots of a quarter of a second, in a ring: what is
-- counted in a slot leaves when the last moment of that slot is a minute old. So a window never
-- admits too much in any 60 s, loses less than half a percent of a limit, and has 244 fields at most.
-- Fields: `head` the newest slot, `used` the sum, `last` the newest slot in which something was
-- counted, and one number for each slot that is not empty.
local GRAIN, SLOTS = 250, 241

-- Forgets what is older than a minute; the slot of now, and the units that are left.
local function advance(key, now)
  local slot = math.floor(now / GRAIN)
  local known = redis.call('HMGET', key, 'head', 'used')
  local head, used = tonumber(known[1]), tonumber(known[2]) or 0
  if not head then
    return slot, 0
  end
  -- Nothing for a minute, or a clock set back by more than that, which would stop the window.
  if slot - head >= SLOTS or head - slot >= SLOTS then
    redis.call('DEL', key)
    return slot, 0
  end
  if slot <= head then
    return head, used
  end
  local gone = {}
  for past = head + 1, slot do
    gone[#gone + 1] = past % SLOTS
  end
  for _, units in ipairs(redis.call('HMGET', key, unpack(gone))) do
    used = used - (tonumber(units) or 0)
  end
  redis.call('HDEL', key, unpack(gone))
  redis.call('HSET', key, 'head', slot, 'used', used)
  return slot, used
end

-- Counts units, which may be negative for a correction, in a slot that is still in the window.
local function count(key, head, slot, units, used)
  if units == 0 or slot > head or slot <= head - SLOTS then
    return used
  end
  redis.call('HINCRBY', key, slot % SLOTS, units)
  redis.call('HSET', key, 'head', head, 'used', used + units)
  if units > 0 then
    local last = tonumber(redis.call('HGET', key, 'last')) or 0
    redis.call('HSET', key, 'last', math.max(last, slot))
  end
  redis.call('PEXPIRE', key, GRAIN * SLOTS)
  return used + units
end

-- Milliseconds until `units` fit under `limit`; -1 where they are more than the whole limit.
local function wait(key, head, used, units, limit, now)
  if units > limit then
    return -1
  end
  local missing = used + units - limit
  local from = head - SLOTS + 1
  while from <= head do
    local fields = {}
    for slot = from, math.min(from + 47, head) do
      fields[#fields + 1] = slot % SLOTS
    end
    for step, found in ipairs(redis.call('HMGET', key, unpack(fields))) do
      missing = missing - (tonumber(found) or 0)
      if missing <= 0 then
        return math.max((from + step - 1 + SLOTS) * GRAIN - now, 1)
      end
    end
    from = from + 48
  end
  return GRAIN * SLOTS
end

-- Milliseconds until the window is empty.
local function reset(key, used, now)
  if used <= 0 then
    return 0
  end
  local last = tonumber(redis.call('HGET', key, 'last')) or 0
  return math.max((last + SLOTS) * GRAIN - now, 0)
end

-- A budget's period is a hash: `used` is what was given to replicas and not returned, `spent` what
-- they say was spent, and for each replica one record `given:spent:returned:idle:seen`. The first
-- three only grow, each is raised by one side alone (`given` here, the others there), and the larger
-- value is the newer one. So a report may come twice, late or never, and a Redis that lost the last
-- second learns it again. What a dead replica holds simply stays used.
local FORGET_HOLDER, FORGET_EMPTY = 7 * 24 * 3600 * 1000, 24 * 3600 * 1000

-- Takes a replica's word over what is known of it. `given` may be more than was granted: then the
-- replica has promised it already, and it counts. Where the replica has not heard yet of all that was
-- given, what it was given to keep is not in its word either, and what is known of that stays. Answers
-- the record and the two sums.
local function merge(key, replica, given, spent, returned, idle)
  local sums = redis.call('HMGET', key, 'used', 'spent', replica)
  local used, total = tonumber(sums[1]) or 0, tonumber(sums[2]) or 0
  local was = { 0, 0, 0, 0 }
  if sums[3] then
    was = { string.match(sums[3], '^(%d+):(%d+):(%d+):(%d+):') }
    was = { tonumber(was[1]), tonumber(was[2]), tonumber(was[3]), tonumber(was[4]) }
  end
  local record = { is_new = not sums[3] }
  record.idle = given < was[1] and math.max(idle, was[4]) or idle
  record.spent = math.max(spent, was[2])
  record.returned = math.max(returned, was[3])
  record.given = math.max(given, was[1], record.spent + record.returned)
  used = used + (record.given - was[1]) - (record.returned - was[3])
  return record, used, total + record.spent - was[2]
end

-- Writes a record and the sums back. A period is kept for 40 days after its end, for late reports.
local function keep(key, replica, record, used, spent, ends, now)
  local text = string.format('%.0f:%.0f:%.0f:%.0f:%.0f', record.given, record.spent, record.returned, record.idle, now)
  redis.call('HSET', key, replica, text, 'used', used, 'spent', spent)
  if ends >= 0 then
    redis.call('PEXPIREAT', key, ends + 40 * 24 * 3600 * 1000)
  end
end

-- Folds the records of replicas that were long silent into the sums: what they held is spent.
local function forget(key, spent, now)
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local given, paid, returned, seen = string.match(all[at + 1], '^(%d+):(%d+):(%d+):%d+:(%d+)$')
    if given then
      local held = tonumber(given) - tonumber(returned) - tonumber(paid)
      if tonumber(seen) < now - (held > 0 and FORGET_HOLDER or FORGET_EMPTY) then
        spent = spent + held
        redis.call('HDEL', key, all[at])
      end
    end
  end
  return spent
end

-- What other replicas that are alive hold for calls to come.
local function idle_elsewhere(key, replica, now)
  local idle = 0
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local held, seen = string.match(all[at + 1], '^%d+:%d+:%d+:(%d+):(%d+)$')
    if held and all[at] ~= replica and tonumber(seen) > now - 10000 then
      idle = idle + tonumber(held)
    end
  end
  return idle
end

-- What replicas hold that were not heard of for so long that they must be gone: their calls may have
-- cost all of it.
local GONE = 15000
local function held_by_the_gone(key, now)
  local held = 0
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local given, paid, returned, seen = string.match(all[at + 1], '^(%d+):(%d+):(%d+):%d+:(%d+)$')
    if given and tonumber(seen) < now - GONE then
      held = held + tonumber(given) - tonumber(returned) - tonumber(paid)
    end
  end
  return held
end
