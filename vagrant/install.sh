#!/bin/sh
# Installs AnonNet from the synced folder, as README.md says for any host.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends python3-venv python3-dev gcc libc6-dev libssl-dev nftables iproute2 curl
python3 -m venv /opt/anonnet
/opt/anonnet/bin/pip install -q /anonnet
ln -sf /opt/anonnet/bin/anonnet-tun /usr/local/bin/
cp /anonnet/systemd/*.service /etc/systemd/system/
cp /anonnet/systemd/anonnet.sysusers /etc/sysusers.d/anonnet.conf
cp /anonnet/systemd/anonnet.tmpfiles /etc/tmpfiles.d/anonnet.conf
systemd-sysusers
systemd-tmpfiles --create
systemctl daemon-reload
