#!/bin/sh
# Replaces this node's [[peers]] by those on standard input, and starts it anew.
set -eu
file=/etc/anonnet/anonnet.toml
sed -i '/^\[\[peers\]\]/,$d' "$file"
cat >> "$file"
systemctl enable anonnet
systemctl restart anonnet
