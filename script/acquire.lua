-- ACQUIRE: the value, or the right to compute it.
--
-- KEYS[1]  the entry
-- ARGV[1]  owner, 16 bytes of this attempt, most of them random
-- ARGV[2]  lease, us
-- ARGV[3]  life of the record, ms: much longer than the lease, so that a late holder whom nobody displaced
--          may still commit and eviction by shortest TTL does not pick live leases first
-- ARGV[4]  id of an entry that the caller has and wants to replace, or ''
-- ARGV[5]  the entry part of a stub (136 bytes): carries the caller's version and digests
-- ARGV[6]  the caller's inbox, 16 bytes, or ''
-- ARGV[7]  largest record the caller takes, bytes
-- ARGV[8]  '1': take the lease whoever holds it, and drop the value (Set)
-- ARGV[9]  checksum of a record that the caller was not able to read, 8 bytes, or '': it is replaced, whatever it says
-- ARGV[10] '1': the caller has a value to serve, and does not want the lease while a failed mark is in force
-- ARGV[11] how long a lease may be held, us, until the caller takes it over, twice as long each time; 0: as long as it is renewed
--
-- Replies, each with the owner at its end
--          {'HIT', now, record}
--          {'WON', now, fence, id}     also if this owner's lease is there already: a lost reply costs nothing; id of the
--                                      entry that stays there meanwhile, or ''
--          {'BUSY', now, owner, left, fence, noted}  left in us; noted 1: the owner has been asked to wake the caller
--          {'LATER', now, left}        a failed mark is in force for that long, us
--          {'OTHER', now}              an entry of a newer version, or of another type: leave it alone

local owner, seen, stub, inbox, force = ARGV[1], ARGV[4], ARGV[5], ARGV[6], ARGV[8] == '1'
local now, r = clock(), open(ARGV[9])
local fence, list, held = 0, '', 0

if r and r.key == string.sub(stub, 15, 22) then
  fence, held = math.max(r.fence, r.lease_fence), left(r, now)
  local version = tonumber(string.sub(stub, 5, 14))
  if r.version > version or (r.version == version and r.type ~= string.sub(stub, 23, 30)) then
    if held > 0 or (not r.stub and now < r.stale) then return answer('OTHER', now) end
    r = nil
  elseif r.version < version then
    r = nil
  end
else
  r = nil
end

if r then
  if r.owner == owner then return answer('WON', now, r.lease_fence, r.stub and '' or r.id) end
  if force and not r.stub and r.id == owner then return answer('WON', now, r.fence, '') end -- a late copy: COMMIT has been here
  if not force then
    if not r.stub and now < r.fresh and r.id ~= seen and redis.call('STRLEN', KEYS[1]) <= tonumber(ARGV[7]) then
      return answer('HIT', now, redis.call('GET', KEYS[1]))
    end
    local patience = tonumber(ARGV[11])
    local stuck = patience > 0 and r.lease_until > 0 and now - r.lease_fence >= patience * 2 ^ r.failures
    if stuck and held > 0 then
      r.failures = math.min(r.failures + 1, FAILURES)
    elseif held > 0 then
      local noted = inbox ~= ''
      if noted and not r.all then
        list = waiting(r)
        local known = false
        for i = 1, #list, 16 do known = known or string.sub(list, i, i + 15) == inbox end
        if not known then -- without memory left it is refused, and the caller polls
          local ok
          if r.stub and #list < MOST * 16 then
            ok = redis.pcall('APPEND', KEYS[1], inbox)
          else
            ok = redis.pcall('SETRANGE', KEYS[1], 194, string.format('%d', 1 + 2 * r.failures))
          end
          noted = type(ok) == 'number'
        end
      end
      return answer('BUSY', now, r.owner, held, r.lease_fence, noted and 1 or 0)
    end
    if ARGV[10] == '1' and r.owner == NONE and not r.stub and now < r.stale and ahead(r, now) > 0 then
      return answer('LATER', now, ahead(r, now))
    end
  end
  list = waiting(r)
end

fence = math.max(now, fence + 1)
local stays = r and not r.stub and not force and now < r.stale
local lease = tenure(owner, fence, now + ARGV[2], tonumber(ARGV[2]), r and r.all, r and not force and r.failures or 0)
if stays then
  redis.call('SETRANGE', KEYS[1], 136, lease)
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
else
  redis.call('SET', KEYS[1], stub .. lease .. list, 'PX', ARGV[3])
end
return answer('WON', now, fence, stays and r.id or '')
