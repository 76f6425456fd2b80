-- ABORT: give the lease back without a value.
--
-- KEYS[1]  the entry
-- ARGV[1]  owner
-- ARGV[2]  fence of the lease, or '' when no answer to ACQUIRE was received
-- ARGV[3]  channel prefix of inboxes
-- ARGV[4]  channel of everybody
--
-- Replies, each with the owner at its end
--          {1, now}  the lease was this owner's; a stub is gone, a value keeps what was left of its own life
--          {0, now}  it was not; nothing is changed

local now, r = clock(), open('')
if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end

local list = waiting(r)
local life = math.floor((r.stale - now) / 1000)
if r.stub or life <= 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SETRANGE', KEYS[1], 136, tenure(NONE, r.lease_fence, 0, 0, false)) -- the fence stays: it must go on rising
  redis.call('PEXPIRE', KEYS[1], string.format('%d', life))
end
wake('A', r, list, ARGV[3], ARGV[4], '')
return answer(1, now)
