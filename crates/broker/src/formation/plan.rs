//! The plan of a cluster: made up by the first founder, which binds the others to it. While no Raft group
//! exists, which is not before all have agreed and the first one has told so, it may be let go of.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_raft::PeerError;
use railgun_types::limits::{FOUNDERS, NODE_ADDRESS_BYTES};
use railgun_types::{ClusterUid, ErrorCode, NodeId, NodeUid};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, timeout};

use super::{Formation, FormingError, GREET_TIMEOUT, LOOK_EVERY, TELL_EVERY, answered_during};
use crate::identity::{Founder, Identity, Member};
use crate::node_ask::NodeAsk;

/// How long all founders may take to agree, from when the first asks them.
const AGREE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long another node is seen in the place of the first founder before that one is taken for gone.
const GONE_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

/// What has become of a plan.
pub(super) enum Plan {
    /// All founders have agreed.
    Agreed,
    /// It is none any more, and never will be again.
    Abandoned,
}

impl Formation {
    /// Waits until it is known what becomes of the plan that this node has kept.
    pub(super) async fn carry_out(
        &self,
        identity: &Identity,
        member: &Member,
        asks: &mut mpsc::Receiver<NodeAsk>,
    ) -> Result<Plan, FormingError> {
        let carrying_out = async {
            match member.founders.first() {
                Some(first) if first.uid == identity.uid => Ok(self.bind_founders(member).await),
                Some(first) => self.wait_for_word(member, first).await,
                None => Ok(Plan::Agreed),
            }
        };
        answered_during(asks, (member.cluster, identity.uid), carrying_out).await
    }

    /// Binds the other founders to the cluster that this node, the first of them, has made up; may be
    /// called again after a restart. One that refuses, or is not there for long, would be waited for in
    /// vain.
    async fn bind_founders(&self, member: &Member) -> Plan {
        let Member { cluster, founders, .. } = member;
        let bound = try_join_all(founders.iter().skip(1).map(|founder| self.bind(member, founder)));
        let why = match timeout(AGREE_PATIENCE, bound).await {
            Ok(Ok(_)) => {
                tracing::info!(%cluster, nodes = founders.len(), "a cluster is formed");
                return Plan::Agreed;
            }
            Ok(Err(refused)) => refused,
            Err(_) => format!("not all of them have agreed within {AGREE_PATIENCE:?}"),
        };
        tracing::warn!(%cluster, why, "no cluster is formed with these nodes; looking again");
        Plan::Abandoned
    }

    /// Whether it agrees; says why not.
    async fn bind(&self, member: &Member, founder: &Founder) -> Result<(), String> {
        let form = v1::FormCluster {
            cluster_uid: member.cluster.to_wire(),
            founders: member.founders.iter().map(to_wire).collect(),
            for_uid: founder.uid.to_wire(),
        };
        let address = &founder.peer_address;
        let mut told = None;
        loop {
            let call = v1::peer_call::Call::Form(form.clone());
            let failed =
                match timeout(GREET_TIMEOUT, self.peers.call(address, call, Bytes::new())).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(PeerError::Refused { reason })) => {
                        return Err(format!("{address}: {reason}"));
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it does not answer".to_owned(),
                };
            if told.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                tracing::warn!(
                    peer = address,
                    error = failed,
                    "a founder of the cluster has not agreed yet; waiting for it"
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a node has begun with the cluster, which it does when all have agreed, or the first
    /// founder has let go of the plan.
    async fn wait_for_word(&self, member: &Member, first: &Founder) -> Result<Plan, FormingError> {
        let mut look = interval(LOOK_EVERY);
        let mut gone_since: Option<Instant> = None;
        loop {
            look.tick().await;
            let mut addresses: BTreeSet<String> = self.seeds.now().into_iter().collect();
            addresses.extend(member.founders.iter().map(|founder| founder.peer_address.clone()));
            let asked = addresses.into_iter().map(|address| async move {
                let call = v1::peer_call::Call::Greet(self.about_now());
                let answer = self.peers.call(&address, call, Bytes::new());
                match timeout(GREET_TIMEOUT, answer).await {
                    Ok(Ok((v1::peer_reply::Answer::Greeted(about), _))) => Some((address, about)),
                    _ => None,
                }
            });
            let seen: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
            let (cluster, maker) = (member.cluster.to_wire(), first.uid.to_wire());
            if seen.iter().any(|(_, about)| about.cluster_uid == cluster && !about.forming) {
                return Ok(Plan::Agreed);
            }
            if seen.iter().any(|(_, about)| about.uid == maker && about.cluster_uid != cluster) {
                tracing::warn!(cluster = %member.cluster, "the cluster is not formed after all");
                return Ok(Plan::Abandoned);
            }
            let is_maker_there = seen.iter().any(|(_, about)| about.uid == maker);
            let is_another_there = seen.iter().any(|(at, _)| *at == first.peer_address);
            if is_maker_there || !is_another_there {
                gone_since = None;
            } else if gone_since.get_or_insert_with(Instant::now).elapsed() >= GONE_AFTER {
                let (cluster, at) = (member.cluster, first.peer_address.clone());
                return Err(FormingError::FounderGone { cluster, at });
            }
        }
    }
}

/// What a plan of another node makes of this one.
pub(super) fn founder(form: &v1::FormCluster, identity: &Identity) -> Result<Member, WireError> {
    if form.founders.len() > FOUNDERS {
        return Err(no_plan("it has too many founders"));
    }
    let cluster = ClusterUid::from_wire("cluster_uid", &form.cluster_uid)?;
    let founders = form.founders.iter().map(from_wire).collect::<Result<Vec<_>, _>>()?;
    check(&founders)?;
    check_meant(form, identity.uid)?;
    let own = founders.iter().find(|founder| founder.uid == identity.uid);
    let node = own.ok_or_else(made_anew)?.node;
    Ok(Member::new(node, cluster, founders))
}

/// Whether these can be the founders of a cluster.
fn check(founders: &[Founder]) -> Result<(), WireError> {
    let are_numbered = founders.iter().zip(1..).all(|(founder, number)| founder.node.0 == number);
    if founders.is_empty() || !are_numbered {
        return Err(no_plan("its founders are not numbered from 1"));
    }
    let lengths = |it: &Founder| [it.peer_address.len(), it.client_address.len()];
    if founders.iter().flat_map(lengths).any(|bytes| bytes > NODE_ADDRESS_BYTES) {
        return Err(no_plan("an address is too long"));
    }
    let uids: BTreeSet<_> = founders.iter().map(|founder| founder.uid).collect();
    let addresses: BTreeSet<_> = founders.iter().map(|founder| &founder.peer_address).collect();
    if uids.len() < founders.len() || addresses.len() < founders.len() {
        return Err(no_plan("two of its founders are the same, or in one place"));
    }
    Ok(())
}

/// Whether a plan is the one that the node is bound to already.
pub(crate) fn is_bound(
    form: &v1::FormCluster,
    cluster: ClusterUid,
    own: NodeUid,
) -> Result<(), WireError> {
    if form.cluster_uid != cluster.to_wire() {
        let message = format!("this node belongs to cluster {cluster} already");
        return Err(WireError::new(ErrorCode::WrongCluster, message));
    }
    check_meant(form, own)
}

/// Whether it is this node that is asked, and not the one that was here.
fn check_meant(form: &v1::FormCluster, own: NodeUid) -> Result<(), WireError> {
    if form.for_uid == own.to_wire() { Ok(()) } else { Err(made_anew()) }
}

fn made_anew() -> WireError {
    let message = "the cluster that is formed has no place for this node: its data directory was made \
                   anew meanwhile, or it was moved";
    WireError::new(ErrorCode::NodeIdentityConflict, message)
}

fn no_plan(why: &str) -> WireError {
    let message = format!("no cluster can be formed like that: {why}");
    WireError::new(ErrorCode::ProtocolViolation, message)
}

fn to_wire(founder: &Founder) -> v1::Founder {
    v1::Founder {
        uid: founder.uid.to_wire(),
        node_id: founder.node.0,
        peer_address: founder.peer_address.clone(),
        client_address: founder.client_address.clone(),
    }
}

fn from_wire(founder: &v1::Founder) -> Result<Founder, WireError> {
    Ok(Founder {
        uid: NodeUid::from_wire("uid", &founder.uid)?,
        node: NodeId(founder.node_id),
        peer_address: founder.peer_address.clone(),
        client_address: founder.client_address.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(founders: usize) -> v1::FormCluster {
        let founder = |number: usize| v1::Founder {
            uid: vec![number as u8; 16].into(),
            node_id: number as u32,
            peer_address: format!("n{number}:7412"),
            client_address: format!("n{number}:7410"),
        };
        v1::FormCluster {
            cluster_uid: vec![0xc; 16].into(),
            founders: (1..=founders).map(founder).collect(),
            for_uid: vec![2; 16].into(),
        }
    }

    #[test]
    fn a_plan_that_cannot_be_is_refused() {
        let identity = Identity { uid: NodeUid([2; 16]), bucket: "memory://".into(), member: None };
        assert_eq!(founder(&form(3), &identity).unwrap().node, NodeId(2));
        assert_eq!(founder(&form(FOUNDERS), &identity).unwrap().founders.len(), FOUNDERS);
        let refused = |change: fn(&mut v1::FormCluster)| {
            let mut form = form(3);
            change(&mut form);
            founder(&form, &identity).expect_err("it is refused").message
        };
        let long = |form: &mut v1::FormCluster| {
            form.founders[0].client_address = "x".repeat(NODE_ADDRESS_BYTES + 1);
        };
        for (message, words) in [
            (founder(&form(FOUNDERS + 1), &identity).unwrap_err().message, "too many"),
            (refused(|form| form.founders.clear()), "numbered"),
            (refused(|form| form.founders[0].node_id = 0), "numbered"),
            (refused(|form| form.founders[2].node_id = 2), "numbered"),
            (refused(|form| form.founders[2].uid = vec![1; 16].into()), "the same"),
            (refused(|form| form.founders[2].peer_address = "n1:7412".into()), "in one place"),
            (refused(long), "too long"),
            (refused(|form| form.for_uid = vec![3; 16].into()), "made anew"),
        ] {
            assert!(message.contains(words), "{message}");
        }
    }
}
