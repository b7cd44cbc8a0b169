# shellcheck shell=sh
# shellcheck disable=SC2016
# Zones with signatures of their own, up to a root of their own, for the two names that `leakguard verify` asks for by default.
# Arguments: a directory, the address of the server.
set -eu
cd "$1"
server=$2

sign() { # zone, file: adds keys and signs; leaves what the parent says in FILE.ds, and the key in FILE.key
    zone=$1
    file=$2
    zsk=$(dnssec-keygen -q -a ECDSAP256SHA256 "$zone")
    ksk=$(dnssec-keygen -q -a ECDSAP256SHA256 -f KSK "$zone")
    cat "$zsk.key" "$ksk.key" >>"$file"
    dnssec-signzone -q -o "$zone" -f "$file.signed" -k "$ksk" "$file" "$zsk" >/dev/null
    dnssec-dsfromkey -2 "$ksk" >"$file.ds"
    grep -v '^;' "$ksk.key" >"$file.key"
}
zone() { # zone, file, further lines: a zone whose server is the one there is
    printf '$TTL 60\n@ IN SOA ns.org. host.org. 1 3600 600 86400 60\n@ IN NS ns.org.\n%b' "$3" >"$2"
    sign "$1" "$2"
}

addresses='@ IN A 192.0.2.80\n@ IN AAAA 2001:db8:80::80\n'
zone internetsociety.org. good "$addresses"
zone dnssec-failed.org. bogus "$addresses"
# Changed after it was signed.
sed -i 's/192\.0\.2\.80/192.0.2.66/' bogus.signed
zone org. org "ns IN A $server\ninternetsociety IN NS ns.org.\ndnssec-failed IN NS ns.org.\n$(cat good.ds bogus.ds | sed 's/$/\\n/' | tr -d '\n')"
zone . root "ns.org. IN A $server\norg. IN NS ns.org.\n$(sed 's/$/\\n/' org.ds | tr -d '\n')"

{
    echo "server:"
    echo "  ip-address: $server"
    printf '  username: ""\n  zonesdir: "%s"\n  pidfile: "%s/nsd.pid"\n  xfrdfile: "%s/xfrd.state"\n' "$1" "$1" "$1"
    printf '  xfrdir: "%s"\n  zonelistfile: "%s/zone.list"\n  database: ""\n  server-count: 1\n' "$1" "$1"
    printf 'remote-control:\n  control-enable: no\n'
    for pair in .:root org.:org internetsociety.org.:good dnssec-failed.org.:bogus; do
        printf 'zone:\n  name: "%s"\n  zonefile: %s.signed\n' "${pair%:*}" "${pair#*:}"
    done
} >nsd.conf
printf '. 3600 IN NS ns.org.\nns.org. 3600 IN A %s\n' "$server" >hints
