#!/bin/sh
# Starts Handover in place of x0's message server: container x0-msg-server, address 172.20.0.100 in the network x0-connect, port 8080 (docs/x0.md).
# What ran under that name is stopped and removed; its mail, if it was Handover's, stays in the volume x0-msg-server-data.
#
#   deploy/x0-start-msg-server.sh demo         any session value is who it says, as with x0's own server; for trying it out on this machine
#   deploy/x0-start-msg-server.sh registered   session values are tokens that your backend asks for
#
# HANDOVER_PUBLISH: address of this machine on which port 8080 is open to others, none unless said: x0's habit, -p 8080:8080, is 0.0.0.0.
# Other HANDOVER_* variables of yours are passed on. Secrets are made once and kept in deploy/.env.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
name=x0-msg-server
network=x0-connect
secrets=$folder/.env

case ${1:-} in
demo | registered) mode=$1 ;;
*)
  echo "usage: $0 demo|registered" >&2
  exit 2
  ;;
esac

if [ ! -e "$secrets" ]; then
  # 32 random bytes in base64, without a tool that may not be there.
  secret() { head -c 32 /dev/urandom | base64 | tr -d '\n'; }
  (
    umask 077
    printf 'HANDOVER_TOKEN_SECRET=%s\nHANDOVER_SERVICE_KEY=%s\n' "$(secret)" "$(secret)" >"$secrets"
  )
  echo "The secrets are in $secrets; your backend needs HANDOVER_SERVICE_KEY."
fi

docker build -f "$folder/Dockerfile" -t handover "$folder/.."
docker network inspect "$network" >/dev/null 2>&1 || docker network create --subnet=172.20.0.0/24 "$network"
if docker container inspect "$name" >/dev/null 2>&1; then
  docker container stop -t 15 "$name"
  docker container rm "$name"
fi

# Names only: docker takes the values from the environment.
passed=$(env | sed -n 's/^\(HANDOVER_[A-Z0-9_]*\)=.*/--env \1/p' | grep -v -e HANDOVER_PUBLISH -e HANDOVER_X0= || true)
# In a container it listens on every address, so demo must be told that this is meant; what others reach is decided by the port below.
# shellcheck disable=SC2086
docker run --detach --name "$name" --hostname "$name" --network "$network" --ip 172.20.0.100 \
  --publish "${HANDOVER_PUBLISH:-127.0.0.1}:8080:8080" \
  --volume x0-msg-server-data:/data --env-file "$secrets" $passed \
  --env "HANDOVER_X0=$mode" --env "HANDOVER_X0_PUBLIC=$([ "$mode" = demo ] && echo true || echo false)" \
  --restart unless-stopped --stop-timeout 15 \
  --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --memory 1g --pids-limit 200 --ulimit nofile=65536 \
  handover

tries=60
until [ "$(docker container inspect --format '{{.State.Health.Status}}' "$name")" = healthy ]; do
  tries=$((tries - 1))
  if [ "$tries" = 0 ] || [ "$(docker container inspect --format '{{.State.Running}}' "$name")" != true ]; then
    echo "It does not answer. What it says:" >&2
    docker logs --tail 20 "$name" >&2
    exit 1
  fi
  sleep 1
done
echo "Handover is x0's message server now, in mode $mode: http://172.20.0.100:8080"
