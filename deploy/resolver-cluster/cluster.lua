-- The settings of one region's cluster: /etc/dnsdist/cluster.lua. dnsdist.conf reads it; nothing else has to be edited.

-- Where this cluster is. Every line of the audit log has it, and the names of the nodes in the metrics begin with it.
region = "eu-west"

-- Where hosts ask over TLS (RFC 7858): the cluster's addresses in the VPN.
listen_tls = { "10.8.0.1:853", "[fd08::1]:853" }

-- Where they ask in the clear. Only addresses in the tunnel, which encrypts; hosts that redirect port 53 need it. {}: nowhere.
listen_plain = {}

-- Who may ask; nobody else gets an answer.
clients = { "10.8.0.0/24", "fd08::/64" }

-- How many questions an address may ask in a second; above, the answer is REFUSED.
queries_per_second = 500

-- What dnsdist shows to hosts, and whose signature it wants from nodes. make-certificates.sh makes all of it for a lab.
certificate = "/etc/dnsdist/tls/cluster.pem"
key = "/etc/dnsdist/tls/cluster.key"
nodes_authority = "/etc/dnsdist/tls/ca.pem"
-- How often the first two are read anew, in seconds.
certificates_every = 600

-- The nodes. name: also that of the certificate. id: any UUID, written once: it decides which names a node is asked for, so
-- it stays when the address changes. weight: its share, relative to the others; not below 100, or the shares are uneven.
nodes = {
  { name = "node-1", id = "6f1e1c6a-0d3c-4c53-9d5e-000000000001", address = "10.9.0.11:853", weight = 100 },
  { name = "node-2", id = "6f1e1c6a-0d3c-4c53-9d5e-000000000002", address = "10.9.0.12:853", weight = 100 },
}

-- One JSON object a line for every question. It is opened anew every second, so logrotate need not tell anybody.
audit_log = "/var/log/dnsdist/audit.ndjson"

-- Latency by region and node and what else this cluster counts, written every second for node_exporter's textfile collector.
metrics_file = "/run/dnsdist/resolver-cluster.prom"
