//! The `AsyncRuntime` openraft runs on: tokio, with three differences that a simulation needs.
//! Randomness comes from a task-local seed where one is set, watches wake their waiters in the
//! order of their waiting (`crate::watch`), and a sleep too short for tokio's timer is no sleep.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures::future::Either;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::watch::FifoWatch;

tokio::task_local! {
    /// State of the running task's seed sequence; absent outside [`seeded`].
    static SEED: Cell<u64>;
}

/// Runs `future` with all randomness of the Raft tasks started in it derived from `seed`, so that a
/// simulation on one thread and paused time takes the same course each time. Tasks spawned by those
/// tasks inherit a seed of their own.
pub async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
    SEED.scope(Cell::new(seed), future).await
}

/// `future` with a seed drawn from that of the task that calls this, if it has one: for a task of its
/// own that starts Raft replicas.
pub fn inheriting<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let seed = next_seed();
    async move {
        match seed {
            Some(seed) => seeded(seed, future).await,
            None => future.await,
        }
    }
}

/// The next value of the running task's seed sequence (SplitMix64), if it has one.
fn next_seed() -> Option<u64> {
    SEED.try_with(|state| {
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let z = state.get();
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
    .ok()
}

/// Sleeps below this are over at once. tokio's timer has a granularity of 1 ms, and openraft asks
/// for 1 µs to batch two flush completions that follow each other closely: rounding that up to 1 ms
/// would cost a commit more than everything else together.
const SHORTEST_SLEEP: Duration = Duration::from_micros(500);

/// openraft's runtime; see the module documentation.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Either<std::future::Ready<()>, <TokioRuntime as AsyncRuntime>::Sleep>;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = TokioMpsc;
    type Watch = FifoWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match next_seed() {
            Some(seed) => TokioRuntime::spawn(SEED.scope(Cell::new(seed), future)),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        if duration < SHORTEST_SLEEP {
            Either::Left(std::future::ready(()))
        } else {
            Either::Right(TokioRuntime::sleep(duration))
        }
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let now = <TokioInstant as openraft::Instant>::now();
        if deadline < now + SHORTEST_SLEEP {
            Either::Left(std::future::ready(()))
        } else {
            Either::Right(TokioRuntime::sleep_until(deadline))
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        // A `RandomState` is keyed from the operating system: enough to spread elections.
        let seed = next_seed().unwrap_or_else(|| RandomState::new().hash_one(0));
        SmallRng::seed_from_u64(seed)
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::testing::Suite;
    use rand::Rng;

    use super::*;

    #[test]
    fn openraft_accepts_the_runtime() {
        Suite::<Runtime>::test_all();
    }

    async fn draws() -> Vec<u64> {
        let child = Runtime::spawn(async { Runtime::thread_rng().next_u64() });
        vec![Runtime::thread_rng().next_u64(), child.await.expect("no panic")]
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_randomness_to_a_task_and_its_children() {
        let first = seeded(7, draws()).await;
        assert_eq!(first, seeded(7, draws()).await);
        assert_ne!(first, seeded(8, draws()).await);
        assert_ne!(first[0], first[1]);
        assert_ne!(draws().await, draws().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_below_the_timer_granularity_takes_no_time() {
        let start = tokio::time::Instant::now();
        Runtime::sleep(Duration::from_micros(1)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        Runtime::sleep(Duration::from_millis(3)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(3));
    }
}
