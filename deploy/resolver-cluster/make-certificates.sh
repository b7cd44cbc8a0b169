#!/bin/sh
# Makes an authority and the certificates of a cluster, for a lab or for use among machines of your own.
#
#   make-certificates.sh DIRECTORY CLUSTER-NAME ADDRESS[,ADDRESS...] NODE...
#   make-certificates.sh /root/cluster resolver.example.net 10.8.0.1,fd08::1 node-1 node-2
#
# DIRECTORY gets ca.pem, ca.key, cluster.pem, cluster.key, and NODE.pem, NODE.key for every node. The authority is made once
# and kept: run it again to renew certificates, or with another node to make its. ca.key belongs to no machine of the cluster.
set -eu

if [ "$#" -lt 4 ]; then
    echo "usage: $0 DIRECTORY CLUSTER-NAME ADDRESS[,ADDRESS...] NODE..." >&2
    exit 2
fi
directory=$1 cluster=$2 addresses=$3
shift 3

umask 077
mkdir -p "$directory"
cd "$directory"

for node in "$@"; do
    case $node in
    ca | cluster | '' | -* | *[!A-Za-z0-9.-]*)
        echo "$0: a node cannot be called \`$node\`: letters, digits, dots and hyphens, and not ca or cluster" >&2
        exit 2
        ;;
    esac
done

if [ ! -e ca.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 -batch \
        -subj "/CN=resolver cluster" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -keyout ca.key.new -out ca.pem
    # The last thing: there is no key without its certificate.
    mv ca.key.new ca.key
fi

# certificate FILE NAME ALTERNATIVE-NAMES
certificate() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
        -subj "/CN=$2" -keyout "$1.key.new" -out "$1.csr"
    printf 'subjectAltName=%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' \
        "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 397 -sha256 \
        -extfile "$1.ext" -out "$1.pem.new"
    # Both are there before either is replaced.
    mv "$1.key.new" "$1.key"
    mv "$1.pem.new" "$1.pem"
    rm "$1.csr" "$1.ext"
}

names=DNS:$cluster
for address in $(echo "$addresses" | tr ',' ' '); do
    names=$names,IP:$address
done
certificate cluster "$cluster" "$names"
for node in "$@"; do
    certificate "$node" "$node" "DNS:$node"
done
# What is not secret.
chmod 0644 ./*.pem
