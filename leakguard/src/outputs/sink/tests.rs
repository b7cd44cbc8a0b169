use std::sync::Mutex;

use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;

/// A sink that does what a test says.
struct Scripted {
    /// What becomes of each attempt: how many events are written; `None`: it fails.
    script: Box<dyn FnMut(usize) -> Option<usize>>,
    written: Arc<Mutex<Vec<u64>>>,
}

impl Sink for Scripted {
    const OUTPUT: Output = Output::Otlp;
    const ATTEMPTS: Option<u32> = Some(3);

    fn target(&self) -> String {
        "test".to_owned()
    }

    async fn write(&mut self, events: &[Arc<Published>]) -> Written {
        let done = (self.script)(events.len());
        let count = done.unwrap_or_default().min(events.len());
        let mut written = self.written.lock().unwrap();
        written.extend(events[..count].iter().map(|event| event.seq()));
        Written {
            events: count,
            error: (count < events.len())
                .then(|| OutputError::Journal(std::io::ErrorKind::StorageFull.into())),
        }
    }
}

/// A sink that runs, and what it is given.
struct Bench {
    feed: broadcast::Sender<Arc<Published>>,
    orders: watch::Sender<Orders>,
    notices: mpsc::Receiver<Notice>,
    tally: crate::outputs::Tally,
    written: Arc<Mutex<Vec<u64>>>,
    next: u64,
}

impl Bench {
    fn start(capacity: usize, script: impl FnMut(usize) -> Option<usize> + 'static) -> Self {
        let (feed, events) = broadcast::channel(capacity);
        let (orders, ordered) = watch::channel(Orders::default());
        let (told, notices) = mpsc::channel(8);
        let tally = crate::outputs::Tally::default();
        let counter = tally.counter(Output::Otlp);
        counter.activate();
        let written = Arc::<Mutex<Vec<u64>>>::default();
        let sink = Scripted {
            script: Box::new(script),
            written: Arc::clone(&written),
        };
        let channels = Channels {
            events,
            orders: ordered,
            notices: told,
            counter,
        };
        tokio::task::spawn_local(run(sink, channels));
        Self {
            feed,
            orders,
            notices,
            tally,
            written,
            next: 1,
        }
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            let seq = self.next;
            self.next += 1;
            let mut notice = Notice::new(NoticeKind::Level, "", "", "");
            notice.seq = seq;
            let event = Published::notice(notice);
            self.feed.send(Arc::new(event)).unwrap();
        }
    }

    /// Delivered, lagged, failed.
    fn counts(&self) -> (u64, u64, u64) {
        let report = self.tally.report()["otlp"];
        (report.delivered, report.lagged, report.failed)
    }

    async fn await_counted(&self, total: u64) {
        let counted = async {
            while {
                let (delivered, lagged, failed) = self.counts();
                delivered + lagged + failed < total
            } {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(Duration::from_secs(20), counted).await;
        assert!(waited.is_ok(), "{:?}", self.counts());
    }
}

/// Runs a test as an output's thread runs.
fn on_a_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn everything_is_written_once_and_in_order_whatever_fits_at_a_time() {
    on_a_thread(async {
        let mut bench = Bench::start(4096, Some);
        bench.publish(1000);
        bench.await_counted(1000).await;
        assert_eq!(bench.counts(), (1000, 0, 0));
        let numbers: Vec<u64> = (1..=1000).collect();
        assert_eq!(*bench.written.lock().unwrap(), numbers);
        assert!(bench.notices.try_recv().is_err(), "nothing to tell");
    });
}

#[test]
fn what_fails_for_a_while_is_kept_and_told_once() {
    on_a_thread(async {
        let mut attempts = 0;
        let mut bench = Bench::start(4096, move |offered| {
            attempts += 1;
            // Part of it, nothing, and then everything.
            match attempts {
                1 => Some(10),
                2 => None,
                _ => Some(offered),
            }
        });
        bench.publish(300);
        bench.await_counted(300).await;
        assert_eq!(bench.counts(), (300, 0, 0));
        let first = bench.notices.recv().await.unwrap();
        assert!(
            first.message.starts_with("events are not written: "),
            "{}",
            first.message
        );
        let second = bench.notices.recv().await.unwrap();
        assert_eq!(second.message, "events are written again; 0 were lost");
        assert!(bench.notices.try_recv().is_err());
    });
}

#[test]
fn what_comes_while_nothing_can_be_written_is_counted_as_failed_and_exactly() {
    on_a_thread(async {
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let state = Arc::clone(&broken);
        let mut bench = Bench::start(64, move |offered| {
            let broken = state.load(std::sync::atomic::Ordering::Relaxed);
            (!broken).then_some(offered)
        });
        bench.publish(10);
        bench.notices.recv().await.unwrap();
        for _ in 0..20 {
            bench.publish(50);
            tokio::task::yield_now().await;
        }
        broken.store(false, std::sync::atomic::Ordering::Relaxed);
        bench.await_counted(1010).await;
        let (delivered, lagged, failed) = bench.counts();
        assert_eq!((delivered + failed, lagged), (1010, 0));
        assert!(failed > 0, "control: more came than is kept");
        let told = bench.notices.recv().await.unwrap();
        assert_eq!(
            told.message,
            format!("events are written again; {failed} were lost")
        );
    });
}

#[test]
fn who_is_too_slow_is_told_what_was_missed() {
    on_a_thread(async {
        let mut bench = Bench::start(64, Some);
        // All at once, before the sink has its turn.
        bench.publish(1000);
        bench.await_counted(1000).await;
        assert_eq!(bench.counts(), (64, 936, 0));
        let told = bench.notices.recv().await.unwrap();
        assert_eq!(told.message, "events came too fast; 936 were lost");
    });
}

#[test]
fn what_is_refused_for_ever_does_not_hold_up_the_rest() {
    on_a_thread(async {
        let mut attempts = 0;
        let mut bench = Bench::start(4096, move |offered| {
            attempts += 1;
            (attempts > 3).then_some(offered)
        });
        bench.publish(5);
        bench.await_counted(5).await;
        assert_eq!(bench.counts(), (0, 0, 5), "given up after the third time");
        bench.publish(7);
        bench.await_counted(12).await;
        assert_eq!(bench.counts(), (7, 0, 5));
    });
}

#[test]
fn at_the_end_what_is_left_is_written_or_counted() {
    on_a_thread(async {
        for (works, expected) in [(true, (700, 0, 0)), (false, (0, 0, 700))] {
            let mut bench = Bench::start(4096, move |offered| works.then_some(offered));
            bench.publish(700);
            bench.orders.send_modify(|orders| orders.stop = true);
            bench.await_counted(700).await;
            assert_eq!(bench.counts(), expected);
        }
    });
}
