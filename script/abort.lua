-- ABORT: give the lease back without a value.
--
-- KEYS[1]  the entry
-- ARGV[1]  owner
-- ARGV[2]  fence of the lease, or '' when no answer to ACQUIRE was received
-- ARGV[3]  channel prefix of inboxes
-- ARGV[4]  channel of everybody
-- ARGV[5]  the pause after a failed load, us: a value gets a failed mark, for twice as long after each failure; '0' if
--          nothing failed; '-1' if a value is not to stay either
--
-- Replies, each with the owner at its end
--          {1, now}  the lease was this owner's; a stub is gone, a value keeps what was left of its own life
--          {0, now}  it was not; nothing is changed

local now, r = clock(), open('')
if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end

local list = waiting(r)
local life = math.floor((r.stale - now) / 1000)
local pause = tonumber(ARGV[5])
if r.stub or life <= 0 or pause < 0 then
  redis.call('DEL', KEYS[1])
else
  local till, failures = 0, r.failures
  if pause > 0 then
    pause = pause * 2 ^ failures
    till, failures = now + pause, math.min(failures + 1, FAILURES)
  end
  redis.call('SETRANGE', KEYS[1], 136, tenure(NONE, r.lease_fence, till, pause, false, failures)) -- fences go on rising
  redis.call('PEXPIRE', KEYS[1], string.format('%d', life))
end
wake('A', r, list, ARGV[3], ARGV[4], '')
return answer(1, now)
