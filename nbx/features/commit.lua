-- One commit, all or nothing: compare-and-set the customer's state, append to the log, put and drop keys, set timers.
--
-- KEYS  1 customer state   2 log stream   3 timers   4… keys of the puts, then those to drop
-- ARGV  1 expected version, 8 bytes, or '' for "no state yet"   2 new version and struct
--       3 count of entries   4 count of cancels   5 count of arms   6 count of keys to drop
--       then per entry: payload; per put: value, ttl ms, '1' when only_new else '0'; per cancel: member;
--       per arm: due ms, member
-- Returns 1: done; 0: stale; a string: the value of the first only_new key that exists. Only "done" changed anything.
--
-- Every check comes before the first write, as Redis does not roll a script back. What could still fail half way is a key
-- of another type, which nothing in nbx makes; the log is written first, so that a state never runs ahead of it.
-- (Each redis.call costs 2–3 µs and a table as the reply 1.5 µs: hence the plain replies. Counts arrive as text; Lua's
-- arithmetic and loops read them as numbers.)
local call, keys, argv = redis.call, KEYS, ARGV
local puts_at, last_put = 7 + argv[3], #keys - argv[6]

local at = puts_at
for k = 4, last_put do
  if argv[at + 2] == '1' then
    local existing = call('GET', keys[k])
    if existing then return existing end
  end
  at = at + 3
end
if call('GETRANGE', keys[1], '0', '7') ~= argv[1] then return 0 end

for i = 7, puts_at - 1 do call('XADD', keys[2], '*', 'e', argv[i]) end
call('SET', keys[1], argv[2])
at = puts_at
for k = 4, last_put do
  call('SET', keys[k], argv[at], 'PX', argv[at + 1])
  at = at + 3
end
for k = last_put + 1, #keys do call('DEL', keys[k]) end
for _ = 1, argv[4] do
  call('ZREM', keys[3], argv[at])
  at = at + 1
end
for _ = 1, argv[5] do
  call('ZADD', keys[3], argv[at], argv[at + 1])
  at = at + 2
end
return 1
