-- INVALIDATE: make all that carries a tag invalid, or all there is.
--
-- KEYS[1]  the barriers of the cache
-- ARGV[1]  16 random bytes
-- ARGV[2]  how long what is stored may live, ms
-- ARGV[3]... tags; none: everything
--
-- Replies, with ARGV[1] at its end
--          {'DONE', now, time}

local function clear(text)
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'base', text, 'last', text)
end

local now = clock()
local time, base = after(now)
local text = string.format('%d', time)
if #ARGV == 2 then clear(text) end
for i = 3, #ARGV do redis.call('HSET', KEYS[1], 't' .. ARGV[i], text) end

if redis.call('HLEN', KEYS[1]) > MANY + 2 then -- what carries none of the tags that are left is as old as their barriers
  local all, times, foreign = redis.call('HGETALL', KEYS[1]), {}, false
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 't' then
      times[#times + 1] = tonumber(all[i + 1]) or 0
    elseif all[i] ~= 'base' and all[i] ~= 'last' then
      foreign = true
    end
  end
  if foreign then
    clear(text)
  else
    table.sort(times)
    local cut = times[math.floor(#times / 2)]
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 1) == 't' and (tonumber(all[i + 1]) or 0) <= cut then redis.call('HDEL', KEYS[1], all[i]) end
    end
    redis.call('HSET', KEYS[1], 'base', string.format('%d', math.max(base, cut)))
  end
end
live(ARGV[2])
return answer('DONE', now, time)
