-- RELEASE: take back the vote of one node.
--
-- KEYS[1]  the lock
-- ARGV[1]  token
--
-- Replies, each with the token at its end
--          {1, now}  it was this token's, and is free
--          {0, now}  it was not; nothing is changed

local now, held = clock(), redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 16) ~= ARGV[1] then return answer(0, now) end
redis.call('DEL', KEYS[1])
return answer(1, now)
