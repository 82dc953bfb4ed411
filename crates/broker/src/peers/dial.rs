//! How a connection to another node is made: find its address, shake hands, introduce oneself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use railgun_net::peer::PeerEndpoint;
use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_raft::PeerError;
use railgun_types::ErrorCode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::Asked;
use super::refusals::{IdentityRefused, Refusal, Refusals};
use crate::clock::{Clock, LogClock};

/// Versions of the protocol between nodes.
pub(super) const VERSION_MIN: u32 = 1;
pub(super) const VERSION_MAX: u32 = 1;
/// How long it may take from an address to an introduction.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nobody tries again after a failure: who asks meanwhile is told at once.
const HOLD_OFF: Duration = Duration::from_millis(150);

/// What this node tells of itself, as it is at the moment.
#[derive(Clone, Debug)]
pub(crate) struct SelfPortrait {
    pub(crate) about: watch::Receiver<v1::NodeAbout>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log_clock: Arc<LogClock>,
}

impl SelfPortrait {
    pub(crate) fn now(&self) -> v1::NodeAbout {
        let clock_us = self.clock.now().0;
        let log_clock_us = self.log_clock.borne_out_us().map(|_| self.log_clock.now().0);
        v1::NodeAbout { clock_us, log_clock_us, ..self.about.borrow().clone() }
    }
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    endpoint: Arc<PeerEndpoint>,
    portrait: SelfPortrait,
    /// Who does not take this node for itself.
    refusals: Refusals,
}

/// A connection that was made, with its first stream.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) writer: FrameWriter,
    pub(super) reader: FrameReader,
}

/// Makes connections of one kind to one node.
#[derive(Debug)]
pub(super) struct DialTo {
    dialler: Dialler,
    address: String,
    line_use: v1::PeerUse,
    /// The last attempt, which failed.
    failed: Option<(Instant, PeerError)>,
}

impl Dialler {
    pub(crate) fn new(
        endpoint: Arc<PeerEndpoint>,
        portrait: SelfPortrait,
        refusals: Refusals,
    ) -> Self {
        Self { endpoint, portrait, refusals }
    }

    /// Resolves when this node is not to be itself any more.
    pub(crate) async fn is_refused(&self) -> IdentityRefused {
        let is_double = |at: String| {
            let (dialler, own) = (self.clone(), self.portrait.about.borrow().clone());
            async move {
                let there =
                    timeout(DIAL_TIMEOUT, dialler.look(&at)).await.ok().and_then(Result::ok);
                there.is_some_and(|it| it.uid == own.uid && it.process != own.process)
            }
        };
        self.refusals.believed(is_double).await
    }

    /// Who is at an address now. Does not say who asks.
    pub(super) async fn look(&self, address: &str) -> Result<v1::NodeAbout, PeerError> {
        let from = v1::NodeAbout {
            cluster_uid: self.portrait.about.borrow().cluster_uid.clone(),
            peer_address: self.portrait.about.borrow().peer_address.clone(),
            ..v1::NodeAbout::default()
        };
        let (_dialled, there) = self.introduce(address, v1::PeerUse::Control, from).await?;
        Ok(there)
    }

    pub(super) fn to(&self, address: &str, line_use: v1::PeerUse) -> DialTo {
        DialTo { dialler: self.clone(), address: address.to_owned(), line_use, failed: None }
    }
}

impl DialTo {
    /// The next request that somebody still waits for, and a connection that was made for it. While none
    /// can be made, requests are refused as they come. `None`: nobody asks any more.
    pub(super) async fn for_next<W, T>(
        &mut self,
        from: &mut mpsc::Receiver<Asked<W, T>>,
    ) -> Option<(Dialled, Asked<W, T>)> {
        loop {
            let first = from.recv().await?;
            if first.reply.is_closed() {
                continue;
            }
            match self.dial().await {
                Ok(dialled) => return Some((dialled, first)),
                Err(error) => {
                    first.reply.send(Err(error.clone())).ok();
                    // Those that came meanwhile need not wait for another attempt.
                    while let Ok(ask) = from.try_recv() {
                        ask.reply.send(Err(error.clone())).ok();
                    }
                }
            }
        }
    }

    /// Connects, unless that has failed a moment ago.
    async fn dial(&mut self) -> Result<Dialled, PeerError> {
        if let Some((at, error)) = &self.failed
            && at.elapsed() < HOLD_OFF
        {
            return Err(error.clone());
        }
        let dialled = timeout(DIAL_TIMEOUT, self.attempt()).await.unwrap_or_else(|_| {
            let address = &self.address;
            let reason = format!("no answer from {address} within {DIAL_TIMEOUT:?}");
            Err(PeerError::Unreachable { reason })
        });
        self.failed = dialled.as_ref().err().map(|error| (Instant::now(), error.clone()));
        dialled
    }

    async fn attempt(&self) -> Result<Dialled, PeerError> {
        let from = self.dialler.portrait.now();
        let (dialled, _) = self.dialler.introduce(&self.address, self.line_use, from).await?;
        Ok(dialled)
    }
}

impl Dialler {
    /// Connects, and hears who is there.
    async fn introduce(
        &self,
        address: &str,
        line_use: v1::PeerUse,
        from: v1::NodeAbout,
    ) -> Result<(Dialled, v1::NodeAbout), PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable { reason };
        let addr = resolve(address).await.map_err(unreachable)?;
        let connection = match line_use {
            v1::PeerUse::Clients => self.endpoint.connect_for_clients(addr).await,
            _ => self.endpoint.connect(addr).await,
        };
        let connection = connection.map_err(|error| unreachable(error.to_string()))?;
        let broken = |error: &dyn std::fmt::Display| {
            unreachable(format!("{address} has accepted the connection, and then: {error}"))
        };
        let (mut writer, mut reader) = connection.open().await.map_err(|e| broken(&e))?;
        // Who only looks does not say who it is.
        let is_look = from.uid.is_empty();
        let hello = v1::PeerHello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            r#use: line_use.into(),
            from: Some(from),
        };
        writer.send(Frame::new(&hello)).await.map_err(|e| broken(&e))?;
        match reader.next().await.map_err(|e| broken(&e))? {
            Some(frame) if frame.kind() == FrameKind::PeerWelcome => {
                let welcome: v1::PeerWelcome = frame.decode().map_err(|e| broken(&e))?;
                let there = welcome.from.unwrap_or_default();
                if let Some(error) = welcome.refused {
                    let error = WireError::from(error);
                    let elsewhere = Some(welcome.elsewhere).filter(|at| !at.is_empty());
                    let (by, reason) = (address.to_owned(), error.message.clone());
                    let refused = IdentityRefused { by, reason };
                    let refusal = Refusal { refused, elsewhere, at: Instant::now() };
                    self.refusals.note(there.uid, refusal);
                    return Err(PeerError::Refused { reason: error.to_string() });
                }
                if !is_look {
                    self.refusals.withdraw(&there.uid);
                }
                Ok((Dialled { connection, writer, reader }, there))
            }
            Some(frame) if frame.kind() == FrameKind::Error => {
                let error: v1::Error = frame.decode().map_err(|e| broken(&e))?;
                let error = WireError::from(error);
                if error.code == ErrorCode::WrongCluster {
                    tracing::warn!(peer = address, %error, "refused by a node");
                }
                Err(PeerError::Refused { reason: error.to_string() })
            }
            Some(frame) => Err(broken(&format!("a frame of kind {}", frame.kind()))),
            None => Err(broken(&"it ended the stream")),
        }
    }
}

/// The first address that a `host:port` stands for.
async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = address.parse() {
        return Ok(addr);
    }
    let failed = |error: std::io::Error| format!("{address} cannot be resolved: {error}");
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    found.next().ok_or_else(|| format!("{address} has no address"))
}
