-- Limits shared by several hosts: all decisions, settlements and releases of one turn of a worker's loop, in one call.
--
-- KEYS[1]   the holders: a sorted set, worker -> time at which its leases expire unless it renews them
-- KEYS[2..] one key per operation, in order
-- ARGV[1]   the calling worker
-- ARGV[2]   lifetime of its leases without a renewal, in microseconds
-- ARGV[3]   the operations, packed: code and kind (a byte each), then five doubles: limit, cost, a, b, extra
-- Returns integers: 1 if the worker's leases had expired, else 0; then for each decision the index of the demand that
-- refused (-1: admitted) and the wait in microseconds, and for each of its demands the remaining units, the microseconds
-- until it is full again, and the granted part of `extra`.
--
-- Every key is read at most once, and nothing is written before all decisions are made, so an error (a wrong type, out of
-- memory) changes nothing.
local DEMAND, LAST_DEMAND, SETTLE, RELEASE, ASSERT, BEAT = 0, 1, 2, 3, 4, 5
local RATE, CONCURRENCY, SPEND = 0, 1, 2
-- Times of buckets are in sixteenths of a microsecond since 2026: whole numbers below 2^53, so exact, until 2043.
local UNITS, EPOCH_S = 16, 1767225600
local LEASES_KEPT_MS = 120000 -- workers repeat what they hold every 30 s
local SPEND_KEPT_S = 3600 -- after the period's end, because clocks differ

local clock = redis.call('TIME')
local now_us = (clock[1] - EPOCH_S) * 1000000 + clock[2]
local now = now_us * UNITS
local me, lease_us = ARGV[1], tonumber(ARGV[2])
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

local rates, spends, leases = {}, {}, {}
local holders, my_end

local function read_holders()
  holders = {}
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now_us), '+inf', 'WITHSCORES')
  for i = 1, #found, 2 do
    holders[found[i]] = tonumber(found[i + 1])
  end
  my_end = holders[me]
end

local function rate(key)
  local cell = rates[key]
  if not cell then
    cell = { time = tonumber(redis.call('GET', key) or 0) }
    rates[key] = cell
  end
  return cell
end

local function spend(key)
  local cell = spends[key]
  if not cell then
    cell = { sum = tonumber(redis.call('GET', key) or 0), added = 0 }
    spends[key] = cell
  end
  return cell
end

local function lease(key)
  local cell = leases[key]
  if not cell then
    if not holders then
      read_holders()
    end
    cell = { total = 0, mine = 0, dead = {} }
    local found = redis.call('HGETALL', key)
    for i = 1, #found, 2 do
      local count = tonumber(found[i + 1])
      if found[i] == me then
        cell.mine = count
      elseif holders[found[i]] then
        cell.total = cell.total + count
      else
        cell.dead[#cell.dead + 1] = found[i]
      end
    end
    cell.total = cell.total + cell.mine
    leases[key] = cell
  end
  return cell
end

-- Time units in which one token refills. Rounded up if that changes it by less than a thousandth, so that a sum of debits
-- is exact; otherwise each debit is rounded up.
local function interval_of(limit, period_us)
  local interval = period_us * UNITS / limit
  if interval >= 1000 then
    interval = ceil(interval)
  end
  return interval
end

-- Computes for a demand: the remaining units, the time until it is full again, and the wait.
local function look(d)
  if d.kind == RATE then
    d.cell = rate(d.key)
    d.interval = interval_of(d.limit, d.a)
    local tolerance = ceil(d.b * d.interval)
    local base = max(d.cell.time, now)
    local free = now + tolerance - base
    local need = ceil(max(d.cost, 1) * d.interval)
    d.left = max(0, floor(free / d.interval))
    d.reset = ceil((base - now) / UNITS)
    if need > tolerance then
      d.wait = ceil(tolerance / UNITS) -- it never fits; the time of a full refill stands for that
    elseif need > free then
      d.wait = max(1, ceil((need - free) / UNITS))
    end
  elseif d.kind == CONCURRENCY then
    d.cell = lease(d.key)
    d.left, d.reset = max(0, d.limit - d.cell.total), 0
    if d.cell.total + max(d.cost, 1) > d.limit then
      d.wait = 0
    end
  else
    d.cell = spend(d.key)
    d.left = max(0, d.limit - d.cell.sum)
    d.reset = max(0, (d.a - EPOCH_S) * 1000000 - now_us)
    if d.cell.sum + max(d.cost, 1) > d.limit then
      d.wait = d.reset
    end
  end
  d.granted = 0
end

local function take(d)
  d.granted = max(0, min(d.extra, d.left - d.cost))
  local amount = d.cost + d.granted
  if amount > 0 then
    local cell = d.cell
    cell.dirty = true
    if d.kind == RATE then
      cell.time = max(cell.time, now) + ceil(amount * d.interval)
      d.reset = ceil((cell.time - now) / UNITS)
    elseif d.kind == CONCURRENCY then
      cell.total, cell.mine = cell.total + amount, cell.mine + amount
    else
      cell.sum, cell.added, cell.ends = cell.sum + amount, cell.added + amount, d.a
    end
    d.left = max(0, d.left - amount)
  end
end

local out = { 0 }

local function decide(demands)
  local refused, wait = -1, 0
  for i = 1, #demands do
    look(demands[i])
    if demands[i].wait and refused < 0 then
      refused, wait = i - 1, demands[i].wait
    end
  end
  out[#out + 1], out[#out + 2] = refused, wait
  for i = 1, #demands do
    local d = demands[i]
    if refused < 0 then
      take(d)
    end
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = d.left, d.reset, d.granted
  end
end

local function settle(kind, key, limit, delta, a)
  if kind == RATE then
    local cell = rate(key)
    local change = delta * interval_of(limit, a)
    if change > 0 then
      cell.time, cell.dirty = max(cell.time, now) + ceil(change), true
    elseif cell.time > now then
      cell.time, cell.dirty = cell.time + ceil(change), true
    end
  else
    local cell = spend(key)
    local change = max(delta, -cell.sum)
    cell.sum, cell.added, cell.ends, cell.dirty = cell.sum + change, cell.added + change, a, true
  end
end

local beat = false
local demands = {}
local ops, position = ARGV[3], 1
for i = 2, #KEYS do
  local key = KEYS[i]
  local code, kind, limit, cost, a, b, extra
  code, kind, limit, cost, a, b, extra, position = struct.unpack('<BBddddd', ops, position)
  if code <= LAST_DEMAND then
    demands[#demands + 1] = { kind = kind, key = key, limit = limit, cost = cost, a = a, b = b, extra = extra }
    if code == LAST_DEMAND then
      decide(demands)
      demands = {}
    end
  elseif code == SETTLE then
    settle(kind, key, limit, cost, a)
  elseif code == RELEASE then
    local cell = lease(key)
    local count = min(cost, cell.mine)
    cell.total, cell.mine, cell.dirty = cell.total - count, cell.mine - count, true
  elseif code == ASSERT then
    local cell = lease(key)
    cell.total, cell.mine, cell.dirty = cell.total + cost - cell.mine, cost, true
  elseif code == BEAT then
    beat = true
  end
end

-- All writes are below this line.
for key, cell in pairs(rates) do
  if cell.dirty then
    if cell.time > now then
      redis.call('SET', key, string.format('%.0f', cell.time), 'PX', ceil((cell.time - now) / UNITS / 1000) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
for key, cell in pairs(spends) do
  if cell.added ~= 0 then
    redis.call('INCRBY', key, string.format('%.0f', cell.added))
    redis.call('EXPIREAT', key, string.format('%.0f', cell.ends + SPEND_KEPT_S))
  end
end
for key, cell in pairs(leases) do
  if #cell.dead > 0 then
    redis.call('HDEL', key, unpack(cell.dead))
  end
  if cell.dirty then
    if cell.mine > 0 then
      redis.call('HSET', key, me, string.format('%.0f', cell.mine))
      redis.call('PEXPIRE', key, LEASES_KEPT_MS)
      beat = beat or not my_end or my_end - now_us < lease_us / 2
    else
      redis.call('HDEL', key, me)
    end
  end
end
if beat then
  if not holders then
    read_holders()
  end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now_us + lease_us), me)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_us))
  redis.call('PEXPIRE', KEYS[1], LEASES_KEPT_MS)
end
if holders and not my_end then
  out[1] = 1
end
return out
