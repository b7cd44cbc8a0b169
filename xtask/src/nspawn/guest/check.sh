# shellcheck shell=bash
# What follows `&&` before `||` is `ok`, which does not fail; what `within` is given, it evaluates itself.
# shellcheck disable=SC2015,SC2016
# It goes on from there: shellcheck source=steps.sh
# In the guest: sets up, renews leases, reverts, and says of each step whether it went as it should.
server=10.8.0.1
by_libc() { getent ahostsv4 "$1" | head -n 1 | cut -d ' ' -f 1; }
by_file() { dig +short +time=2 +tries=1 "$1" | tail -n 1; }

# Every file and link of /etc: kind, mode, owner, time, target, attributes, bytes. When NetworkManager is told that it may,
# it writes its resolv.conf anew, with the same bytes.
snapshot() {
    find /etc -xdev \( -type f -o -type l \) -printf '%p %y %m %U %G %T@ %l\n' | sort >"$1"
    [ "$scenario" = resolved ] || sed -i 's|^\(/etc/resolv.conf f 644 0 0\) .*|\1|' "$1"
    {
        find /etc -xdev -type f -exec sha256sum {} + | sort
        find /etc -xdev -type f -exec lsattr {} + 2>/dev/null | sort
        cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6
    } >>"$1"
}
as_before() {
    snapshot /tmp/after
    if difference=$(diff /tmp/before /tmp/after); then
        ok "$1: every file as before"
    else
        failed "$1: $(echo "$difference" | head -n 5 | tr '\n' ';')"
    fi
    [ ! -e /var/lib/leakguard ] || failed "$1: $(find /var/lib/leakguard | tr '\n' ' ')"
}
# A lease by each of the clients; both would change whom the host asks.
lease_of_network_manager() {
    nmcli connection up eth0 >/dev/null || failed "$1: NetworkManager has no lease"
}
lease_of_dhclient() {
    dhclient -1 -lf /tmp/leases -pf /tmp/dhclient.pid eth1 >/dev/null || failed "$1: dhclient has no lease"
    dhclient -x -lf /tmp/leases -pf /tmp/dhclient.pid eth1 >/dev/null 2>&1
}

way() { # options
    name="$*"
    if leakguard resolver apply --server $server "$@" >/tmp/said; then
        ok "$name: applied"
    else
        failed "$name: $(tail -n 3 /tmp/said | tr '\n' ';')"
    fi
    expect "$name: a second time" unchanged "$(leakguard resolver apply --server $server "$@")"
    for lease in lease_of_network_manager lease_of_dhclient; do
        $lease "$name"
        for host in www.lab.example www.isp.example; do
            expect "$name: $host by libc after $lease" 192.0.2.80 "$(by_libc $host)"
            expect "$name: $host by resolv.conf after $lease" 192.0.2.80 "$(by_file $host)"
        done
        if leakguard resolver status >/tmp/said; then
            ok "$name: sound after $lease"
        else
            failed "$name: $(grep -v 'as it was set up' /tmp/said | tr '\n' ';')"
        fi
    done
    leakguard resolver revert >/tmp/said || failed "$name: $(tail -n 3 /tmp/said)"
    as_before "$name"
    within '[ "$(by_libc www.lab.example)" = 192.0.2.66 ]' && ok "$name: the ISP is asked again" ||
        failed "$name: the ISP is not asked again"
}

killed() { # options
    name="killed: $*"
    die=1
    while :; do
        LEAKGUARD_RESOLVER_DIE=$die leakguard resolver apply --server $server "$@" >/tmp/said 2>&1
        code=$?
        leakguard resolver revert >/tmp/said || failed "$name $die: $(tail -n 3 /tmp/said)"
        [ $code = 137 ] || break
        snapshot /tmp/after
        cmp -s /tmp/before /tmp/after || as_before "$name $die"
        die=$((die + step))
    done
    expect "$name: at its end" 0 "$code"
    as_before "$name (last at $die)"
}

# The agent in its unit, with the drop-in, and a DHCP client that knows nothing of hooks.
agent() {
    mkdir -p /run/bpf /etc/leakguard /var/lib/leakguard
    mount -t bpf bpf /run/bpf || failed "no bpffs"
    sed 's/^\( *\)run_hook/\1: run_hook/; s/^\( *\): run_hook\(.*\)() {/\1run_hook\2() {/' /sbin/dhclient-script >/tmp/dhclient-script
    chmod 755 /tmp/dhclient-script
    leakguard resolver apply --server $server --strategy static --no-immutable >/tmp/said || failed "agent: $(cat /tmp/said)"
    wanted=$(cat /etc/resolv.conf)
    if systemctl start leakguard; then ok "agent: runs"; else failed "agent: $(journalctl -u leakguard -o cat | tail -n 5)"; fi
    dhclient -1 -sf /tmp/dhclient-script -lf /tmp/leases -pf /tmp/dhclient.pid eth1 >/dev/null 2>&1
    within 'journalctl -u leakguard -o cat | grep "resolver /etc/resolv.conf: was changed"'
    notice=$(journalctl -u leakguard -o cat | grep 'resolver /etc/resolv.conf')
    case $notice in
    *"by dhclient-script "*"; put back; their version is kept in "*) ok "agent: $notice" ;;
    *) failed "agent: $notice" ;;
    esac
    expect "agent: resolv.conf" "$wanted" "$(cat /etc/resolv.conf)"
    dhclient -x -sf /tmp/dhclient-script -lf /tmp/leases -pf /tmp/dhclient.pid eth1 >/dev/null 2>&1
    journalctl -u leakguard -o cat | sed "s/^/agent: /" | head -n 30
    systemctl stop leakguard
}

within '[ "$(nmcli --get-values GENERAL.STATE device show eth0)" = "100 (connected)" ]' ||
    failed "NetworkManager does not bring eth0 up: $(nmcli device)"
scenario=$(cat /etc/leakguard-scenario)
within '[ "$(by_libc www.lab.example)" = 192.0.2.66 ]'
expect "control: the ISP is asked before" 192.0.2.66 "$(by_libc www.lab.example)"
if [ "$scenario" = plain ]; then
    before=$(cat /etc/resolv.conf)
    lease_of_dhclient control
    [ "$before" != "$(cat /etc/resolv.conf)" ] && ok "control: dhclient rewrites resolv.conf" ||
        failed "control: dhclient leaves resolv.conf alone"
    nmcli general reload dns-rc
    within 'grep -q NetworkManager /etc/resolv.conf' || failed "NetworkManager does not write resolv.conf"
fi
snapshot /tmp/before
step=1
case $scenario in
resolved)
    way --strategy resolved-strict
    way --strategy resolved-off
    way --strategy resolved-off --cache unbound --insecure example
    way --strategy resolved-strict --cache dnsmasq --ipv6-sysctl --uplink eth0
    step=4
    killed --strategy resolved-off --cache dnsmasq
    ;;
plain)
    way --strategy static
    way --strategy auto --cache unbound --insecure example --ipv6-sysctl --uplink eth0
    killed --strategy static
    agent
    ;;
esac
systemctl list-units --failed --plain --no-legend | grep -v '^check' | while read -r unit; do failed "unit $unit"; done
echo "guest: end"
