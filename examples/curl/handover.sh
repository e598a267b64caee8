#!/usr/bin/env bash
# Handover with curl: a whole sender and receiver, written from PROTOCOL.md, to be read. Needs bash, curl and jq.
#   handover.sh session USER [SECONDS]       prints a token for the user, made with HANDOVER_SERVICE_KEY
#   handover.sh send USER TYPE DATA [KEY]    DATA is JSON; KEY the idempotency key; set TTL (seconds), TOPIC, URGENCY for these
#   handover.sh state ID | take-back ID
#   handover.sh poll [COMMAND…]              receives by long polling: COMMAND gets each message on its standard input, and
#   handover.sh events [COMMAND…]            its status 0 means processed; without one they are printed. `events`: by SSE
# HANDOVER_URL is the server (http://127.0.0.1:8080), HANDOVER_TOKEN who you are, RECEIVER this reader's name.
set -euo pipefail
say() { echo "handover: $*" >&2; }
for tool in curl jq; do command -v $tool >/dev/null || { say "needs $tool: apt-get install $tool"; exit 1; }; done
URL=${HANDOVER_URL:-http://127.0.0.1:8080} RECEIVER=${RECEIVER:-curl-$$-$RANDOM}
# A credential goes in through a pipe: what is on a command line, every user of the machine can read.
credential() { echo "Authorization: Bearer ${HANDOVER_TOKEN:-${HANDOVER_SERVICE_KEY:?or HANDOVER_TOKEN must be set}}"; }

# call METHOD PATH [curl's options…]: prints the answer. Status 1: refused for good, and said why; 2: may succeed later.
call() {
  local answer
  answer=$(curl -sS -X "$1" "$URL$2" -H @<(credential) --max-time 45 -w '\n%{http_code}' "${@:3}") || return 2
  if [[ ${answer##*$'\n'} == 2* ]]; then printf '%s\n' "${answer%$'\n'*}"; else problem "${answer%$'\n'*}"; fi
}
post() { call POST "$1" -H 'Content-Type: application/json' --data-binary @- "${@:2}"; } # the body is the standard input
problem() { # DOCUMENT: its `detail` says what to do; what is not from Handover (a proxy's page) may be gone next time
  say "$(jq -er .detail <<<"$1" 2>/dev/null || echo "not an answer of Handover: $1")"
  [[ $(jq .retryable <<<"$1" 2>/dev/null) == false ]] && return 1 || return 2
}
TRY=0
again() { # STATUS: ends when refused for good, else waits a random time of at most 0.25, 0.5, 1, 2, 4 s
  [[ $1 == 1 ]] && exit 1
  sleep "$(jq -n "$RANDOM / 32768 * $((250 << (TRY > 4 ? 4 : TRY))) / 1000")"
  TRY=$((TRY + 1))
}

send() { # repeated under its key until it is known to be on disk, and stored once
  local key=${4:-$(cat /proc/sys/kernel/random/uuid)} headers=() body status
  for name in TTL TOPIC URGENCY; do [[ -z ${!name:-} ]] || headers+=(-H "$name: ${!name}"); done
  body=$(jq -c --arg to "$1" --arg type "$2" '{to: {user: $to}, type: $type, data: .}' <<<"$3")
  until post /v1/messages -H "Idempotency-Key: $key" "${headers[@]}" <<<"$body"; do again $?; done
}

# What a receiver keeps: where it is, what it has processed (by source and id), and what it has not yet told of that.
EPOCH="" CURSOR=0 DONE="" FAILED="" COMMAND=()
declare -A SEEN
position() { # JSON-FILTER: receiver, epoch and cursor, and what the filter adds ($forms: the acknowledgement)
  jq -cn --arg receiver "$RECEIVER" --arg epoch "$EPOCH" --argjson cursor "$CURSOR" \
    --argjson forms "{\"seqs\": [${DONE%,}], \"nack\": [${FAILED%,}]}" \
    "{receiver: \$receiver} + if \$epoch == \"\" then {} else {epoch: \$epoch, cursor: \$cursor} end + $1"
}
begin() { # EPOCH: under a new one the old numbers mean nothing, and everything unsettled comes again
  TRY=0
  [[ $1 == "$EPOCH" ]] || EPOCH=$1 CURSOR=0 DONE="" FAILED=""
}
ROWS='"\(.seq)\t\(.event.source) \(.event.id)\t\(.event + {deliverycount: .deliveryCount} | tojson)"'
process() { if ((${#COMMAND[@]})); then "${COMMAND[@]}" <<<"$1" 3<&-; else printf '%s\n' "$1"; fi; }
take() { # SEQ NAME EVENT: a repeat of what was processed is acknowledged and not processed again
  CURSOR=$1
  if [[ -n ${SEEN[$2]:-} ]] || process "$3"; then SEEN[$2]=1 DONE+="$1,"; else FAILED+="{\"seq\": $1, \"retryAfter\": 1},"; fi
}

poll() { # each poll acknowledges what was processed before it
  local answer began
  while began=$SECONDS; do
    answer=$(position '(if $epoch == "" then {} else {ack: $forms} end) + {wait: 20, max: 32}' | post /v1/poll) || { again $?; continue; }
    DONE="" FAILED=""
    if [[ -z $answer ]]; then # 204: nothing came. Much too early: the server stops, or somebody else uses this name
      if ((SECONDS - began < 10)); then again 2; else TRY=0; fi
      continue
    fi
    begin "$(jq -r .epoch <<<"$answer")"
    jq -r '.gaps[] | "handover: \(.from) to \(.to) ended before they came: \(.reason)"' <<<"$answer" >&2
    jq -r '.settled[] | "handover: \(.) was settled elsewhere"' <<<"$answer" >&2
    while IFS=$'\t' read -r seq name event <&3; do take "$seq" "$name" "$event"; done 3< <(jq -r ".deliveries[] | $ROWS" <<<"$answer")
    CURSOR=$(jq .cursor <<<"$answer")
  done
}

acknowledge() { # beside a stream; what could not be told goes with the next
  [[ -z $DONE$FAILED ]] && return
  position '$forms' | post /v1/ack >/dev/null && DONE="" FAILED=""
}
events() {
  local line kind=message data="" query status
  while :; do
    acknowledge || again $?
    query=(--data-urlencode "receiver=$RECEIVER" --data window=32)
    [[ -z $EPOCH ]] || query+=(--data-urlencode "epoch=$EPOCH" --data "cursor=$CURSOR")
    exec 3< <(exec curl -sSN --get "$URL/v1/events" "${query[@]}" -H @<(credential))
    status=2
    while IFS= read -r -t 45 line <&3 || [[ -n $line ]]; do # a heartbeat comes every 15 s
      line=${line%$'\r'}
      case $line in
        event:*) kind=${line#event:} kind=${kind# } ;;
        data:*) data+=${line#data:} ;;
        "") # the end of an event, or of a heartbeat
          [[ -z $data ]] || event "$kind" "$data" || { status=$?; break; }
          kind=message data=""
          # What follows at once shares the acknowledgement.
          read -r -t 0 <&3 || acknowledge || [[ $? == 2 ]] || { status=1; break; } ;;
        "{"*) problem "$line" || status=$? ;; # refused: not a stream, but a problem document
      esac
    done
    kill $! 2>/dev/null || true
    exec 3<&-
    again $status
  done
}
event() { # KIND DATA: status 0 goes on with the stream
  case $1 in
    ready) begin "$(jq -r .epoch <<<"$2")" ;;
    message)
      IFS=$'\t' read -r seq name event < <(jq -r "$ROWS" <<<"$2")
      take "$seq" "$name" "$event" ;;
    gap) CURSOR=$(jq .to <<<"$2"); jq -r '"handover: \(.from) to \(.to) ended before they came: \(.reason)"' <<<"$2" >&2 ;;
    settled) jq -r '.seqs[] | "handover: \(.) was settled elsewhere"' <<<"$2" >&2 ;;
    drain) sleep "$(jq "$RANDOM / 32768 * .delay" <<<"$2")"; return 2 ;; # everybody comes back, but not all at once
    problem) problem "$2" ;;
  esac
}

case ${1:-}$# in
  session[23]) HANDOVER_TOKEN=${HANDOVER_SERVICE_KEY:?} post /v1/sessions <<<"$(jq -n --arg user "$2" "{user: \$user, ttl: ${3:-900}}")" | jq -r .token ;;
  send[45]) send "${@:2}" ;;
  state2) call GET "/v1/messages/$2" ;;
  take-back2) call DELETE "/v1/messages/$2" ;;
  poll* | events*) COMMAND=("${@:2}"); "$1" ;;
  *) sed -n 's/^# \{0,1\}//; 2,8p' "$0" >&2; exit 2 ;;
esac
