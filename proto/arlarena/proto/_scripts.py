"""The Lua scripts of `stream.py`: each is a transition of the queue that must happen wholly or not at all.

All take the six keys of one run, in the order of `Streams.keys`. A script that is sent twice, because the first
answer was lost, does no harm: every transition first looks at where the group or the lease stands.
"""

_PRELUDE = """
local tasks, groups, dead, done, issued, reasons = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- The fields of the task entry `id`, or nil where it is gone.
local function fields_of(id)
  local entry = redis.call('XRANGE', tasks, id, id)[1]
  if not entry then return nil end
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end

local function finish(id)
  redis.call('XACK', tasks, 'rollout', id)
  redis.call('XDEL', tasks, id)
end

-- Take a task off the books, keep a copy in `dead`, and tell the trainer by a tombstone in `groups`.
local function bury(id, reason, deliveries)
  local fields = fields_of(id) or {}
  local group_id = fields.id or ('unknown-' .. id)
  if redis.call('HSETNX', done, group_id, 'dead') == 1 then
    local letter = {'id', group_id, 'reason', reason, 'deliveries', deliveries}
    redis.call('XADD', groups, '*', unpack(letter))
    redis.call('XADD', dead, '*', 'data', fields.data or '', unpack(letter))
  end
  redis.call('HDEL', reasons, group_id)
  finish(id)
end

-- How often the entry was delivered, if `consumer` still holds its delivery number `expected`; otherwise nil.
local function held(id, consumer, expected)
  local row = redis.call('XPENDING', tasks, 'rollout', id, id, 1)[1]
  if row and row[2] == consumer and row[4] == tonumber(expected) then return row[4] end
  return nil
end
"""

# ARGV: group id, task bytes, and so on in pairs. Returns how many were put in. A group that was issued, but is
# neither done nor in the stream, was lost by the broker and is issued again.
ISSUE = (
    _PRELUDE
    + """
local added = 0
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', issued, ARGV[i])
  local settled = redis.call('HEXISTS', done, ARGV[i]) == 1
  if not settled and not (known and fields_of(known)) then
    local id = redis.call('XADD', tasks, '*', 'id', ARGV[i], 'data', ARGV[i + 1])
    redis.call('HSET', issued, ARGV[i], id)
    added = added + 1
  end
end
return added
"""
)

# ARGV: consumer, lease time in ms, most deliveries. Returns {stream id, group id, task bytes, deliveries} of the
# oldest lease that has expired, or nil. Expired leases that were the last ones allowed are buried on the way.
RECLAIM = (
    _PRELUDE
    + """
local consumer, ttl, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
while true do
  local rows = redis.call('XPENDING', tasks, 'rollout', 'IDLE', ttl, '-', '+', 16)
  if #rows == 0 then return nil end
  for _, row in ipairs(rows) do
    local id, deliveries = row[1], row[4]
    local fields = fields_of(id)
    if not fields then
      redis.call('XACK', tasks, 'rollout', id)
    elseif deliveries >= limit then
      local reason = redis.call('HGET', reasons, fields.id or '')
      bury(id, reason or ('the lease of ' .. row[2] .. ' expired without renewal'), deliveries)
    else
      redis.call('XCLAIM', tasks, 'rollout', consumer, 0, id)
      return {id, fields.id or '', fields.data or '', deliveries + 1}
    end
  end
end
"""
)

# ARGV: stream id, consumer, delivery number. JUSTID, because renewing is not a delivery.
RENEW = (
    _PRELUDE
    + """
if not held(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('XCLAIM', tasks, 'rollout', ARGV[2], 0, ARGV[1], 'JUSTID')
return 1
"""
)

# ARGV: stream id, group id, group bytes, receipt. The first to complete a group publishes it, even one whose lease
# was lost: the work is good. A task that is no longer on the books (the run was reset since) publishes nothing.
COMPLETE = (
    _PRELUDE
    + """
local id, group_id, data, receipt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local before = redis.call('HGET', done, group_id)
if before then
  finish(id)
  return before == receipt and 1 or 0
end
if redis.call('HGET', issued, group_id) ~= id then
  finish(id)
  return 0
end
redis.call('XADD', groups, '*', 'id', group_id, 'data', data)
redis.call('HSET', done, group_id, receipt)
redis.call('HDEL', reasons, group_id)
finish(id)
return 1
"""
)

# ARGV: stream id, consumer, delivery number, reason or '', idle time to pretend in ms, most deliveries, whether this
# delivery counts. The entry goes to a consumer that nobody is, aged so that it can be reclaimed after (lease time -
# idle time).
GIVE_BACK = (
    _PRELUDE
    + """
local id, reason, idle, counted = ARGV[1], ARGV[4], ARGV[5], ARGV[7] == '1'
local deliveries = held(id, ARGV[2], ARGV[3])
if not deliveries then return 0 end
if counted and deliveries >= tonumber(ARGV[6]) then
  bury(id, reason ~= '' and reason or 'given back without a reason', deliveries)
  return 1
end
local fields = fields_of(id)
if reason ~= '' and fields then redis.call('HSET', reasons, fields.id or '', reason) end
local count = counted and deliveries or deliveries - 1
redis.call('XCLAIM', tasks, 'rollout', '(given back)', 0, id, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
return 1
"""
)

# ARGV: stream id of a task, reason, deliveries. For a task that cannot be read: no worker would do better.
BURY = _PRELUDE + "bury(ARGV[1], ARGV[2], ARGV[3]) return 1"

# ARGV: group id, reason, group bytes. For a published group that cannot be read: keep a copy in `dead`, once.
CONDEMN = (
    _PRELUDE
    + """
if redis.call('HGET', done, ARGV[1]) == 'unreadable' then return 0 end
redis.call('XADD', dead, '*', 'id', ARGV[1], 'reason', ARGV[2], 'deliveries', 1, 'data', ARGV[3])
redis.call('HSET', done, ARGV[1], 'unreadable')
return 1
"""
)
