-- COMMIT: store the value if the lease is still this owner's.
--
-- KEYS[1]  the entry
-- ARGV[1]  owner
-- ARGV[2]  fence of the lease
-- ARGV[3]  the record
-- ARGV[4]  its life, ms
-- ARGV[5]  channel prefix of inboxes
-- ARGV[6]  channel of everybody
-- ARGV[7]  largest record sent along with a wake-up, bytes
--
-- Replies, each with the owner at its end
--          {'STORED', now}
--          {'ALREADY', now}      an earlier copy of this command stored it
--          {'TAKEN', now}        another owner was here since; nothing is written
--          {'MISSING', now}      deleted, evicted or lost since; nothing is written
--          {'EXPIRED', now}      the record is past its end by the server's clock; the lease is dropped
--          {'FAILED', now}       the server refused the write; the lease is dropped

local owner, record = ARGV[1], ARGV[3]
local now, r = clock(), open('')
if not r then return answer('MISSING', now) end
if not mine(r, owner, ARGV[2]) then
  if not r.stub and r.id == owner then return answer('ALREADY', now) end
  return answer('TAKEN', now)
end

local list = waiting(r)
local life = math.min(tonumber(ARGV[4]), math.ceil((tonumber(string.sub(record, 95, 110)) - now) / 1000))
local outcome, news = 'STORED', string.format('%016d', now)
if life > 0 then
  local ok = redis.pcall('SET', KEYS[1], record, 'PX', string.format('%d', life))
  if type(ok) == 'table' and ok.err then outcome = 'FAILED' end
else
  outcome = 'EXPIRED'
end
if outcome ~= 'STORED' then
  redis.pcall('DEL', KEYS[1])
elseif #record <= tonumber(ARGV[7]) then
  news = news .. record
end
wake('C', r, list, ARGV[5], ARGV[6], news)
return answer(outcome, now)
