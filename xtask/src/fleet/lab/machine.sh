# shellcheck shell=bash
# Three hosts, each with a tunnel and an uplink of its own, and the network namespace of their ISP, of the VPN and of the
# controller. Goes on from nspawn's lab.sh.
# Arguments: the root file system, which is left as it is; a directory for what is made of it; the directory of these
# files; what the controller installs; the collection; the directory for cgroups.
source=$1
work=$2
files=$3
agent=$4
collection=$5
cgroup=$6

# The ISP's resolver, and somebody else on the Internet.
ip address add 198.51.100.53/32 dev lo

umask 077
mkdir -p "$work/keys" "$work/logs"
keys=$work/keys
logs=$work/logs
ssh-keygen -q -t ed25519 -N '' -C lab -f "$keys/ssh"
mv "$keys/ssh" "$keys/ssh.key"
for name in server fleet-1 fleet-2 fleet-3; do
    wg genkey >"$keys/$name.key"
    wg pubkey <"$keys/$name.key" >"$keys/$name.pub"
done

# The VPN's server, and the resolver behind it.
wireguard-go -f wgs >"$logs/wireguard.log" 2>&1 &
until wg show wgs >/dev/null 2>&1; do
    kill -0 $!
    sleep 0.05
done
{
    printf '[Interface]\nPrivateKey = %s\nListenPort = 51820\n' "$(cat "$keys/server.key")"
    for n in 1 2 3; do
        printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.8.0.1%s/32\n' "$(cat "$keys/fleet-$n.pub")" "$n"
    done
} >"$keys/server.conf"
wg setconf wgs "$keys/server.conf"
ip address add 10.8.0.1/24 dev wgs
ip link set wgs mtu 1420 up
umask 022

# Arguments: the address, and what it answers whatever it is asked.
resolver() {
    unbound_at "$1" "$work/resolver-$1.conf" "$logs/resolver-$1.log" <<C
  module-config: "iterator"
  local-zone: "." redirect
  local-data: ". 5 IN A $2"
  local-data: ". 5 IN AAAA 2001:db8::80"
C
}
resolver 198.51.100.53 192.0.2.66
resolver 10.8.0.1 192.0.2.80

# What comes out of each uplink, counted where the ISP gets it.
nft -f - <<'C'
table inet isp {
    counter fleet-1 { }
    counter fleet-2 { }
    counter fleet-3 { }
    map uplinks {
        type ifname : counter
        elements = { "isp1" : "fleet-1", "isp2" : "fleet-2", "isp3" : "fleet-3" }
    }
    chain seen {
        type filter hook prerouting priority raw; policy accept;
        meta l4proto { tcp, udp } th dport { 53, 853, 5353, 5355, 137 } counter name iifname map @uplinks
    }
}
C

# Becomes a host, in a cgroup of its own: what one host attaches there concerns no other.
host() {
    n=$1
    me=$BASHPID
    findmnt --noheadings --list --output TARGET,FSTYPE,OPTIONS --types cgroup,cgroup2 |
        while read -r tree type options; do
            case $type:$options in
            cgroup2:* | cgroup:*name=systemd*)
                mkdir -p "$tree/$cgroup/fleet-$n"
                echo "$me" >"$tree/$cgroup/fleet-$n/cgroup.procs"
                ;;
            esac
        done
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
    exec systemd-nspawn --quiet --register=no --keep-unit --machine="fleet-$n" --resolv-conf=off \
        --network-veth-extra="isp$n:eth0" --bind=/dev/net/tun \
        --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON,CAP_SYS_ADMIN \
        --system-call-filter="bpf open_by_handle_at perf_event_open pidfd_getfd" --directory="$work/fleet-$n/root" --boot </dev/null
}
for n in 1 2 3; do
    mkdir -p "$work/fleet-$n/upper" "$work/fleet-$n/work" "$work/fleet-$n/root"
    mount -t overlay overlay "$work/fleet-$n/root" \
        -o "lowerdir=$source,upperdir=$work/fleet-$n/upper,workdir=$work/fleet-$n/work"
    sh "$files/host.sh" "$n" "$work/fleet-$n/root" "$keys" "$files"
    printf '192.168.8%s.10 %s\n' "$n" "$(cut -d ' ' -f 1,2 "$source/etc/ssh/ssh_host_ed25519_key.pub")" >>"$keys/known_hosts"
    host "$n" >"$logs/fleet-$n.log" 2>&1 &
    until ip link show "isp$n" >/dev/null 2>&1; do
        kill -0 $!
        sleep 0.05
    done
    ip address add "192.168.8$n.1/24" dev "isp$n"
    ip link set "isp$n" up
done

cat "$files/../../nspawn/guest/steps.sh" "$files/controller.sh" >"$work/controller.sh"
bash "$work/controller.sh" "$work" "$agent" "$collection"
