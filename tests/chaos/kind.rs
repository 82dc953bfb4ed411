//! Kinds of faults.

use crate::network::Wiring;

/// See the module. Each comes once before any comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    KillLeader,
    KillCatalogLeader,
    KillNode,
    Pause,
    PauseLeader,
    KillAll,
    Transfer,
    Drain,
    FullDisk,
    // What a relay does.
    Cut,
    CutOneWay,
    Rough,
    // What links do.
    Links(LinkKind),
}

/// Kinds of faults of links and what is set up on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Down,
    Flapping,
    Unplugged,
    AddressLost,
    NoRoute,
    Apart,
    SwitchOff,
    Narrow,
    ClientsCut,
    Alone,
    StartAlone,
}

impl Kind {
    /// With the name under which gaps are collected, and the only network on which it can be.
    const ALL: [(Self, &str, Option<Wiring>); 23] = {
        let (relay, links) = (Some(Wiring::Loopback), Some(Wiring::Namespaces));
        [
            (Self::KillLeader, "kill-leader", None),
            (Self::KillCatalogLeader, "kill-catalog-leader", None),
            (Self::KillNode, "kill-node", None),
            (Self::Pause, "pause", None),
            (Self::PauseLeader, "pause-leader", None),
            (Self::KillAll, "kill-all", None),
            (Self::Transfer, "transfer", None),
            (Self::Drain, "drain", None),
            (Self::FullDisk, "full-disk", None),
            (Self::Cut, "cut", relay),
            (Self::CutOneWay, "cut-one-way", relay),
            (Self::Rough, "rough", relay),
            (Self::Links(LinkKind::Down), "link-down", links),
            (Self::Links(LinkKind::Flapping), "flapping", links),
            (Self::Links(LinkKind::Unplugged), "unplugged", links),
            (Self::Links(LinkKind::AddressLost), "address-lost", links),
            (Self::Links(LinkKind::NoRoute), "no-route", links),
            (Self::Links(LinkKind::Apart), "apart", links),
            (Self::Links(LinkKind::SwitchOff), "switch-off", links),
            (Self::Links(LinkKind::Narrow), "narrow", links),
            (Self::Links(LinkKind::ClientsCut), "clients-cut", links),
            (Self::Links(LinkKind::Alone), "alone", links),
            (Self::Links(LinkKind::StartAlone), "start-alone", links),
        ]
    };

    pub(crate) fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(kind, ..)| *kind == self);
        named.expect("every kind has a name").1
    }

    /// Those that can be on a network; of these names alone, where there are any.
    pub(crate) fn on(wiring: Wiring, names: Option<&str>) -> Vec<Self> {
        let names: Option<Vec<_>> = names.map(|names| names.split(',').collect());
        for name in names.iter().flatten() {
            let known = Self::ALL.iter().any(|(_, known, _)| known == name);
            assert!(known, "no kind of fault is called '{name}'");
        }
        let wanted = |name| names.as_ref().is_none_or(|names| names.contains(name));
        let all = Self::ALL.iter().filter(|(_, _, only)| only.is_none_or(|only| only == wiring));
        all.filter(|(_, name, _)| wanted(name)).map(|(kind, ..)| *kind).collect()
    }
}
