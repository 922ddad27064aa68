"""Lua scripts that run in the server; each is one atomic step.

`KEYS[1]` is the key of `meta`; tables follow. An answer is a list whose first element is the outcome:
`ok`, `conflict`, `changed`, `lost` (the store is empty, holds an older state, or is another store) or
`taken` (a later owner took it). EVAL sends each script in full, because a restarted server loses its
script cache.
"""

_NOW = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
"""

# A caller sends the id, its epoch and claim, and the highest revision that it saw; a reader without
# ownership sends no id. The claim distinguishes two owners with the same epoch, which exist if the
# store lost the first of them.
_FENCE = """
local found = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'claim', 'revision', 'owner', 'last_commit')
local id, epoch, revision = found[1] or '', tonumber(found[2] or 0), tonumber(found[4] or 0)
if ARGV[1] ~= '' then
  local mine, seen = tonumber(ARGV[2]), tonumber(ARGV[4])
  if id ~= ARGV[1] then return {'lost', id, revision} end
  if epoch > mine or (epoch == mine and found[3] ~= ARGV[3]) then return {'taken', found[5] or ''} end
  if epoch < mine or revision < seen then return {'lost', id, revision} end
end
"""

LOOK = (
    _NOW
    + """
local found = redis.call(
  'HMGET', KEYS[1], 'id', 'epoch', 'revision', 'format', 'owner', 'renewed')
local records = 0
for i = 2, #KEYS do records = records + redis.call('HLEN', KEYS[i]) end
return {
  found[1] or '', found[2] or '0', found[3] or '0', found[4] or '', found[5] or '',
  found[6] or '', now, records}
"""
)
"""Return the state of the store, and the time of the server."""

TAKE = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'renewed')
if (found[1] or '') ~= ARGV[1] or (found[2] or '0') ~= ARGV[2] or (found[3] or '') ~= ARGV[3] then
  return {'changed'}
end
redis.call('HSET', KEYS[1], 'id', ARGV[4], 'epoch', ARGV[5], 'claim', ARGV[6], 'owner', ARGV[7],
  'renewed', now, 'format', ARGV[8])
redis.call('HSETNX', KEYS[1], 'secret', ARGV[9])
redis.call('HSETNX', KEYS[1], 'revision', '0')
return {'ok', tonumber(redis.call('HGET', KEYS[1], 'revision'))}
"""
)
"""Become the owner, unless another management took or renewed the store since `LOOK`."""

RENEW = (
    _NOW
    + _FENCE
    + """
redis.call('HSET', KEYS[1], 'renewed', now)
return {'ok', revision}
"""
)
"""Renew the lease of the owner."""

RELEASE = (
    _FENCE
    + """
redis.call('HDEL', KEYS[1], 'owner', 'renewed')
return {'ok', revision}
"""
)
"""Let the next management become the owner at once."""

READ = (
    _FENCE
    + """
local answer = {'ok', revision}
for i = 2, #KEYS do answer[i + 1] = redis.call('HGETALL', KEYS[i]) end
return answer
"""
)
"""Read every table at one instant."""

# Checks every expected revision before it changes anything. A commit that was made but whose answer
# got lost is sent again under the same id and answered as before.
COMMIT = (
    _FENCE
    + """
if found[6] == ARGV[5] then return {'ok', revision} end
local count = #KEYS - 1
for i = 0, count - 1 do
  local key, field, expected = KEYS[2 + i], ARGV[6 + i * 3], ARGV[7 + i * 3]
  local stored = redis.call('HGET', key, field)
  local present = '0'
  if stored then present = string.sub(stored, 1, string.find(stored, '\\n', 1, true) - 1) end
  if present ~= expected then return {'conflict', field} end
end
revision = redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('HSET', KEYS[1], 'last_commit', ARGV[5])
for i = 0, count - 1 do
  local key, field, value = KEYS[2 + i], ARGV[6 + i * 3], ARGV[8 + i * 3]
  if value == '' then redis.call('HDEL', key, field)
  else redis.call('HSET', key, field, revision .. '\\n' .. value) end
end
return {'ok', revision}
"""
)
"""Apply all changes of a commit, or none."""

RESTORE = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'claim', 'owner', 'revision')
local id, epoch, mine = found[1] or '', tonumber(found[2] or 0), tonumber(ARGV[2])
if id ~= '' and id ~= ARGV[1] then return {'lost', id, tonumber(found[5] or 0)} end
if epoch > mine or (epoch == mine and found[3] ~= ARGV[3]) then return {'taken', found[4] or ''} end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'epoch', ARGV[2], 'claim', ARGV[3], 'revision', ARGV[4],
  'owner', ARGV[5], 'format', ARGV[6], 'secret', ARGV[7], 'renewed', now)
for i = 8, #ARGV, 3 do redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
return {'ok', tonumber(ARGV[4])}
"""
)
"""Replace empty or older contents by the records of the owner."""
