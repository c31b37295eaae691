#!/bin/sh
# Cuts a stream in the middle, reads on behind the last event that came, and compares with the whole. Needs curl.
#
#   sh examples/curl.sh [http://127.0.0.1:8000]
set -eu

rill=${1:-http://127.0.0.1:8000}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"

# An event ends with an empty line. One that was cut off counts as not received: Rill sends it again.
whole_events() { awk '{ event = event $0 "\n" } $0 == "" { printf "%s", event; event = "" }'; }

# The text of these files' events, with JSON's escapes as they are.
text() { cat "$@" | sed -n 's/^data: {"text":"\(.*\)"}$/\1/p' | tr -d '\n'; }

echo "== A stream, cut after 41 lines, in the middle of an event"
# `head` leaves in the middle, so that curl does, too. pace=20: 20 tokens a second, or all would have come by then.
curl -sN -G "$rill/stream" --data-urlencode "prompt=Tell me a story about a fox" -d temperature=0 -d pace=20 |
    head -n 41 >cut
cat cut
whole_events <cut >first
last=$(sed -n 's/^id: //p' first | tail -n 1)
if [ -z "$last" ]; then
    echo "No stream came from $rill" >&2
    exit 1
fi

# An event's id is <stream>.<number>.<checksum>. Nobody else should see it: it is the right to read the stream.
stream=${last%%.*}
echo "== Resumed behind event $last"
curl -sSN "$rill/v1/streams/$stream" -H "Last-Event-ID: $last" | tee rest

echo "== The text of both parts"
text first rest
echo
curl -sS "$rill/v1/streams/$stream" >again # without Last-Event-ID: from its start
if [ "$(text first rest)" != "$(text again)" ]; then
    echo "It differs from the whole stream's" >&2
    exit 1
fi
echo "== The whole stream, read again, has the same text"
