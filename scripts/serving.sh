# Shared by scripts that start `moecheck serve`. Sourced after common.sh.

# serve LOG ARGUMENTS...: starts a server on a free port; sets SERVER_PID and ENDPOINT. It ends with the script.
serve() {
  local log=$1
  shift
  "$MOECHECK" serve --port 0 "$@" >"$log" 2>&1 &
  SERVER_PID=$!
  trap 'kill "$SERVER_PID" 2>/dev/null || true' EXIT
  local i
  for i in $(seq 300); do
    ENDPOINT=$(sed -n 's|.* on \(http://[^,]*\),.*|\1|p' "$log")
    [ -n "$ENDPOINT" ] && return
    kill -0 "$SERVER_PID" 2>/dev/null || break
    sleep 0.1
  done
  cat "$log" >&2
  return 1
}

stop_server() {
  kill "$SERVER_PID" 2>/dev/null || true
  wait "$SERVER_PID" 2>/dev/null || true
}
