# shellcheck shell=sh
# A host for the package: behind an ISP, with a VPN server at the other end of a real WireGuard tunnel. What leaves the host is
# captured outside of it. Goes on from nspawn's lab.sh.
# Arguments: the root file system, which is used up, a directory for logs, the script that makes the zones.
root=$1
logs=$2
zones=$3

mkdir /run/bpf /run/zones
mount -t bpf bpf /run/bpf
# What the ISP leads to: a resolver that anybody may ask, addresses that nobody has, the VPN's server.
ip route add local 198.51.100.0/24 dev lo
ip route add local 203.0.113.10/32 dev lo
ip -6 route add local 2001:db8:53::/64 dev lo
sh -c "$zones" zones /run/zones 203.0.113.10
nsd -d -c /run/zones/nsd.conf >"$logs/nsd.log" 2>&1 &

# The tunnel's end, and the resolver behind it.
mkdir -m 700 "$root/root/tunnel"
(umask 077 && wg genkey >/run/server.private && wg genkey >"$root/root/tunnel/private")
wg pubkey </run/server.private >"$root/root/tunnel/server"
env -u WG_PROCESS_FOREGROUND wireguard-go -f wgs0 >"$logs/wireguard.log" 2>&1 &
until wg set wgs0 listen-port 51820 private-key /run/server.private \
    peer "$(wg pubkey <"$root/root/tunnel/private")" allowed-ips 10.8.0.2/32 2>/dev/null; do
    sleep 0.02
done
ip address add 10.8.0.1/24 dev wgs0
ip link set wgs0 up
unbound_at 10.8.0.1 /run/unbound.conf "$logs/unbound.log" <<'C'
  root-hints: /run/zones/hints
  trust-anchor-file: /run/zones/root.key
  module-config: "validator iterator"
C

# The ISP. It can be reached when it is watched, and not before.
isp() {
    until ip link show isp0 >/dev/null 2>&1; do sleep 0.02; done
    ip link set isp0 up
    tcpdump -l -nn -i isp0 -Q in 'dst port 53' >"$logs/capture.txt" 2>"$logs/tcpdump.log" &
    until grep -q 'listening on' "$logs/tcpdump.log"; do sleep 0.02; done
    ip address add 192.168.79.1/24 dev isp0
    ip address add fd79::1/64 dev isp0 nodad
    exec dnsmasq -k -C /dev/null --user=root --pid-file= --no-resolv --no-hosts --bind-interfaces \
        --listen-address=198.51.100.53 --address=/probe.test/192.0.2.66
}
isp >"$logs/isp.log" 2>&1 &

# The bpffs is where every host has it. The kernel's own directories are read-only for the guest, as in any container.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --machine=leakguard-lab \
    --network-veth-extra=isp0:eth0 --resolv-conf=off --bind=/run/bpf:/sys/fs/bpf --bind=/dev/net/tun \
    --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON,CAP_SYS_ADMIN \
    --system-call-filter="bpf perf_event_open" --directory="$root" --boot </dev/null || true

# What was seen outside, by phase: the address that was asked says in which one it was.
seen() { # phase, what of it
    grep -c -E "$2" "$logs/capture.txt" || true
}
judge() { # phase, its number, whether anything may be seen
    for way in "UDP over IPv4=> 198\.51\.100\.$2\.53: [0-9]" "TCP over IPv4=> 198\.51\.100\.$2\.53: Flags" \
        "UDP over IPv6=> 2001:db8:53::$2\.53: [0-9]"; do
        number=$(seen "$1" "${way#*=}")
        name="$1: ${way%%=*} off the tunnel: $number packets at the ISP"
        if { [ "$3" = leak ] && [ "$number" -gt 0 ]; } || { [ "$3" = none ] && [ "$number" -eq 0 ]; }; then
            echo "guest: ok $name"
        else
            echo "guest: FAILED $name"
        fi
    done
}
judge "before (control)" 1 leak
judge installed 2 leak
judge enforced 3 none
judge "during the upgrade" 4 none
judge upgraded 5 none
judge removed 6 leak
