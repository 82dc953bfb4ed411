//! Whose relays are served here: those of one client share a place in the queues of shards.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::shard::Queueing;

/// The sessions of another node that have relays here, with their places in the queues of shards: one for
/// all relays of a session, for as long as it has any. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayedSessions(watch::Sender<BTreeMap<u64, (Queueing, usize)>>);

/// A relay's share of its session's place.
#[derive(Debug)]
pub(crate) struct SessionPlace {
    queueing: Queueing,
    /// Which session of whose, if it is one of several relays.
    of: Option<(u64, RelayedSessions)>,
}

impl RelayedSessions {
    /// For a relay of this session; `number` gives the number of a place that is not there yet.
    pub(crate) fn place(&self, session: Option<u64>, number: impl FnOnce() -> u64) -> SessionPlace {
        let Some(session) = session else {
            return SessionPlace { queueing: Queueing::new(number()), of: None };
        };
        let mut place = None;
        self.0.send_modify(|sessions| {
            let known = sessions.entry(session);
            let (queueing, relays) = known.or_insert_with(|| (Queueing::new(number()), 0));
            *relays += 1;
            place = Some(queueing.clone());
        });
        let Some(queueing) = place else { unreachable!("send_modify calls its argument") };
        SessionPlace { queueing, of: Some((session, self.clone())) }
    }
}

impl SessionPlace {
    pub(crate) fn queueing(&self) -> &Queueing {
        &self.queueing
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let Some((session, sessions)) = &self.of else { return };
        sessions.0.send_modify(|sessions| {
            if let Some((_, relays)) = sessions.get_mut(session) {
                *relays -= 1;
                if *relays == 0 {
                    sessions.remove(session);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_of_a_session_share_its_place_until_the_last_has_ended() {
        let sessions = RelayedSessions::default();
        let first = sessions.place(Some(7), || 70);
        let second = sessions.place(Some(7), || 71);
        let other = sessions.place(Some(8), || 72);
        let alone = sessions.place(None, || 73);
        let numbers = [&first, &second, &other, &alone].map(|place| place.queueing().session());
        assert_eq!(numbers, [70, 70, 72, 73]);
        drop(first);
        assert_eq!(sessions.place(Some(7), || 74).queueing().session(), 70);
        drop(second);
        assert_eq!(sessions.place(Some(7), || 75).queueing().session(), 75);
        drop(other);
        assert!(sessions.0.borrow().is_empty());
    }
}
