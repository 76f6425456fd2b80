-- The record: what a key of ours holds. This file is put before each verb.
-- Offsets are those of internal/record (a test compares them); 1-based here.
--
--   entry, under the checksum          lease, outside it
--     1   magic and format "bw1"         137  owner, 16 bytes, NUL = none
--     4   state S stub V value N none    153  fence, 16 digits
--     5   version, 10 digits             169  until, server us, 16 digits
--    15   digest of the key, 8 bytes     185  duration, us, 10 digits
--    23   digest of the type, 8 bytes    195  "1": wake everybody
--    31   entry id, 16 bytes                  + 2 for each failed load, at most 4
--    47   fence, 16 digits               196  newline
--    79   fresh until, us, 16 digits     197  payload; on a stub the inboxes
--    95   stale until, us, 16 digits          of those who wait, 16 bytes each
--
-- A value without an owner but with a deadline has a failed mark: until then who has a value to serve does not try again.
-- Numbers are doubles: microseconds fit exactly until the year 2255.
-- '%d' writes them: tostring would lose digits, and '%.0f' takes twice as long.

local SIZE, NONE, MOST, FAILURES = 196, string.rep('\0', 16), 32, 4

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- answer makes a reply. Each one ends with the owner that asked, so that a client that mixes up replies is found out.
local function answer(...)
  local reply = {...}
  reply[#reply + 1] = ARGV[1]
  return reply
end

-- open returns the record under KEYS[1], or nil if there is none of ours. Its numbers are not under a checksum here,
-- so they are looked at: all digits, and fences so small that a next one can be written. A record whose checksum is
-- broken, 8 bytes or '', is one that the caller was not able to read.
local function open(broken)
  local raw = redis.pcall('GETRANGE', KEYS[1], 0, SIZE + MOST * 16 - 1) -- with the inboxes, in one command
  if type(raw) ~= 'string' or #raw < SIZE or string.sub(raw, 1, 3) ~= 'bw1' or string.sub(raw, 129, 136) == broken
    or not string.find(string.sub(raw, 5, 14), '^%d+$') or not string.find(string.sub(raw, 47, 110), '^[0-8]%d+$')
    or not string.find(string.sub(raw, 153, 195), '^[0-8]%d+$') then
    return nil
  end
  local news = tonumber(string.sub(raw, 195, 195))
  return {
    stub = string.sub(raw, 4, 4) == 'S',
    version = tonumber(string.sub(raw, 5, 14)),
    key = string.sub(raw, 15, 22),
    type = string.sub(raw, 23, 30),
    id = string.sub(raw, 31, 46),
    fence = tonumber(string.sub(raw, 47, 62)),
    fresh = tonumber(string.sub(raw, 79, 94)),
    stale = tonumber(string.sub(raw, 95, 110)),
    owner = string.sub(raw, 137, 152),
    lease_fence = tonumber(string.sub(raw, 153, 168)),
    lease_until = tonumber(string.sub(raw, 169, 184)),
    lease = tonumber(string.sub(raw, 185, 194)),
    all = news % 2 == 1,
    failures = math.floor(news / 2),
    rest = string.sub(raw, SIZE + 1),
  }
end

-- mine tells whether the lease in r belongs to this owner and, unless the fence is '', to this tenure.
local function mine(r, owner, fence)
  return r and r.owner == owner and (fence == '' or r.lease_fence == tonumber(fence))
end

-- ahead returns the time to the deadline in r, 0 if it has passed. A deadline further away than the lease, or the pause
-- after a failure, is long means that the clock was set back: it is over.
local function ahead(r, now)
  local rest = r.lease_until - now
  if rest > 0 and rest <= r.lease then return rest end
  return 0
end

-- left returns the time the lease in r still has, 0 if there is none in force. A lease written without scripts on a stub
-- has no deadline of its own: it lives as long as the stub.
local function left(r, now)
  if r.owner == NONE then return 0 end
  if r.lease_until == 0 then return math.max(redis.call('PTTL', KEYS[1]), 0) * 1000 end
  return ahead(r, now)
end

-- tenure writes the lease part of a record.
local function tenure(owner, fence, till, lease, all, failures)
  return owner .. string.format('%016d%016d%010d%d', fence, till, lease, (all and 1 or 0) + 2 * failures) .. '\n'
end

-- waiting returns the inboxes noted on the stub r.
local function waiting(r) return r.stub and r.rest or '' end

-- wake tells those who wait for r's holder: kind 'C' committed (with the time, us, 16 digits, and the record, if it is small) or
-- 'A' aborted.
-- Without permission for channels nobody is told; they poll.
local function wake(kind, r, list, inbox, everybody, news)
  local message = kind .. r.owner .. string.format('%08d', #KEYS[1]) .. KEYS[1] .. news
  if r.all then
    redis.pcall('PUBLISH', everybody, message)
    return
  end
  for i = 1, #list, 16 do
    redis.pcall('PUBLISH', inbox .. string.sub(list, i, i + 15), message)
  end
end
