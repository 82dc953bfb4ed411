//! The machine beside a naive server: whatever is answered, lost and waited for, and whatever handles
//! come and go, every message ends in exactly one outcome, and that is what the server's log says
//! (PS-3, PQ-1); and a stream that nobody holds is given up.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use railgun_types::ErrorCode;
use railgun_types::batch::RecordBatch;

use super::*;

const GIVE_UP: Duration = Duration::from_secs(10);
/// Longer than any patience.
const EVER: Duration = Duration::from_secs(365 * 24 * 3_600);
const LANES: usize = 2;
/// Handles of one stream at a time.
const HANDLES_MAX: usize = 2;
/// Rounds in which a server that behaves must have brought everything to an end.
const ROUNDS_MAX: usize = 100;

/// What happens to the publisher.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        lane: usize,
        large: bool,
    },
    /// The machine is asked for frames until it has none.
    Send,
    /// The server takes a frame, and says this of each of its batches.
    Serve(Verdict, Verdict),
    /// The client reads an answer.
    Hear,
    /// The connection is lost. Of the frames that the server has not taken, copies may come late.
    Cut {
        copies: bool,
    },
    /// The connection is lost, and no other came in time.
    Outage,
    /// A frame of a lost connection reaches the log.
    Late,
    Wait {
        ms: u64,
    },
    Resume {
        lane: usize,
    },
    /// A handle of the stream is made.
    Take {
        lane: usize,
    },
    /// The last one that was made is dropped.
    Drop {
        lane: usize,
    },
    /// What the server says from now on when it is asked to bind.
    Bind(Binds),
    /// Whether the server notes from now on what was refused on the connection.
    Note(bool),
}

#[derive(Clone, Copy, Debug)]
enum Binds {
    Done,
    Starting,
    Silence,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// What the log says.
    Append,
    /// The log says something, and the answer is lost on the way.
    AppendUnheard,
    /// Not appended yet, and not known to the client either.
    Unknown,
    /// Refused before the log, for now or for good.
    Busy,
    NotLeader,
    NoLeader,
    Invalid,
    /// The log takes the first of them, and refuses the others for good (PS-2).
    Partly,
}

impl Verdict {
    /// What it is where nothing fails for good.
    fn tempered(self) -> Self {
        if matches!(self, Self::Invalid | Self::Partly) { Self::NotLeader } else { self }
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::Append),
        1 => Just(Verdict::AppendUnheard),
        1 => Just(Verdict::Unknown),
        1 => Just(Verdict::Busy),
        1 => Just(Verdict::NotLeader),
        1 => Just(Verdict::NoLeader),
        1 => Just(Verdict::Invalid),
        1 => Just(Verdict::Partly),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let lane = 0..LANES;
    prop_oneof![
        6 => (lane.clone(), any::<bool>()).prop_map(|(lane, large)| Step::Push { lane, large }),
        6 => Just(Step::Send),
        5 => (verdict(), verdict()).prop_map(|(a, b)| Step::Serve(a, b)),
        5 => Just(Step::Hear),
        2 => any::<bool>().prop_map(|copies| Step::Cut { copies }),
        1 => Just(Step::Outage),
        1 => Just(Step::Late),
        2 => (1_u64..6_000).prop_map(|ms| Step::Wait { ms }),
        1 => lane.clone().prop_map(|lane| Step::Resume { lane }),
        2 => lane.clone().prop_map(|lane| Step::Take { lane }),
        2 => lane.prop_map(|lane| Step::Drop { lane }),
        1 => Just(Step::Bind(Binds::Done)),
        1 => prop_oneof![Just(Binds::Starting), Just(Binds::Silence)].prop_map(Step::Bind),
        1 => any::<bool>().prop_map(Step::Note),
    ]
}

/// A batch as the server has it.
#[derive(Clone, Debug)]
struct Batch {
    producer: u32,
    lane: usize,
    sequence: u64,
    messages: Vec<u32>,
}

/// What the client has sent and the server has not taken.
#[derive(Clone, Debug)]
enum Request {
    Publish(Vec<Batch>),
    Unbind(Option<Forget>),
}

#[derive(Clone, Debug)]
enum Answer {
    Results(v1::PublishResult),
    Unbound(v1::StreamsUnbound),
}

/// A producer that is to be forgotten on these streams.
#[derive(Clone, Debug)]
struct Forget {
    producer: u32,
    lanes: Vec<usize>,
}

/// What reaches the log after its connection was lost.
#[derive(Clone, Debug)]
enum Late {
    Batch(Batch),
    Forget(Forget),
}

#[derive(Default)]
struct Producer {
    next: u64,
    /// First sequence and number of messages of what it sent, base offset and number of those appended.
    results: Vec<(u64, usize, u64, usize)>,
}

/// The rules of PQ-1, and a log for each stream.
#[derive(Default)]
struct Log {
    messages: [Vec<u32>; LANES],
    producers: BTreeMap<(u32, usize), Producer>,
}

impl Log {
    /// Appends at most so many messages of a batch. Where they are, and how many.
    fn append(&mut self, batch: &Batch, most: usize) -> Result<(u64, usize), WireError> {
        let key = (batch.producer, batch.lane);
        if !self.producers.contains_key(&key) && batch.sequence > 0 {
            return Err(WireError::new(ErrorCode::ProducerUnknown, ""));
        }
        let producer = self.producers.entry(key).or_default();
        let (first, count) = (batch.sequence, batch.messages.len());
        if first > producer.next {
            return Err(WireError::new(ErrorCode::SequenceGap, "").with_actual(producer.next));
        }
        if first < producer.next {
            let stored = producer.results.iter().find(|(s, n, ..)| (*s, *n) == (first, count));
            let (.., base, published) =
                stored.ok_or(WireError::new(ErrorCode::OutcomeUnknown, "forgotten"))?;
            return Ok((*base, *published));
        }
        let log = &mut self.messages[batch.lane];
        let base = log.len() as u64;
        let published = count.min(most);
        log.extend(&batch.messages[..published]);
        producer.next = first + published as u64;
        producer.results.push((first, count, base, published));
        Ok((base, published))
    }

    fn forget(&mut self, forget: &Forget) {
        for &lane in &forget.lanes {
            self.producers.remove(&(forget.producer, lane));
        }
    }

    fn late(&mut self, late: Late) {
        match late {
            Late::Batch(batch) => drop(self.append(&batch, usize::MAX)),
            Late::Forget(forget) => self.forget(&forget),
        }
    }
}

struct World {
    machine: Machine,
    now: Instant,
    handles: [Vec<LaneId>; LANES],
    out: Vec<Completion>,
    producer: u32,
    log: Log,
    /// The streams of this connection's aliases.
    aliases: BTreeMap<u32, usize>,
    /// Frames on this connection that the server has not taken, and its answers under way.
    sent: VecDeque<Request>,
    answers: VecDeque<Answer>,
    /// Streams whose last batch on this connection was refused (PS-2).
    broken: [bool; LANES],
    /// Whether the node of this connection notes them. If not, what is behind is judged by the log alone.
    notes: bool,
    late: VecDeque<Late>,
    binds: Binds,
    /// The slot of every message.
    taken: Vec<(usize, BatchOutcome, u32)>,
    permits: usize,
}

impl World {
    fn new(ordered: bool, give_up_after: Duration) -> Self {
        let on_duplicate = OnDuplicate::default();
        let settings =
            Settings { ordered, unanswered_max: 8, give_up_after, on_duplicate, seed: 7 };
        let mut machine = Machine::new(settings);
        machine.on_connected(64 << 20, 8);
        let mut world = Self {
            machine,
            now: Instant::now(),
            handles: Default::default(),
            out: Vec::new(),
            producer: 0,
            log: Log::default(),
            aliases: BTreeMap::new(),
            sent: VecDeque::new(),
            answers: VecDeque::new(),
            broken: [false; LANES],
            notes: true,
            late: VecDeque::new(),
            binds: Binds::Done,
            taken: Vec::new(),
            permits: 0,
        };
        (0..LANES).for_each(|lane| world.take(lane));
        world.send();
        world
    }

    fn take(&mut self, lane: usize) {
        if self.handles[lane].len() < HANDLES_MAX {
            let name = StreamName::new(&format!("s{lane}")).expect("a valid name");
            self.handles[lane].push(self.machine.add_lane(&name).expect("few streams"));
        }
    }

    fn drop_handle(&mut self, lane: usize) {
        if let Some(handle) = self.handles[lane].pop() {
            self.machine.release(handle);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { lane, large } => self.push(lane, large),
            Step::Send => self.send(),
            Step::Serve(a, b) => self.serve([a, b]),
            Step::Hear => self.hear(),
            Step::Cut { copies } => self.cut(copies),
            Step::Outage => {
                self.cut(true);
                self.machine.fail_all("no connection", &mut self.out);
            }
            Step::Late => {
                if let Some(late) = self.late.pop_front() {
                    self.log.late(late);
                }
            }
            Step::Wait { ms } => self.now += Duration::from_millis(ms),
            Step::Resume { lane } => {
                if let Some(&handle) = self.handles[lane].last() {
                    drop(self.machine.resume(handle));
                }
            }
            Step::Take { lane } => self.take(lane),
            Step::Drop { lane } => self.drop_handle(lane),
            Step::Bind(binds) => self.binds = binds,
            Step::Note(notes) => self.notes = notes,
        }
        self.tell();
        // As the driver does.
        if self.machine.answer_due().is_some_and(|due| due <= self.now) {
            self.cut(true);
            self.tell();
        }
    }

    fn push(&mut self, lane: usize, large: bool) {
        let Some(&handle) = self.handles[lane].last() else { return };
        let mut value = (self.taken.len() as u32).to_le_bytes().to_vec();
        if large {
            // One that is worth a frame, so that the window fills.
            value.resize(FRAME_BYTES_WORTH, 0);
        }
        let draft = RecordDraft { value: &value, ..RecordDraft::default() };
        let options = BatchOptions::default();
        let pushed = self.machine.push(handle, &draft, value.len() + 16, 1, options);
        if let Ok((outcome, index, _)) = pushed {
            self.taken.push((lane, outcome, index));
        }
    }

    fn send(&mut self) {
        loop {
            match self.machine.poll_transmit(self.now, &mut self.out) {
                Transmit::Bind(bind) => self.bind(&bind),
                Transmit::Unbind(unbind) => self.unbind(&unbind),
                Transmit::Publish(publish, blob) => {
                    let batches = self.read(&publish, blob);
                    self.sent.push_back(Request::Publish(batches));
                }
                Transmit::NewProducer => self.cut(false),
                Transmit::Close { forget } => {
                    if forget {
                        self.log.producers.retain(|(producer, _), _| *producer != self.producer);
                    }
                    return;
                }
                Transmit::Wait(_) => return,
            }
        }
    }

    fn bind(&mut self, bind: &v1::BindStream) {
        let alias = bind.alias;
        let lane = bind.stream[1..].parse::<usize>().expect("a number");
        let starting = WireError::new(ErrorCode::StreamStarting, "");
        let error = match self.binds {
            Binds::Done => {
                self.aliases.insert(alias, lane);
                self.broken[lane] = false;
                None
            }
            Binds::Starting => Some(starting.into()),
            Binds::Silence => return,
        };
        let bound = v1::StreamBound {
            alias,
            stream_uid: Bytes::copy_from_slice(&[lane as u8; 16]),
            message_bytes_max: 1 << 20,
            error,
            shard: 0,
        };
        self.machine.on_bound(bound, self.now, &mut self.out).expect("asked for");
    }

    fn unbind(&mut self, unbind: &v1::UnbindStreams) {
        // Nothing is sent to an alias behind this.
        let lanes = unbind.aliases.iter().map(|alias| self.aliases.remove(alias).expect("bound"));
        let (producer, lanes) = (self.producer, lanes.collect());
        let forget = unbind.forget.then_some(Forget { producer, lanes });
        self.sent.push_back(Request::Unbind(forget));
    }

    fn read(&self, publish: &v1::Publish, blob: Vec<Bytes>) -> Vec<Batch> {
        let mut blob = Bytes::from(blob.concat());
        let mut read = |item: &v1::PublishItem| {
            let batch = RecordBatch::verify(blob.split_to(item.batch_bytes as usize));
            let batch = batch.expect("a batch");
            let values = batch.records().map(|record| record.content().expect("content").value);
            let number = |value: &[u8]| u32::from_le_bytes(value[..4].try_into().expect("four"));
            Batch {
                producer: self.producer,
                lane: self.aliases[&item.alias],
                sequence: item.sequence,
                messages: values.map(number).collect(),
            }
        };
        publish.items.iter().map(&mut read).collect()
    }

    fn serve(&mut self, verdicts: [Verdict; LANES]) {
        let answer = match self.sent.pop_front() {
            Some(Request::Publish(batches)) => {
                let judge = |batch: &Batch| self.judge(batch, verdicts[batch.lane]);
                Answer::Results(v1::PublishResult { items: batches.iter().map(judge).collect() })
            }
            Some(Request::Unbind(forget)) => {
                let error = forget.and_then(|forget| self.forget(forget, verdicts[0]));
                Answer::Unbound(v1::StreamsUnbound { error: error.map(Into::into) })
            }
            None => return,
        };
        self.answers.push_back(answer);
    }

    /// Has the producer forgotten, at once, later, or not at all.
    fn forget(&mut self, forget: Forget, verdict: Verdict) -> Option<WireError> {
        let refuse = |code| Some(WireError::new(code, ""));
        match verdict {
            Verdict::Append | Verdict::Invalid | Verdict::Partly => {
                self.log.forget(&forget);
                None
            }
            Verdict::AppendUnheard => {
                self.log.forget(&forget);
                refuse(ErrorCode::OutcomeUnknown)
            }
            Verdict::Unknown => {
                self.late.push_back(Late::Forget(forget));
                refuse(ErrorCode::OutcomeUnknown)
            }
            Verdict::Busy | Verdict::NoLeader => refuse(ErrorCode::Unavailable),
            Verdict::NotLeader => refuse(ErrorCode::NotLeader),
        }
    }

    fn judge(&mut self, batch: &Batch, verdict: Verdict) -> v1::ItemResult {
        let refuse = |code| Err(WireError::new(code, ""));
        let result = match verdict {
            Verdict::Append => self.log.append(batch, usize::MAX),
            Verdict::Partly => self.log.append(batch, 1),
            Verdict::AppendUnheard => {
                let _ = self.log.append(batch, usize::MAX);
                refuse(ErrorCode::OutcomeUnknown)
            }
            Verdict::Unknown => {
                // A leader that was deposed before it knew: the next one may find it in its log.
                self.late.push_back(Late::Batch(batch.clone()));
                refuse(ErrorCode::OutcomeUnknown)
            }
            Verdict::Busy => refuse(ErrorCode::HotTierFull),
            Verdict::NotLeader => refuse(ErrorCode::NotLeader),
            Verdict::NoLeader => refuse(ErrorCode::Unavailable),
            Verdict::Invalid => refuse(ErrorCode::InvalidHeader),
        };
        let broken = &mut self.broken[batch.lane];
        match result {
            Ok((base_offset, published)) => {
                *broken = published < batch.messages.len();
                let refused = broken.then(|| WireError::new(ErrorCode::DuplicateIdConflict, ""));
                v1::ItemResult {
                    base_offset,
                    published: published as u32,
                    error: refused.map(Into::into),
                    ..v1::ItemResult::default()
                }
            }
            Err(error) => {
                let unknown = error.code == ErrorCode::ProducerUnknown;
                let behind =
                    self.notes && *broken && (unknown || error.code == ErrorCode::SequenceGap);
                *broken |= !unknown;
                let error = if behind { WireError::new(ErrorCode::OrderBroken, "") } else { error };
                v1::ItemResult { error: Some(error.into()), ..v1::ItemResult::default() }
            }
        }
    }

    fn hear(&mut self) {
        match self.answers.pop_front() {
            Some(Answer::Results(results)) => {
                self.machine.on_result(results, self.now, &mut self.out).expect("lawful");
            }
            Some(Answer::Unbound(unbound)) => {
                self.machine.on_unbound(&unbound, self.now).expect("lawful");
            }
            None => {}
        }
    }

    fn cut(&mut self, copies: bool) {
        for lost in std::mem::take(&mut self.sent).into_iter().filter(|_| copies) {
            match lost {
                Request::Publish(batches) => {
                    self.late.extend(batches.into_iter().map(Late::Batch));
                }
                Request::Unbind(forget) => self.late.extend(forget.map(Late::Forget)),
            }
        }
        self.aliases.clear();
        self.answers.clear();
        self.broken = [false; LANES];
        self.machine.on_disconnected(self.now, &mut self.out);
        if self.machine.wants_new_producer() {
            self.producer += 1;
            self.machine.on_new_producer();
        }
        self.machine.on_connected(64 << 20, 8);
    }

    fn tell(&mut self) {
        for completion in self.out.drain(..) {
            completion.outcome.set(completion.result).expect("a batch ends once");
            self.permits += completion.permits;
        }
    }

    /// Nothing more goes wrong, except that the server may say nothing at all.
    fn finish(&mut self, silent: bool, abandon: bool) {
        if abandon {
            (0..LANES * HANDLES_MAX).for_each(|handle| self.drop_handle(handle % LANES));
        }
        self.binds = if silent { Binds::Silence } else { Binds::Done };
        let mut rounds = 0;
        while !self.machine.is_idle() || (abandon && !silent && self.machine.lanes.counts().1 > 0) {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "something never ends: {:?}", self.machine);
            self.step(Step::Send);
            if !silent {
                self.step(Step::Serve(Verdict::Append, Verdict::Append));
                self.step(Step::Hear);
            }
            self.step(Step::Wait { ms: 1_000 });
        }
        self.machine.close();
        self.step(Step::Send);
        while !self.late.is_empty() {
            self.step(Step::Late);
        }
    }

    /// Compares what was told with what the log holds.
    fn check(&self, ordered: bool) {
        assert_eq!(self.permits, self.taken.len(), "every byte permit comes back");
        let mut last = [None; LANES];
        for (message, (lane, outcome, index)) in self.taken.iter().enumerate() {
            let log = &self.log.messages[*lane];
            let at: Vec<u64> = (0..)
                .zip(log)
                .filter(|(_, m)| **m as usize == message)
                .map(|(offset, _)| offset)
                .collect();
            assert!(at.len() <= 1, "message {message} was appended at {at:?}");
            let told = outcome.get().expect("every message ends").record(*index);
            match told {
                Ok(published) => {
                    assert_eq!(at, [published.offset.0], "message {message}");
                    assert!(!ordered || last[*lane] < Some(published.offset), "message {message}");
                    last[*lane] = Some(published.offset);
                }
                Err(error) => assert!(
                    at.is_empty() || !error.is_definite(),
                    "message {message} is at {at:?}, and was told {error}"
                ),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_ends_once_and_as_it_was_told(
        ordered: bool,
        silent: bool,
        abandon: bool,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(ordered, GIVE_UP);
        for step in steps {
            world.step(step);
        }
        world.finish(silent, abandon);
        world.check(ordered);
    }

    /// A change of leaders costs time and nothing else: while nobody gives up, answers that a shard without
    /// a leader gives, and lost connections, fail no message.
    #[test]
    fn what_is_only_refused_for_now_is_published_once_and_in_order(
        ordered: bool,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(ordered, EVER);
        for step in steps {
            match step {
                Step::Outage | Step::Drop { .. } | Step::Bind(Binds::Silence) => {}
                Step::Serve(a, b) => world.step(Step::Serve(a.tempered(), b.tempered())),
                step => world.step(step),
            }
        }
        world.finish(false, false);
        world.check(ordered);
        for (message, (_, outcome, index)) in world.taken.iter().enumerate() {
            let told = outcome.get().expect("every message ends").record(*index);
            assert!(told.is_ok(), "message {message} was told {told:?}");
        }
    }
}
