# shellcheck shell=sh
# shellcheck disable=SC2015,SC2016,SC2046,SC2086
# Runs the image with the privileges that the documents state, and with each of them taken away. Runs in namespaces and in a
# cgroup of its own; whoever started it ends all that is in the latter. Arguments: the archive of the image, its name, a directory
# for logs, the privileges.
set -eu
image=$1
name=$2
logs=$3
privileges=$4

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/bpf /run/netns /run/leakguard /run/podman /run/config
mount -t bpf bpf /run/bpf
# The cgroups that are seen here begin with this test's own.
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A cgroup with processes of its own cannot give its children controllers.
mkdir /sys/fs/cgroup/engine
echo 0 >/sys/fs/cgroup/engine/cgroup.procs
ip link set lo up

# An uplink with an ISP at its end, and a device that stands for a tunnel: what may leave by it is not what is looked at here.
mkdir /run/isp
touch /run/netns/isp
unshare --net=/run/netns/isp true
ip link add eth0 type veth peer name isp0 netns /run/netns/isp
ip tuntap add vpn0 mode tun
ip address add 10.8.0.2/24 dev vpn0
ip link set vpn0 up
ip address add 192.168.79.10/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.79.1
at_isp() { nsenter --net=/run/netns/isp "$@"; }
at_isp ip link set lo up
at_isp ip address add 192.168.79.1/24 dev isp0
at_isp ip route add local 198.51.100.0/24 dev lo
at_isp ip link set isp0 up
at_isp dnsmasq -C /dev/null --user=root --pid-file= --no-resolv --no-hosts --bind-interfaces \
    --listen-address=198.51.100.53 --address=/probe.test/192.0.2.66
asked() { dig +short +time=1 +tries=1 @198.51.100.53 www.probe.test | grep -v '^;;' || true; }
within '[ "$(asked)" = 192.0.2.66 ]' && ok "control: DNS off the tunnel is answered" || failed "control: no DNS at all"

# Podman, with nothing of the machine's own.
export HOME=/run/podman XDG_RUNTIME_DIR=/run/podman
export CONTAINERS_CONF=/run/podman/containers.conf CONTAINERS_STORAGE_CONF=/run/podman/storage.conf
printf '[network]\nnetwork_backend = "netavark"\n' >$CONTAINERS_CONF
printf '[storage]\ndriver = "vfs"\ngraphroot = "/run/podman/root"\nrunroot = "/run/podman/run"\n' >$CONTAINERS_STORAGE_CONF
pod() { podman --runtime=runc --cgroup-manager=cgroupfs --events-backend=none "$@"; }
# As the document says: what the engine allows anyway, and two calls that older engines' profiles do not know by privileges.
jq '(.syscalls[].names) -= ["bpf", "pidfd_getfd"] | .syscalls |= map(select(.names != [])) |
    .syscalls += [{"names": ["bpf", "pidfd_getfd"], "action": "SCMP_ACT_ALLOW"}]' \
    /usr/share/containers/seccomp.json >/run/config/seccomp.json
pod load --quiet --input "$image" >"$logs/load" 2>&1 && ok "podman loads it: $(tail -n 1 "$logs/load")" ||
    failed "podman load: $(tail -n 1 "$logs/load")"
container() { # options of podman, --, words for leakguard
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # The machine's own limits may be lower than podman's, which not everybody may raise.
    pod run $options --network=host --pid=host --cgroupns=host --pids-limit=0 --ulimit=nofile=4096:4096 \
        --ulimit=nproc=4096:4096 --cap-drop=ALL --security-opt=no-new-privileges \
        --security-opt=seccomp=/run/config/seccomp.json --read-only --read-only-tmpfs=false \
        --volume=/run/bpf:/sys/fs/bpf --volume=/sys/fs/cgroup:/sys/fs/cgroup:ro --volume=/run/leakguard:/run/leakguard \
        "$name" "$@"
}
with() { # privileges, as options
    for word in $1; do printf -- '--cap-add=%s ' "$word"; done
}
# A shell is not in it.
if pod run --rm --network=none --pids-limit=0 --ulimit=nofile=4096:4096 --ulimit=nproc=4096:4096 --entrypoint=/bin/sh "$name" \
    -c : >"$logs/shell" 2>&1; then
    failed "there is a shell in the image"
else
    ok "there is no shell in the image: $(tail -n 1 "$logs/shell" | cut -c 1-120)"
fi

# Somebody who is still there when it is looked who it was.
ask_and_stay() { bash -c 'printf . >/dev/udp/198.51.100.53/53; sleep 1; :' 2>/dev/null || true; }
event() { pod exec agent /usr/bin/leakguard events --json 2>/dev/null | grep '"bash"' | tail -n 1; }
enforced() { # privileges: runs the agent with them until it says that it is ready, or ends; says what there is then
    container --detach --name=agent $(with "$1") -- run --tunnel vpn0 --preflight off >/dev/null 2>"$logs/start"
    within 'pod logs agent 2>&1 | grep -E "level (full|reduced|none)" || [ "$(pod inspect --format={{.State.Running}} agent)" = false ]' ||
        true
    pod logs agent >"$logs/agent" 2>&1 || true
    # By its own account: what another one sees is no matter of its privileges.
    found=$(sed -n -E 's/.*level:? *(full|reduced|none).*/\1/p' "$logs/agent" | tail -n 1)
}
lifted() {
    pod rm --force --time=5 agent >/dev/null 2>&1 || true
    container --rm $(with "$privileges") -- release >"$logs/release" 2>&1 || failed "release: $(tail -n 2 "$logs/release")"
}

enforced "$privileges"
case $found in
full*) ok "with $privileges: level $found" ;;
*) failed "with $privileges: level ${found:-none}: $(tail -n 3 "$logs/agent" | tr '\n' ';')" ;;
esac
[ -z "$(asked)" ] && ok "enforced: DNS off the tunnel is not answered" || failed "enforced: DNS off the tunnel is answered"
pod exec agent /usr/bin/leakguard status >"$logs/status" 2>&1 || failed "status inside: $(tail -n 2 "$logs/status")"
ask_and_stay
within 'event | grep -q "/bash"' && ok "events name the program that asked" || failed "events do not name the program: $(event)"
pod rm --force --time=5 agent >/dev/null
[ -z "$(asked)" ] && ok "the container is gone: DNS off the tunnel is not answered" ||
    failed "the container is gone, and DNS off the tunnel is answered"
lifted
within '[ "$(asked)" = 192.0.2.66 ]' && ok "released: DNS off the tunnel is answered" || failed "released: no DNS"

# Each of them is needed.
for taken in $privileges; do
    enforced "$(echo "$privileges" | tr ' ' '\n' | grep -vx "$taken" | tr '\n' ' ')"
    why=$(grep -v -i '^$' "$logs/agent" | tail -n 2 | tr '\n' ' ' | cut -c 1-160)
    case $taken:$found in
    CAP_SYS_PTRACE:full*)
        # It enforces all the same; of other users' programs only the name is known.
        ask_and_stay
        within '[ -n "$(event)" ]' || true
        case $(event) in
        *'"exe":null'*) ok "without $taken: level $found, but events do not name the program" ;;
        *) failed "without $taken: $(event)" ;;
        esac
        ;;
    *:full*) failed "without $taken: level $found all the same" ;;
    *) ok "without $taken: level ${found:-none}: $why" ;;
    esac
    lifted
done
echo 'guest: end'
