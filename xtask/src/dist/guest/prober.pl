# Asks for a name all the time, by UDP over IPv4 and IPv6 and by TCP. Whom it asks says in which phase it was; the phase is read
# from a file, and taken note of in another one. At its end it says how much it has sent, and how much of it was refused.
use strict;
use warnings;
use Socket qw(:DEFAULT SOCK_NONBLOCK inet_pton pack_sockaddr_in6);

my ($wanted, $noted, $counts) = @ARGV;
my $question = "\0\1\1\0\0\1\0\0\0\0\0\0\1a\5probe\4test\0\0\1\0\1";
my ($phase, %sent, %refused) = (0);

sub count { my ($done) = @_; $sent{$phase}++; $refused{$phase}++ unless $done }

sub ask {
    my ($family, $to) = @_;
    socket(my $socket, $family, SOCK_DGRAM, 0) or die "socket: $!";
    count(defined send($socket, $question, 0, $to));
}

my $done = 0;
$SIG{TERM} = sub { $done = 1 };
until ($done) {
    open(my $file, '<', $wanted) or die "$wanted: $!";
    my $now = <$file>;
    close $file;
    if (defined $now && $now =~ /^(\d+)$/ && $1 != $phase) {
        $phase = $1;
        open($file, '>', "$noted.new") or die "$noted: $!";
        print $file "$phase\n";
        close $file;
        rename "$noted.new", $noted;
    }
    my $four = pack_sockaddr_in(53, inet_pton(AF_INET, "198.51.100.$phase"));
    ask(AF_INET, $four);
    ask(AF_INET6, pack_sockaddr_in6(53, inet_pton(AF_INET6, "2001:db8:53::$phase")));
    # Of a connection only the first packet is wanted, so nobody waits for an answer.
    socket(my $socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!";
    connect($socket, $four);
    select(undef, undef, undef, 0.002);
}
open(my $file, '>', $counts) or die "$counts: $!";
printf $file "%d %d %d\n", $_, $sent{$_}, $refused{$_} // 0 for sort keys %sent;
close $file;
