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
    let mut activity = Activity::default();
    let mut request = None;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let records = broker.figures().iter().map(|shard| shard.records_total).sum();
        if !activity.look(records) {
            request = None;
        } else if request.is_none() {
            match no_sleep(Path::new(REQUESTS)) {
                Ok(file) => request = Some(file),
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
