//! Ten thousand questions, none of which is lost or leaves off the tunnel.

use std::net::UdpSocket;
use std::time::Duration;

use leakguard::lab::WHO_NAME;
use leakguard_tests::{Bench, Place, connect};

use crate::message::{is_from_tunnel, question};
use crate::{ASKED, asked, assert_silence, bench, questions_outside, redirect};

const SOCKETS: usize = 100;
const ROUNDS: usize = 100;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sockets of both families, half of each connected.
struct Flood {
    sockets: Vec<(UdpSocket, usize, bool)>,
}

impl Flood {
    fn new(bench: &Bench) -> Self {
        let origin = bench.origin(Place::Host);
        let sockets = (0..SOCKETS).map(|number| {
            let (family, connected) = (number % 2, number % 4 < 2);
            let socket = origin.udp(ASKED[family]);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            if connected {
                connect(&socket, asked(family)).unwrap();
            }
            (socket, family, connected)
        });
        Self {
            sockets: sockets.collect(),
        }
    }

    /// Each socket asks once.
    fn send(&self) -> Vec<Vec<u8>> {
        let questions = self.sockets.iter().map(|(socket, family, connected)| {
            let question = question(WHO_NAME);
            let sent = if *connected {
                socket.send(&question)
            } else {
                socket.send_to(&question, asked(*family))
            };
            assert_eq!(sent.unwrap(), question.len());
            question
        });
        questions.collect()
    }

    /// How many have their answer, from whom they have asked.
    fn receive(&self, questions: &[Vec<u8>]) -> usize {
        let mut answer = [0; 512];
        let answered =
            self.sockets
                .iter()
                .zip(questions)
                .filter(|((socket, family, _), question)| {
                    socket.recv_from(&mut answer).is_ok_and(|(length, from)| {
                        from == asked(*family) && is_from_tunnel(&answer[..length], question)
                    })
                });
        answered.count()
    }
}

/// Asks ten thousand times, and does something in the middle.
fn flood(bench: &mut Bench, half_way: impl FnOnce(&mut Bench)) {
    let control = Flood::new(bench);
    questions_outside(bench);
    let sent = control.send().len();
    let seen = questions_outside(bench).into_iter();
    let seen = seen.filter(|(frame, _)| ASKED.contains(&frame.destination.ip()));
    assert_eq!(
        seen.count(),
        sent,
        "control: each is seen without leakguard"
    );

    redirect(bench, &[]);
    questions_outside(bench);
    let flood = Flood::new(bench);
    let mut half_way = Some(half_way);
    let mut answered = 0;
    for round in 0..ROUNDS {
        let questions = flood.send();
        if round == ROUNDS / 2 {
            // While the questions of this round are on their way.
            half_way.take().unwrap()(bench);
        }
        answered += flood.receive(&questions);
        assert_eq!(answered, (round + 1) * SOCKETS, "in round {round}");
    }
    assert_silence(bench);
}

#[test]
fn no_question_of_ten_thousand_is_lost_or_seen_outside() {
    flood(&mut bench(), |_| ());
}

#[test]
fn no_question_of_ten_thousand_is_lost_or_seen_outside_when_the_agent_is_killed() {
    let mut bench = bench();
    flood(&mut bench, |bench| {
        bench.agent().kill9().unwrap();
    });
    // Those who begin to ask only now are answered too.
    let flood = Flood::new(&bench);
    assert_eq!(flood.receive(&flood.send()), SOCKETS);
    assert_silence(&mut bench);
}
