-- Redis' clock is the only one, so that replicas need not agree about the time. In milliseconds.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
