use std::io::Write as _;

use tokio::net::UnixStream;

use super::*;
use crate::daemon::{Form, Printer};
use crate::event::{Notice, NoticeKind, judged};

fn event(seq: u64) -> Arc<Published> {
    let mut notice = Notice::new(NoticeKind::Repair, "tc", "eth0", "x".repeat(200));
    notice.seq = seq;
    Arc::new(Published::notice(notice))
}

/// A hub that takes events whoever is there.
fn open_hub() -> Hub {
    let hub = Hub::new();
    hub.open.send_replace(true);
    hub
}

fn follower(packets: bool) -> (UnixStream, Follower) {
    let (near, far) = UnixStream::pair().unwrap();
    let (receive, send) = far.into_split();
    (near, Follower::new(receive, send, packets))
}

async fn read_all(mut client: UnixStream) -> Vec<serde_json::Value> {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn recent_events_come_in_order_and_once() {
    let hub = open_hub();
    for seq in 1..=100 {
        hub.publish(event(seq));
    }
    let (client, follower) = follower(false);
    let health = Health::default();
    let ((), lines) = tokio::join!(follower.serve(&hub, false, &health), read_all(client));
    let sequence: Vec<_> = lines.iter().map(|line| line["seq"].as_u64()).collect();
    assert_eq!(sequence, (1..=100).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_pushed_out_before_it_was_read_counts_as_missed() {
    let hub = open_hub();
    let (mut before, _live, _place) = {
        for seq in 1..=10 {
            hub.publish(event(seq));
        }
        hub.subscribe()
    };
    for seq in 11..=RECENT as u64 + 4 {
        hub.publish(event(seq));
    }
    let items = hub.next(&mut before);
    assert!(matches!(items[0], Item::Missed(4)), "{:?}", items[0]);
    assert_eq!(items.len(), 1 + 6);
    assert!(hub.next(&mut before).is_empty());
}

#[tokio::test]
async fn packets_come_when_they_are_asked_for() {
    let hub = open_hub();
    let packet = Arc::new(Published::packet(judged()));
    hub.publish(Arc::clone(&packet));
    let (client, follower) = follower(true);
    let health = Health::default();
    let ((), lines) = tokio::join!(follower.serve(&hub, false, &health), read_all(client));
    assert_eq!(lines[0]["event"]["seq"], packet.seq());
    assert_eq!(lines[0]["packet"], BASE64.encode(packet.copied()));
    assert!(!packet.copied().is_empty());
}

/// The clock goes on by itself once nothing else does.
#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_dropped_in_the_end_and_costs_little_until_then() {
    let hub = open_hub();
    let health = Health::default();
    let (client, follower) = follower(false);
    let started = tokio::time::Instant::now();
    let flood = async {
        for seq in 1..=20_000 {
            hub.publish(event(seq));
            if seq % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::join!(follower.serve(&hub, true, &health), flood);
    let elapsed = started.elapsed();
    assert!(
        elapsed >= STALL_LIMIT && elapsed < 2 * STALL_LIMIT,
        "{elapsed:?}"
    );
    assert_eq!(health.report().clients.dropped, 1);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_what_it_missed_and_stays() {
    let hub = open_hub();
    let health = Health::default();
    let (mut client, follower) = follower(false);
    let published = 40 * (999 + 5);
    let reading = async {
        let (mut seen, mut missed) = (0, 0);
        let mut lines = tokio::io::BufReader::new(&mut client);
        let mut line = String::new();
        while seen + missed < published {
            line.clear();
            tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line)
                .await
                .unwrap();
            if seen % 1000 == 0 {
                sleep(STALL_LIMIT / 2).await;
            }
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            match line["missed"]["events"].as_u64() {
                Some(events) => missed += events,
                None => seen += 1,
            }
        }
        missed
    };
    let flood = async {
        for seq in 1..=40_000 {
            // Some are missed by the hub already: also where the client misses what would say so.
            if seq % 1000 == 501 {
                hub.miss(5);
            } else {
                hub.publish(event(seq));
            }
            if seq % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        () = follower.serve(&hub, true, &health) => unreachable!("it reads"),
        (missed, ()) = async { tokio::join!(reading, flood) } => {
            assert!(missed > 0, "it was fast enough, so this shows nothing");
        }
    }
    assert_eq!(health.report().clients.dropped, 0);
}

#[tokio::test]
async fn one_that_goes_is_noticed_without_an_event_and_one_that_only_falls_silent_stays() {
    let hub = open_hub();
    let health = Health::default();
    let (client, gone) = follower(false);
    drop(client);
    timeout(Duration::from_secs(10), gone.serve(&hub, true, &health))
        .await
        .unwrap();

    let (client, quiet) = follower(false);
    let mut client = client.into_std().unwrap();
    client.write_all(b"and more").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let client = UnixStream::from_std(client).unwrap();
    let reading = async {
        let mut byte = [0; 1];
        let mut client = client;
        sleep(Duration::from_millis(50)).await;
        hub.publish(event(1));
        client.read_exact(&mut byte).await.unwrap();
    };
    tokio::select! {
        () = quiet.serve(&hub, true, &health) => unreachable!("it listens"),
        () = reading => {}
    }
}

#[tokio::test]
async fn events_are_taken_only_while_there_are_clients_and_none_is_left_out() {
    let feed = Feed::new(Printer::start(Form::Text).unwrap());
    let notify = || feed.notify(Notice::new(NoticeKind::Repair, "tc", "eth0", "x"));
    let hub = Hub::new();
    let health = Health::default();
    let working = async {
        notify();
        for round in 1..=3 {
            let (client, follower) = follower(false);
            let ((), lines) = tokio::join!(follower.serve(&hub, false, &health), read_all(client));
            assert_eq!(lines.len(), round, "with those from before it came");
            while feed.listeners() > 0 {
                tokio::task::yield_now().await;
            }
            notify();
        }
    };
    tokio::select! {
        () = hub.run(&feed) => unreachable!("there may be more events"),
        () = working => {}
    }
}
