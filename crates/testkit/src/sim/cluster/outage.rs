//! The bucket away for minutes, in some runs, while the cluster goes on without.

use std::time::Duration;

use super::super::bucket::Weather;
use super::super::world::in_middle_third;
use super::faults::Fault;
use super::{ClusterWorld, Lasting};

/// One seed in so many sees it; none of the first few, which are run most.
const EVERY: u64 = 8;
const AT: u64 = 5;

impl ClusterWorld {
    /// When the bucket goes away for minutes, if it does in this run.
    pub(super) fn draw_outage(&mut self) -> Option<Duration> {
        (self.seed % EVERY == AT).then(|| in_middle_third(self.duration, &mut self.random))
    }

    /// Nobody's patience lasts until the bucket is back. Whatever else befalls a cluster does meanwhile.
    pub(super) async fn lose_bucket(&mut self) {
        self.be_quiet().await;
        let (begun, refused) = (self.trace.elapsed(), self.trace.counts().refused_full);
        let outage = Fault::outage(&mut self.random);
        self.strike(outage).await;
        while self.bucket.weather() != Weather::Fair && self.history.is_sound() {
            let pause = Duration::from_millis(self.random.within(20..10_000));
            self.pass(pause).await;
            if self.lacks_bucket_only() {
                self.be_led().await;
                self.be_served().await;
            }
            let fault = Fault::draw(&mut self.random);
            if fault.1.is_mild() {
                self.strike(fault).await;
            }
        }
        let outage = self.trace.elapsed() - begun;
        self.duration += outage;
        let refused = self.trace.counts().refused_full - refused;
        self.trace.count(|counts| {
            counts.outage = counts.outage.max(outage);
            counts.refused_in_outage += refused;
        });
    }

    fn lacks_bucket_only(&self) -> bool {
        let is_drained = |(_, it): &(_, _)| matches!(it, Lasting::Drained(_));
        !self.is_ill() && !self.lasting.iter().any(is_drained)
    }
}
