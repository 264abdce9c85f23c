-- A script of wrk (github.com/wg/wrk): posts one file as a form, and prints what was seen as JSON.
-- Arguments: the file, and the name of its field.

local boundary = "medfocus-load"

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  local body = table.concat({
    "--", boundary, "\r\n",
    'Content-Disposition: form-data; name="', arguments[2], '"; filename="image"\r\n',
    "Content-Type: application/octet-stream\r\n\r\n",
    file:read("*a"), "\r\n--", boundary, "--\r\n",
  })
  file:close()
  wrk.method = "POST"
  wrk.body = body
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=" .. boundary
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"answers": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
