//! The memory that members of groups take with what they were sent.

use railgun_net::{Member, ReadError};
use railgun_types::{ErrorCode, GroupName, GroupPatch};

use super::reading::{MIB, PATIENCE, Rig, with};
use super::subscribing::begin;
use super::*;
use crate::groups::Groups;

const MESSAGES: u64 = 390;

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

/// A stream of nearly 8 MB, and a group that begins with it.
async fn with_group() -> Rig {
    let rig = with(64 * MIB, false, &[20_000; MESSAGES as usize]).await;
    rig.ensure_group(GroupPatch::default()).await;
    rig
}

/// A member with credit for everything.
async fn join(rig: &Rig, memory: &Member) -> (FrameWriter, FrameReader) {
    let join = v1::JoinGroup {
        stream: "s".to_owned(),
        group: "g".to_owned(),
        credit_messages: 10_000,
        credit_bytes: 1 << 30,
        ..v1::JoinGroup::default()
    };
    let (mut line, _) = begin(rig, memory, Frame::new(&join)).await;
    assert!(line.1.next_of::<v1::GroupJoined>().await.unwrap().is_some());
    line
}

async fn leased(rig: &Rig) -> u64 {
    let groups = Groups::of(&rig.broker.streams, &name("s")).await.unwrap();
    groups.describe(&group()).await.unwrap().figures.leased
}

/// Takes this many messages, which are these from `first` on, each for the first time.
async fn take(line: &mut (FrameWriter, FrameReader), first: u64, count: u64) {
    let mut next = first;
    while next < first + count {
        let frame = timeout(PATIENCE, line.1.next()).await.expect("more").unwrap().unwrap();
        let delivered: v1::GroupDeliver = frame.decode().unwrap();
        assert_eq!((delivered.base_offset, delivered.attempt), (next, 1));
        next += u64::from(delivered.count);
    }
    assert_eq!(next, first + count);
}

#[tokio::test(start_paused = true)]
async fn a_member_is_sent_as_much_as_there_is_memory_for_and_more_when_it_has_taken_that() {
    // G-12
    let rig = with_group().await;
    let (left, before) = (MIB, 16 * MIB - MIB);
    let crowd = rig.crowd(left);
    assert_eq!(rig.taken(), before);
    let client = rig.memory.reader();
    let mut line = join(&rig, &client).await;
    sleep(Duration::from_secs(2)).await;
    // What the transport has taken is no concern of ours.
    let waiting = leased(&rig).await;
    assert!(waiting > 10 && waiting < MESSAGES / 2, "{waiting}");
    assert!(rig.taken() > before);
    take(&mut line, 0, MESSAGES).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!((leased(&rig).await, rig.taken()), (MESSAGES, before));
    drop(crowd);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_reads_nothing_gives_its_memory_and_its_messages_to_others() {
    // G-9, G-12
    let rig = with_group().await;
    let crowd = rig.crowd(MIB);
    let mut idle = join(&rig, &rig.memory.reader()).await;
    sleep(Duration::from_secs(2)).await;
    let mut other = join(&rig, &rig.memory.reader()).await;
    take(&mut other, 0, MESSAGES).await;
    let end = loop {
        match timeout(PATIENCE, idle.1.next()).await.expect("an end") {
            Ok(frame) => assert!(frame.is_some(), "it is told"),
            Err(error) => break error,
        }
    };
    let ReadError::Reset { code } = end else { panic!("{end}") };
    assert_eq!(code, Some(ErrorCode::QuotaExceeded.into()));
    drop(crowd);
}
