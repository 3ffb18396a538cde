-- The load of one measurement, for wrk with one thread.
--
--   wrk -t1 -s load.lua URL -- kind=reserve event=ID token=TEXT [events=N] [pause=MS] [ids=FILE]
--       [size=N] [atomic=true]
--
-- Answers are counted by status, and printed as one line of JSON at the end.
-- Requests are written out before the load begins, as far as they can be: what
-- the generator computes is taken from the service, which shares its cores.

local PARTNERS = 64
local HOLD_SECONDS = 3600
-- Stands for an id or a key in a request until there is one.
local MARK = "00000000-0000-0000-0000-000000000000"

local ids, first, last = {}, 1, 0
local next_request

local function push(id)
  last = last + 1
  ids[last] = id
end

local function pop()
  if first > last then return nil end
  local id = ids[first]
  ids[first] = nil
  first = first + 1
  return id
end

local function partner(number)
  return string.format("partner-%02d", number % PARTNERS)
end

local function body(number, more)
  return string.format('{"partnerId":"%s","seats":1%s}', partner(number), more or "")
end

local function post(path, content, headers)
  headers = headers or {}
  headers["Content-Type"] = "application/json"
  return wrk.format("POST", path, headers, content)
end

-- Return a function that gives one request after the other, round and round.
local function ring(make)
  local requests, place = {}, 0
  for number = 1, PARTNERS do requests[number] = make(number) end
  return function()
    place = place % #requests + 1
    return requests[place]
  end
end

-- Return a function that puts an id where the mark stands in a request.
local function around(text)
  local from, to = text:find(MARK, 1, true)
  local head, tail = text:sub(1, from - 1), text:sub(to + 1)
  return function(id) return head .. id .. tail end
end

local kinds = {}

function kinds.noop()
  return ring(function(number) return post("/noop", body(number)) end)
end

function kinds.reserve(given)
  local path = "/api/v1/events/" .. given.event .. "/reservations"
  return ring(function(number) return post(path, body(number)) end)
end

-- The same over events ID-1 to ID-N.
function kinds.spread(given)
  local requests, place = {}, 0
  for number = 1, given.events do
    local path = "/api/v1/events/" .. given.event .. "-" .. number .. "/reservations"
    requests[number] = post(path, body(number))
  end
  return function()
    place = place % #requests + 1
    return requests[place]
  end
end

-- Batches of reservations, of one event or of events ID-1 to ID-N by turns.
function kinds.batch(given)
  local place = 0
  local function operation(number)
    local event = given.event
    if given.events then
      place = place % given.events + 1
      event = event .. "-" .. place
    end
    return string.format('{"op":"reserve","eventId":"%s",%s', event, body(number):sub(2))
  end
  return ring(function(number)
    local operations = {}
    for item = 1, given.size do operations[item] = operation(number + item) end
    return post("/api/v1/batch", string.format('{"atomic":%s,"operations":[%s]}',
      given.atomic or "false", table.concat(operations, ",")))
  end)
end

function kinds.idempotent(given)
  local path = "/api/v1/events/" .. given.event .. "/reservations"
  local count = 0
  local formats = {}
  for number = 1, PARTNERS do
    formats[number] = around(post(path, body(number), { ["Idempotency-Key"] = MARK }))
  end
  return function()
    count = count + 1
    return formats[count % PARTNERS + 1](given.token .. "-" .. count)
  end
end

function kinds.summary(given)
  local text = wrk.format("GET", "/api/v1/events/" .. given.event, {})
  return function() return text end
end

-- Cancel the reservations whose ids are in a file, a line each.
function kinds.cancel(given)
  local cancel = around(wrk.format("DELETE", "/api/v1/reservations/" .. MARK, {}))
  for id in io.lines(given.ids) do push(id) end
  return function() return cancel(pop() or MARK) end
end

-- Every fifth request cancels the oldest reservation that was made here.
function kinds.mixed(given)
  local reserve = kinds.reserve(given)
  local cancel = around(wrk.format("DELETE", "/api/v1/reservations/" .. MARK, {}))
  local count = 0
  return function()
    count = count + 1
    local id = count % 5 == 0 and pop()
    return id and cancel(id) or reserve()
  end
end

-- Hold, then confirm what is held.
function kinds.hold(given)
  local path = "/api/v1/events/" .. given.event .. "/reservations"
  local hold = ring(function(number)
    return post(path, body(number, ',"holdSeconds":' .. HOLD_SECONDS))
  end)
  local confirm = around(wrk.format("POST", "/api/v1/reservations/" .. MARK .. "/confirm", {}))
  return function()
    local id = pop()
    return id and confirm(id) or hold()
  end
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local given = {}
  for _, argument in pairs(args) do
    local name, value = argument:match("^(%w+)=(.*)$")
    if name then given[name] = value end
  end
  statuses = {}
  collects = given.kind == "mixed" or given.kind == "hold"
  counts_items = given.kind == "batch"
  next_request = kinds[given.kind](given)
  if given.pause then
    local pause = tonumber(given.pause)
    function delay() return pause end
  end
end

function request()
  return next_request()
end

local function count(status, by)
  statuses[status] = (statuses[status] or 0) + by
end

function response(status, headers, content)
  if counts_items and status == 200 then
    local _, made = content:gsub('"status":201', "")
    local _, all = content:gsub('"status":', "")
    count(201, made)
    if all > made then count(0, all - made) end
    return
  end
  count(status, 1)
  if collects and status == 201 then push(headers["Location"]:sub(-#MARK)) end
end

function done(summary, latency)
  local statuses = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      table.insert(statuses, string.format('"%d":%d', status, count))
    end
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"microseconds":%d,"p50":%d,"p99":%d,"broken":%d,"statuses":{%s}}\n',
    summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout,
    table.concat(statuses, ",")))
end
