-- The barriers of a cache. This file is put between record.lua and the verbs that use it.
--
-- KEYS[1] is a hash: field 'base' is the barrier of everything, 't' .. tag that of a tag, and 'last' the latest time that
-- was given out. A barrier is a time before which what carries it is invalid. It is one hash, and not a key for each
-- tag, so that it gets lost as a whole: a tag that is not in it was never deleted, and without it nothing is valid.
-- Times are microseconds of this server's clock, and rise even if that does not.

local MANY = 10000 -- tags; with more, the older half is forgotten
local AHEAD = 60000000 -- of the clock, us, is where times begin: when the hash gets lost, it may have stepped back by
                       -- so much, or by the age of the hash if that is less

-- after returns the next time. What there was before it, if the hash was lost or is none of ours, is invalid.
local function after(now)
  local v = redis.pcall('HMGET', KEYS[1], 'base', 'last')
  if v.err or not v[1] or not v[2] or not string.find(v[1], '^%d+$') or not string.find(v[2], '^%d+$')
    or tonumber(v[1]) > tonumber(v[2]) or tonumber(v[2]) > 6e15 then
    redis.call('DEL', KEYS[1])
    v = {now + AHEAD, now + AHEAD}
    redis.call('HSET', KEYS[1], 'base', string.format('%d', v[1]))
  end
  local time = math.max(now, tonumber(v[2]) + 1)
  redis.call('HSET', KEYS[1], 'last', string.format('%d', time))
  return time, tonumber(v[1])
end

-- live lengthens the life of the hash: it has to be there as long as what it judges.
local function live(life)
  if redis.call('PTTL', KEYS[1]) < tonumber(life) then redis.call('PEXPIRE', KEYS[1], string.format('%d', 2 * life)) end
end
