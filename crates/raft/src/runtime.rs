//! The `AsyncRuntime` openraft runs on: tokio, with four differences. Two are for simulations: randomness
//! comes from a task-local seed where one is set, and watches wake their waiters in the order of their
//! waiting (`crate::watch`). A sleep too short for tokio's timer is no sleep. And the ticks of all shards
//! come together, so that a node with many of them that has nothing to do is seldom woken.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use futures::future::Either;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::shard::TICK;
use crate::watch::FifoWatch;

tokio::task_local! {
    /// Absent outside [`seeded`].
    static SEEDED: Seeded;
}

/// What makes the course of a task the same each time.
struct Seeded {
    /// State of the task's seed sequence.
    state: Cell<u64>,
    /// Where the grid of ticks begins.
    grid: TokioInstant,
}

/// Runs `future` with all randomness of the Raft tasks started in it derived from `seed`, so that a
/// simulation on one thread and paused time takes the same course each time. Tasks spawned by those
/// tasks inherit a seed of their own.
pub async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
    // Of each of several nodes in a simulation another one.
    let phase = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % GRID.as_nanos() as u64;
    let grid = <TokioInstant as openraft::Instant>::now() + Duration::from_nanos(phase);
    SEEDED.scope(Seeded { state: Cell::new(seed), grid }, future).await
}

/// `future` with a seed drawn from that of the task that calls this, if it has one: for a task of its
/// own that starts Raft replicas.
pub fn inheriting<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let child = next_child();
    async move {
        match child {
            Some(child) => SEEDED.scope(child, future).await,
            None => future.await,
        }
    }
}

/// What a task is to have that the running one spawns.
fn next_child() -> Option<Seeded> {
    let state = Cell::new(next_seed()?);
    SEEDED.try_with(|seeded| Seeded { state, grid: seeded.grid }).ok()
}

/// The next value of the running task's seed sequence (SplitMix64), if it has one.
fn next_seed() -> Option<u64> {
    SEEDED
        .try_with(|Seeded { state, .. }| {
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

/// Sleeps until a certain time, which only the tickers of openraft ask for besides that, last until the
/// next line of a grid that all of a process share: each ticker begins at a random time, and what is to
/// be done at ticks would wake the process for each shard on its own. Half a tick, so that the next one
/// is never due when one was late by the grid.
const GRID: Duration = Duration::from_nanos(TICK.as_nanos() as u64 / 2);

/// Where the grid begins.
static GRID_BEGIN: LazyLock<TokioInstant> = LazyLock::new(<TokioInstant as openraft::Instant>::now);

/// The first line of the grid that is not before `deadline`.
fn on_grid(deadline: TokioInstant) -> TokioInstant {
    let begin = SEEDED.try_with(|seeded| seeded.grid).unwrap_or_else(|_| *GRID_BEGIN);
    if deadline < begin {
        return deadline;
    }
    match (deadline - begin).as_nanos() % GRID.as_nanos() {
        0 => deadline,
        beyond => deadline + (GRID - Duration::from_nanos(beyond as u64)),
    }
}

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
        match next_child() {
            Some(child) => TokioRuntime::spawn(SEEDED.scope(child, future)),
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
            Either::Right(TokioRuntime::sleep_until(on_grid(deadline)))
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
    use std::collections::BTreeSet;

    use futures::future::join_all;
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

    /// When tickers wake that begin at these times.
    async fn wakes(begins_ms: &[u64]) -> BTreeSet<TokioInstant> {
        let ticker = async |begin: &u64| {
            tokio::time::sleep(Duration::from_millis(*begin)).await;
            let begin = <TokioInstant as openraft::Instant>::now();
            let mut woken = BTreeSet::new();
            for tick in 1..=50 {
                let deadline = begin + TICK * tick;
                Runtime::sleep_until(deadline).await;
                let now = <TokioInstant as openraft::Instant>::now();
                assert!(now >= deadline && now < deadline + GRID + Duration::from_millis(1));
                woken.insert(now);
            }
            woken
        };
        join_all(begins_ms.iter().map(ticker)).await.into_iter().flatten().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn tickers_of_a_process_wake_it_together() {
        let begins = [0, 3, 7, 11, 16, 19, 22, 30, 37];
        let together = seeded(7, wakes(&begins)).await;
        // Each half of a tick, whoever they are.
        assert!(together.len() <= 103, "{} times", together.len());
    }
}
