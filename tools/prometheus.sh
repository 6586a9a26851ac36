#!/bin/sh
# prometheus.sh DIR: prints a folder that holds `prometheus` and `promtool`: those installed, or else Debian's package
# unpacked under DIR. Unpacked, because installing it would start a Prometheus server.
set -eu
for d in /usr/bin /usr/local/bin "$1/usr/bin"; do
    [ -x "$d/prometheus" ] && [ -x "$d/promtool" ] && { echo "$d"; exit 0; }
done
mkdir -p "$1"
cd "$1"
apt-get download -qq prometheus >&2 || { apt-get update -qq >&2 && apt-get download -qq prometheus >&2; }
dpkg-deb -x prometheus_*.deb .
rm prometheus_*.deb
echo "$1/usr/bin"
