# shellcheck shell=sh
# Runs in namespaces of its own, which end with it: whatever it leaves is gone then.
# Arguments: the capture's file, then the emulator and its arguments.
set -eu
capture=$1
shift

ip link set lo up
ip tuntap add dev isp0 mode tap
ip address add 192.168.79.1/24 dev isp0
ip address add fd79::1/64 dev isp0 nodad
ip link set isp0 up

tcpdump -U -n -B 16384 -i isp0 -w "$capture" 2>"$capture.log" &
until grep -q 'listening on' "$capture.log"; do
    # Without this the loop would outlive a tcpdump that has failed.
    kill -0 $!
    sleep 0.05
done
"$@" </dev/null
kill -TERM $!
wait $! || true
