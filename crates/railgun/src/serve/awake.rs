//! Keeps the processors awake while records come (`cpu.keep_awake`).
//!
//! A record that comes alone passes through several threads, and waking a processor for each can cost
//! more than the disk. The request is Linux's "PM QoS": as long as the file is open, no processor
//! enters a state that takes longer to leave than the number written to it, in µs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::Broker;
use tokio::time::{MissedTickBehavior, interval};

/// Where the kernel takes requests.
const REQUESTS: &str = "/dev/cpu_dma_latency";
/// How often the node looks whether records came.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks without a new record after which the processors may sleep.
const QUIET_LOOKS: u32 = 8;

/// Holds the processors awake while the broker appends records, until dropped. Ends, with a warning,
/// where the machine does not allow it: that costs latency and nothing else.
pub(super) async fn while_records_come(broker: Arc<Broker>) {
    let records = || broker.figures().iter().map(|shard| shard.records_total).sum();
    while_growing(records, || no_sleep(Path::new(REQUESTS))).await;
}

/// Holds what `request` makes while the number of records grows.
async fn while_growing<R>(records: impl Fn() -> u64, request: impl Fn() -> io::Result<R>) {
    let mut activity = Activity::default();
    let mut held = None;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if !activity.look(records()) {
            held = None;
        } else if held.is_none() {
            match request() {
                Ok(request) => held = Some(request),
                Err(error) => {
                    tracing::warn!(
                        "cpu.keep_awake is without effect: {REQUESTS}: {error}; let the user of this process write to it"
                    );
                    return;
                }
            }
        }
    }
}

/// Asks for no sleep at all, for as long as the file is kept.
fn no_sleep(requests: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(requests)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// Whether records came lately.
#[derive(Debug, Default)]
struct Activity {
    records: u64,
    quiet_looks: u32,
    busy: bool,
}

impl Activity {
    /// Takes the number of records so far.
    fn look(&mut self, records: u64) -> bool {
        if records == self.records {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            self.busy &= self.quiet_looks < QUIET_LOOKS;
        } else {
            *self = Self { records, quiet_looks: 0, busy: true };
        }
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_processors_sleep_again_when_no_record_came_for_a_while() {
        let mut activity = Activity::default();
        assert!(!activity.look(0), "nothing came yet");
        assert!(activity.look(5));
        for _ in 1..QUIET_LOOKS {
            assert!(activity.look(5));
        }
        assert!(!activity.look(5));
        assert!(!activity.look(5));
        assert!(activity.look(6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_request_is_held_from_the_first_record_until_a_while_after_the_last() {
        let records = Cell::new(0);
        let made = Cell::new(0);
        let alive = Rc::new(());
        let request = || {
            made.set(made.get() + 1);
            Ok(Rc::clone(&alive))
        };
        let held = || Rc::strong_count(&alive) > 1;
        let acts = async {
            let look = |looks: u32| tokio::time::sleep(LOOK_EVERY * looks);
            // Between two looks.
            tokio::time::sleep(LOOK_EVERY / 2).await;
            assert!(!held(), "nothing came");
            for _ in 0..2 {
                for _ in 0..3 {
                    records.set(records.get() + 1);
                    look(1).await;
                    assert!(held());
                }
                look(QUIET_LOOKS - 1).await;
                assert!(held(), "a pause");
                look(1).await;
                assert!(!held(), "a longer one");
            }
        };
        tokio::select! {
            () = while_growing(|| records.get(), request) => unreachable!("it is allowed"),
            () = acts => {}
        }
        assert_eq!(made.get(), 2);

        let refused = || Err::<(), _>(io::ErrorKind::PermissionDenied.into());
        while_growing(|| records.get(), refused).await;
    }

    #[test]
    fn the_request_is_a_zero_of_32_bits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests");
        std::fs::write(&path, [0xff; 4]).unwrap();
        no_sleep(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 4]);
        let error = no_sleep(&dir.path().join("absent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "nothing is created");
    }
}
