-- VOTE: the vote of one node for the lock on a key.
--
-- KEYS[1]  the lock
-- KEYS[2]  since when this node knows that it remembers, us
-- ARGV[1]  token, 16 random bytes of this attempt
-- ARGV[2]  lease, ms
--
-- Replies, each with the token at its end
--          {'YES', now}    the lock is this token's, for a lease from now: it was free, or this token's already
--          {'NO', now}     it is another's
--          {'YOUNG', now}  the node was started or emptied less than a lease ago, and may have forgotten whose it is

local DAY = 86400000
local now, lease = clock(), tonumber(ARGV[2])
local info = redis.pcall('INFO', 'server') -- which may be forbidden
local up = type(info) == 'string' and string.match(info, 'uptime_in_seconds:(%d+)')
local born = tonumber(redis.call('GET', KEYS[2]) or '')
if not born or born > now then born = now end -- emptied; or the clock was set back
redis.call('SET', KEYS[2], string.format('%d', born), 'PX', DAY)
if now - born < lease * 1000 or up and (up - 1) * 1000 < lease then -- whole seconds, perhaps one too many
  return answer('YOUNG', now)
end

local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 16) ~= ARGV[1] then
  -- A lock that ends later than it can was there when the clock was set back: it is over.
  if redis.call('PTTL', KEYS[1]) <= tonumber(string.sub(held, 17)) then return answer('NO', now) end
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[2])
return answer('YES', now)
