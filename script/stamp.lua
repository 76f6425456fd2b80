-- STAMP: a time before a load, which is later than all that was invalidated so far.
--
-- KEYS[1]  the barriers of the cache
-- ARGV[1]  16 random bytes
-- ARGV[2]  how long what will be stored may live, ms
--
-- Replies, with ARGV[1] at its end
--          {'STAMP', now, time}

local now = clock()
local time = after(now)
live(ARGV[2])
return answer('STAMP', now, time)
