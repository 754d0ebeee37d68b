-- One commit, all or nothing: compare-and-set the customer's state, append to the log, put and drop keys, set timers,
-- spend.
--
-- KEYS  1 customer state   2 log stream   3 timers   4… keys of the puts, then those to drop, then counters of leases
-- ARGV  1 expected version, 8 bytes, or '' for "no state yet"   2 new version and struct
--       3 count of entries   4 count of cancels   5 count of arms   6 count of keys to drop   7 count of counters
--       then per entry: payload; per put: value, ttl ms, '1' when only_new else '0'; per cancel: member;
--       per arm: due ms, member; per counter: amount, ms until which its lease pays, ms at which the counter may go
-- Returns 1: done; 0: stale; 2: a lease is closed; a string: the value of the first only_new key that exists. Only "done" changed anything.
--
-- Every check comes before the first write, as Redis does not roll a script back. What could still fail half way is a key
-- of another type, which nothing in nbx makes; the log is written first, so that a state never runs ahead of it.
-- (Each redis.call costs 2–3 µs and a table as the reply 1.5 µs: hence the plain replies. Counts arrive as text; Lua's
-- arithmetic and loops read them as numbers.)
local call, keys, argv = redis.call, KEYS, ARGV
local puts_at, last_drop = 8 + argv[3], #keys - argv[7]
local last_put = last_drop - argv[6]

local at = puts_at
for k = 4, last_put do
  if argv[at + 2] == '1' then
    local existing = call('GET', keys[k])
    if existing then return existing end
  end
  at = at + 3
end
if call('GETRANGE', keys[1], '0', '7') ~= argv[1] then return 0 end
if last_drop < #keys then
  local time = call('TIME')
  local now = time[1] * 1000 + time[2] / 1000
  at = #argv - 3 * argv[7] + 1
  for k = last_drop + 1, #keys do
    local paid = call('GET', keys[k])
    if now >= tonumber(argv[at + 1]) or paid and string.sub(paid, 1, 1) == 'c' then return 2 end
    at = at + 3
  end
end

for i = 8, puts_at - 1 do call('XADD', keys[2], '*', 'e', argv[i]) end
call('SET', keys[1], argv[2])
at = puts_at
for k = 4, last_put do
  call('SET', keys[k], argv[at], 'PX', argv[at + 1])
  at = at + 3
end
for k = last_put + 1, last_drop do call('DEL', keys[k]) end
for _ = 1, argv[4] do
  call('ZREM', keys[3], argv[at])
  at = at + 1
end
for _ = 1, argv[5] do
  call('ZADD', keys[3], argv[at], argv[at + 1])
  at = at + 2
end
for k = last_drop + 1, #keys do
  call('INCRBY', keys[k], argv[at])
  call('PEXPIREAT', keys[k], argv[at + 2])
  at = at + 3
end
return 1
