-- PERMITS: of the loads of a cache, as many at a time as there are permits. One script gives back, renews and takes: where
-- a count, a queue and an owner are changed one after the other, two clients get the same place (the "fair semaphore" of
-- Redis in Action, section 6.3.2).
--
-- KEYS[1]  permits that are taken, by the time at which they end
-- KEYS[2]  permits that are waited for, by their order
-- KEYS[3]  processes that have or want some, by the time at which they are taken for dead
-- ARGV[1]  16 random bytes
-- ARGV[2]  who asks: 16 bytes of the process, which name its inbox, and 16 more
-- ARGV[3]  how many permits there are
-- ARGV[4]  how long one lives if it is not renewed, us
-- ARGV[5]  channel prefix of inboxes
-- ARGV[6]  what the permits are for, as the messages have it
-- ARGV[7]  numbers of the permits that are given back, 16 digits each
-- ARGV[8]  ... that are held
-- ARGV[9]  ... that are wanted
-- ARGV[10] callers that wait for the best load that is to begin: more of them go first; '' for first come, first served
--
-- Replies, with ARGV[1] at its end
--          {'PERMITS', now, processes, waiting, ends, mine}  waiting: permits that others wait for; ends: when the next one
--                      ends that is not renewed, us from now; mine: numbers of those of ARGV[8] and ARGV[9] that are held

local NUMBER = 16
local COMES = 2 ^ 41 -- times in the order, of 16 us each: 400 days
local now, who, most, life = clock(), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local till = string.format('%d', now + life)

-- What somebody else has under these names is not ours to use.
for i = 1, 3 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[i]) end
end

local function each(numbers, f)
  for i = 1, #numbers, NUMBER do f(who .. string.sub(numbers, i, i + NUMBER - 1)) end
end

-- A time further away than the longest lease means that the clock was set back.
for i = 1, 3, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', string.format('%d', now))
  redis.call('ZREMRANGEBYSCORE', KEYS[i], string.format('(%d', now + 3600000000), '+inf')
end

each(ARGV[7], function(permit)
  redis.call('ZREM', KEYS[1], permit)
  redis.call('ZREM', KEYS[2], permit)
end)
each(ARGV[8], function(permit) -- one that was lost is had again if there is one
  if redis.call('ZSCORE', KEYS[1], permit) or redis.call('ZCARD', KEYS[1]) < most then
    redis.call('ZADD', KEYS[1], till, permit)
  end
end)
if ARGV[8] .. ARGV[9] == '' then
  redis.call('ZREM', KEYS[3], who)
else
  redis.call('ZADD', KEYS[3], till, who)
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
last = last and tonumber(last) or 0
each(ARGV[9], function(permit)
  local score = redis.call('ZSCORE', KEYS[2], permit)
  if redis.call('ZSCORE', KEYS[1], permit) then -- it was handed over
    redis.call('ZADD', KEYS[1], till, permit)
  elseif ARGV[10] ~= '' then
    local came = score and tonumber(score) % COMES or math.floor(now / 16) % COMES
    redis.call('ZADD', KEYS[2], string.format('%d', came - math.min(tonumber(ARGV[10]), 2047) * COMES), permit)
  elseif not score then
    last = last + 1
    redis.call('ZADD', KEYS[2], string.format('%d', last), permit)
  end
end)

local free = most - redis.call('ZCARD', KEYS[1])
while free > 0 do
  local permit = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not permit then break end
  redis.call('ZREM', KEYS[2], permit)
  local owner = string.sub(permit, 1, 32)
  if redis.call('ZSCORE', KEYS[3], owner) then
    redis.call('ZADD', KEYS[1], till, permit)
    free = free - 1
    if owner ~= who then
      redis.pcall('PUBLISH', ARGV[5] .. string.sub(permit, 1, 16),
        'P' .. string.sub(permit, 33) .. string.format('%08d', #ARGV[6]) .. ARGV[6])
    end
  end
end

local mine, waits = '', redis.call('ZCARD', KEYS[2])
each(ARGV[8] .. ARGV[9], function(permit)
  if redis.call('ZSCORE', KEYS[1], permit) then mine = mine .. string.sub(permit, 33)
  elseif redis.call('ZSCORE', KEYS[2], permit) then waits = waits - 1 end
end)
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
for i = 1, 3 do
  if redis.call('PTTL', KEYS[i]) < life / 500 then redis.call('PEXPIRE', KEYS[i], string.format('%d', life / 250)) end
end
return answer('PERMITS', now, redis.call('ZCARD', KEYS[3]), waits, first and tonumber(first) - now or life, mine)
