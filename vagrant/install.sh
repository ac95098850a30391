#!/bin/sh
# Installs AnonNet from the synced folder, as README.md says for any host.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends make curl
make -C /anonnet install
