# shellcheck shell=sh
# Goes on from lab.sh. Arguments: the root file system, which is used up, and a directory for logs.
root=$1
logs=$2

# The tunnel's resolver. There is no tunnel: whom the host asks is what is looked at here.
ip address add 10.8.0.1/32 dev lo

unbound_at 10.8.0.1 "$logs/unbound.conf" "$logs/unbound.log" <<'C'
  local-zone: "." static
  local-data: "www.lab.example. 5 IN A 192.0.2.80"
  local-data: "www.isp.example. 5 IN A 192.0.2.80"
C

# The ISP: it hands out addresses, itself as resolver, and a domain of its own.
isp() {
    until ip link show isp0 >/dev/null 2>&1 && ip link show isp1 >/dev/null 2>&1; do
        sleep 0.02
    done
    ip address add 192.168.79.1/24 dev isp0
    ip address add 192.168.80.1/24 dev isp1
    ip link set isp0 up
    ip link set isp1 up
    exec dnsmasq -k -C /dev/null --user=root --pid-file= --no-resolv --no-hosts --bind-interfaces \
        --interface=isp0 --interface=isp1 --except-interface=lo \
        --dhcp-range=192.168.79.50,192.168.79.60,2m --dhcp-range=192.168.80.50,192.168.80.60,2m \
        --dhcp-option=option:domain-name,isp.example --dhcp-leasefile="$logs/leases" \
        --address=/www.lab.example/192.0.2.66 --address=/www.isp.example/192.0.2.66
}
isp >"$logs/isp.log" 2>&1 &

SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --machine=leakguard-lab \
    --network-veth-extra=isp0:eth0 --network-veth-extra=isp1:eth1 --resolv-conf=off \
    --capability=CAP_BPF,CAP_LINUX_IMMUTABLE,CAP_NET_ADMIN,CAP_PERFMON,CAP_SYS_ADMIN \
    --system-call-filter="bpf fanotify_init fanotify_mark perf_event_open" --directory="$root" --boot </dev/null
