# Asks for names in every way that is blocked, from before any network to power-off.
use strict;
use warnings;
use Socket;

# The name `a`, as a question for its address.
my $question = "\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1";
my $isp4     = '192.168.79.1';
my $isp6     = 'fd79::1';

sub target {
    my ($address, $port) = @_;
    return $address =~ /:/
        ? (AF_INET6, pack_sockaddr_in6($port, Socket::inet_pton(AF_INET6, $address)))
        : (AF_INET, pack_sockaddr_in($port, inet_aton($address)));
}

while (1) {
    for my $port (53, 853, 137) {
        for my $address ($isp4, $isp6) {
            my ($family, $to) = target($address, $port);
            # A new socket each time: nothing that was set up before counts.
            socket(my $udp, $family, SOCK_DGRAM, 0) and send($udp, $question, 0, $to);
        }
    }
    for (['224.0.0.251', 5353], ['224.0.0.252', 5355]) {
        my ($family, $to) = target(@$_);
        socket(my $udp, $family, SOCK_DGRAM, 0) and send($udp, $question, 0, $to);
    }
    for my $port (53, 853) {
        my ($family, $to) = target($isp4, $port);
        # Only the first packet of a connection is wanted, so nobody waits for an answer.
        socket(my $tcp, $family, SOCK_STREAM | SOCK_NONBLOCK, 0) and connect($tcp, $to);
    }
    socket(my $raw, AF_INET, SOCK_RAW, IPPROTO_UDP)
        and send($raw, pack('n4', 40000, 53, 8 + length $question, 0) . $question, 0, (target($isp4, 53))[1]);
    select(undef, undef, undef, 0.005);
}
