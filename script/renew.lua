-- RENEW: move the deadline of a lease that is still this owner's. Never makes one.
--
-- KEYS[1]  the entry
-- ARGV[1]  owner
-- ARGV[2]  fence of the lease
-- ARGV[3]  lease, us, from now
-- ARGV[4]  life of the record, ms
--
-- Replies, each with the owner at its end
--          {1, now}  renewed
--          {0, now}  not this owner's any more; nothing is changed

local now, r = clock(), open('')
if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end
redis.call('SETRANGE', KEYS[1], 168, string.format('%016d%010d', now + ARGV[3], ARGV[3]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return answer(1, now)
