#!/usr/bin/env bash
# A program outside executes a run: it opens the run, posts what happens, and ends it. The gateway
# stores and streams it like any other, and keeps the run open over its own restarts.
#
#     examples/external_producer.sh [SESSION_ID]
#
# Needs a gateway (`make serve` in another terminal) and curl. Watch it from a third one:
#     .venv/bin/bamboo tail SESSION_ID
set -euo pipefail

api="${BAMBOO_URL:-http://127.0.0.1:8080}/api/v1"
session="${1:-build-$RANDOM$RANDOM}"
run="build-$RANDOM$RANDOM"

post() { # post PATH BODY [CURL OPTIONS...]
  curl --silent --show-error --fail-with-body "$api/$1" \
    --header 'Content-Type: application/json' --data "$2" "${@:3}"
  echo
}

post sessions "{\"id\": \"$session\", \"title\": \"A build\"}"
post "sessions/$session/messages" '{"role": "user", "content": "Build it, please."}'
post "sessions/$session/runs" "{\"agent\": \"external\", \"run_id\": \"$run\"}"

# One event a request. With an Idempotency-Key it can be repeated until an answer comes back.
post "sessions/$session/events" \
  "{\"type\": \"tool_start\", \"run_id\": \"$run\", \"tool_call_id\": \"c1\", \"tool_name\": \"make\"}" \
  --header "Idempotency-Key: $run-1" --retry 5 --retry-connrefused

# Or many in one request, each line stored as it arrives. A repeat with the same key stores only
# what is missing.
{
  for step in compile link test; do
    echo "{\"type\": \"tool_delta\", \"run_id\": \"$run\", \"tool_call_id\": \"c1\", \"content\": \"$step ok\\n\"}"
  done
  echo "{\"type\": \"tool_complete\", \"run_id\": \"$run\", \"tool_call_id\": \"c1\", \"result\": {\"success\": true, \"content\": \"3 steps\"}}"
  echo "{\"type\": \"token\", \"run_id\": \"$run\", \"content\": \"The build is done.\"}"
  echo "{\"type\": \"complete\", \"run_id\": \"$run\", \"finish_reason\": \"stop\"}"
} | curl --silent --show-error --fail-with-body "$api/sessions/$session/events" \
  --header 'Content-Type: application/x-ndjson' --header 'Transfer-Encoding: chunked' \
  --header "Idempotency-Key: $run-2" --upload-file - --request POST
echo

curl --silent --show-error --fail-with-body "$api/sessions/$session/runs/$run"
echo
