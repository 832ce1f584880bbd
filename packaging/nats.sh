#!/bin/sh
# Starts one NATS server of compose.yaml with the configuration of examples/cluster. Needs NAME and the PASSWORD_… variables.
set -eu

for user in n1:GATEWAY_AND_WORKER n2:GATEWAY_AND_WORKER n3:GATEWAY_AND_WORKER gateway:GATEWAY_ONLY worker:WORKER_ONLY; do
  name=${user%:*} role=${user#*:}
  sed -n "/^$role {/,/^}/p" /dunlin/nats-permissions.conf |
    sed "s/^$role/PERMISSIONS_$(echo "$name" | tr a-z A-Z)/; s/CLUSTER/dunlin/; s/NODE/$name/"
done > /tmp/permissions.conf
cp /dunlin/nats.conf /tmp/nats.conf

export LISTEN="'0.0.0.0:4222'" MONITOR="'127.0.0.1:8222'" STORE="/data" CLUSTER_LISTEN="'0.0.0.0:6222'"
export ROUTES="[nats://route:$PASSWORD_ROUTE@nats-1:6222, nats://route:$PASSWORD_ROUTE@nats-2:6222, nats://route:$PASSWORD_ROUTE@nats-3:6222]"
exec nats-server --config /tmp/nats.conf
