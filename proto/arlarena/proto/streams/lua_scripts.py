"""The Lua scripts of `queue.py`. The broker executes each script atomically.

All scripts take the six keys of one training run, in the order of `Streams.keys`. A trainer with a fencing token also
passes the key of the last trainer, and the token as the last argument. The script then fails if another trainer has
taken the lease of the run.

If the reply of a script is lost, the client executes the script again. Each script therefore first checks the state of
the group or the lease, and the second execution has no effect. RECLAIM is an exception: its second execution leases
another task. The first task is delivered again after its lease expires, and the lost delivery counts.

A group is outstanding from ISSUE until ACKNOWLEDGE or WITHDRAW. In three hashes, the fields are ids of outstanding
groups, and these are the values:
- `issued`: the id of the task's entry in `tasks`;
- `done`: the id of the group's entry in `groups`, and a receipt (worker name and random id) of the completion;
- `reasons`: the reason of the group's last failure. This hash also has fields `copied ENTRY`. ENTRY is the id of an
  unacknowledged entry in `groups` that COPY_GROUP has copied.

A broker whose memory is full refuses commands that may need memory (flag `denyoom`). It accepts these commands only in
a script that has already written. The first write of ISSUE, COMPLETE and COPY_GROUP is XADD, which needs memory.
A full broker therefore refuses these scripts. It accepts all other scripts, because they write nothing or begin with a
write that needs no memory.
"""

# The broker stores this number of dead letters for debugging. The same failure occurs many times, so a few dead letters
# are enough: 300 groups of 50 KB are 15 MB.
DEAD_LETTERS_KEPT = 300
# Older dead letters are removed. Usually their run has ended, or the cause of the failure is mended.
DEAD_LETTER_AGE_S = 7 * 24 * 3600

# If another trainer has taken the lease, a script's error is this word, then the token of that trainer.
FENCED = "FENCED "

_PRELUDE = (
    f"local dead_kept, dead_age_s, fenced = {DEAD_LETTERS_KEPT}, {DEAD_LETTER_AGE_S}, '{FENCED}'"
    + """
if KEYS[7] then
  local last, mine = redis.call('GET', KEYS[7]), table.remove(ARGV)
  if last and last ~= mine then return redis.error_reply(fenced .. last) end
end
local tasks, groups, dead, done, issued, reasons = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- Returns the fields of the entry `id` of `stream` (default: `tasks`), or nil if the entry does not exist.
local function fields_of(id, stream)
  local entry = redis.call('XRANGE', stream or tasks, id, id)[1]
  if not entry then return nil end
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end

local function remove_task(id)
  redis.call('XACK', tasks, 'rollout', id)
  redis.call('XDEL', tasks, id)
end

local function free_group_id(group_id)
  redis.call('HDEL', done, group_id)
  redis.call('HDEL', issued, group_id)
  redis.call('HDEL', reasons, group_id)
end

local function drop_old_dead_letters()
  -- Without this format, Lua writes a round number as 1.8e+12.
  redis.call('XTRIM', dead, 'MINID', '=', string.format('%.0f', (redis.call('TIME')[1] - dead_age_s) * 1000))
end

local function store_dead_letter(...)
  redis.call('XADD', dead, 'MAXLEN', '=', dead_kept, '*', ...)
  drop_old_dead_letters()
end

-- Remove a task, copy it to `dead`, and add a notice to `groups` for the trainer. If the task was already completed or
-- withdrawn, make no copy and no notice. The removal comes first, so that the script works on a full broker.
local function make_dead_letter(id, reason, deliveries)
  local fields = fields_of(id)
  remove_task(id)
  if not fields then return end
  local group_id = fields.id or ('unknown-' .. id)
  if redis.call('HEXISTS', done, group_id) == 0 then
    local letter = {'id', group_id, 'reason', reason, 'deliveries', deliveries}
    local entry = redis.call('XADD', groups, '*', unpack(letter))
    redis.call('HSET', done, group_id, entry .. ' dead')
    store_dead_letter('data', fields.data or '', unpack(letter))
  end
  redis.call('HDEL', reasons, group_id)
end

-- Returns the number of deliveries of the task `id`. Returns nil if `consumer` no longer has the task, or if the number
-- is not `expected`.
local function held(id, consumer, expected)
  local row = redis.call('XPENDING', tasks, 'rollout', id, id, 1)[1]
  if row and row[2] == consumer and row[4] == tonumber(expected) then return row[4] end
  return nil
end
"""
)

# ARGV: pairs of group id and task bytes. Returns the number of added tasks. Adds a task if its group id has neither a
# task in `tasks` nor a published group. This is so for a new task, and for a task that the broker has lost.
ISSUE = (
    _PRELUDE
    + """
local added = 0
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', issued, ARGV[i])
  local is_done = redis.call('HEXISTS', done, ARGV[i]) == 1
  if not is_done and not (known and fields_of(known)) then
    local id = redis.call('XADD', tasks, '*', 'id', ARGV[i], 'data', ARGV[i + 1])
    redis.call('HSET', issued, ARGV[i], id)
    added = added + 1
  end
end
return added
"""
)

# ARGV: consumer, lease time in ms, maximum number of deliveries. Leases the oldest task with an expired lease. Returns
# {stream id, group id, task bytes, deliveries}, or nil if no lease has expired. If an expired task already has the
# maximum number of deliveries, it becomes a dead letter.
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
      make_dead_letter(id, reason or ('the lease of ' .. row[2] .. ' expired without renewal'), deliveries)
    else
      redis.call('XCLAIM', tasks, 'rollout', consumer, 0, id)
      return {id, fields.id or '', fields.data or '', deliveries + 1}
    end
  end
end
"""
)

# ARGV: stream id, consumer, delivery number. Returns 0 if the consumer no longer has the lease. Because of JUSTID, a
# renewal does not count as a delivery.
RENEW = (
    _PRELUDE
    + """
if not held(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('XCLAIM', tasks, 'rollout', ARGV[2], 0, ARGV[1], 'JUSTID')
return 1
"""
)

# ARGV: stream id, group id, group bytes, receipt. Publishes the first completion of a group, even if the worker's lease
# has expired. Returns 1 if the group was published with this receipt, now or by an earlier execution of the script.
# Returns 0 and publishes nothing if another call has published the group. Also returns 0 and publishes nothing if the
# group was acknowledged, withdrawn or reset after the worker leased the task.
# A later task with the same group id has another stream id, so the script does not change that task.
COMPLETE = (
    _PRELUDE
    + """
local id, group_id, data, receipt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', issued, group_id) ~= id then
  remove_task(id)
  return 0
end
local before = redis.call('HGET', done, group_id)
if before then
  remove_task(id)
  return before:match(' (.*)') == receipt and 1 or 0
end
local entry = redis.call('XADD', groups, '*', 'id', group_id, 'data', data)
redis.call('HSET', done, group_id, entry .. ' ' .. receipt)
redis.call('HDEL', reasons, group_id)
remove_task(id)
return 1
"""
)

# ARGV: stream id, consumer, delivery number, reason or '', idle time in ms, maximum number of deliveries, '1' if this
# delivery counts. Assigns the task to a placeholder consumer and sets the task's idle time. Another worker can lease
# the task when the idle time reaches the lease time. Returns 0 if the consumer no longer has the lease.
GIVE_BACK = (
    _PRELUDE
    + """
local id, reason, idle, counted = ARGV[1], ARGV[4], ARGV[5], ARGV[7] == '1'
local deliveries = held(id, ARGV[2], ARGV[3])
if not deliveries then return 0 end
if counted and deliveries >= tonumber(ARGV[6]) then
  make_dead_letter(id, reason ~= '' and reason or 'given back without a reason', deliveries)
  return 1
end
local count = counted and deliveries or deliveries - 1
redis.call('XCLAIM', tasks, 'rollout', '(given back)', 0, id, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
local fields = fields_of(id)
if reason ~= '' and fields then redis.call('HSET', reasons, fields.id or '', reason) end
return 1
"""
)

# ARGV: stream id of a task, reason, deliveries. Makes a dead letter of a task that cannot be decoded.
DEAD_LETTER = _PRELUDE + "make_dead_letter(ARGV[1], ARGV[2], ARGV[3]) return 1"

# ARGV: stream id of an entry of `groups`, group id, reason. Copies an unusable group to `dead`. A second execution
# makes no second copy. If the entry is the notice of a dead letter, nothing is copied, because `dead` already has the
# task.
COPY_GROUP = (
    _PRELUDE
    + """
local entry, group_id, reason = ARGV[1], ARGV[2], ARGV[3]
local fields, mark = fields_of(entry, groups), 'copied ' .. entry
if not (fields and fields.data) or redis.call('HEXISTS', reasons, mark) == 1 then return 0 end
store_dead_letter('data', fields.data, 'id', group_id, 'reason', reason, 'deliveries', 1)
redis.call('HSET', reasons, mark, reason)
return 1
"""
)

# ARGV: for each group, the stream id of its entry in `groups`, and its group id. Removes the entries. A group id can be
# issued again, so the fields of the three hashes may belong to a later entry. Such fields are not removed.
ACKNOWLEDGE = (
    _PRELUDE
    + """
drop_old_dead_letters()
for i = 1, #ARGV, 2 do
  local entry, group_id = ARGV[i], ARGV[i + 1]
  redis.call('XACK', groups, 'trainer', entry)
  redis.call('XDEL', groups, entry)
  redis.call('HDEL', reasons, 'copied ' .. entry)
  local published = redis.call('HGET', done, group_id)
  if published and published:match('[^ ]+') == entry then free_group_id(group_id) end
end
return 1
"""
)

# ARGV: group ids. Returns the number of these groups that were outstanding.
WITHDRAW = (
    _PRELUDE
    + """
local known = 0
for _, group_id in ipairs(ARGV) do
  local task = redis.call('HGET', issued, group_id)
  if task then
    remove_task(task)
    known = known + 1
  end
  free_group_id(group_id)
end
return known
"""
)

# Returns {tasks, leased tasks, groups, collected groups, dead letters}: the number of each. This is a script, because a
# full Redis would refuse a MULTI transaction.
DEPTH = (
    _PRELUDE
    + """
local leased, collected = redis.call('XPENDING', tasks, 'rollout'), redis.call('XPENDING', groups, 'trainer')
return {redis.call('XLEN', tasks), leased[1], redis.call('XLEN', groups), collected[1], redis.call('XLEN', dead)}
"""
)

# Removes all data of the run except the keys of the trainer's lease.
RESET = _PRELUDE + "return redis.call('UNLINK', tasks, groups, dead, done, issued, reasons)"
