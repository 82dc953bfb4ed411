mod nodes;

use super::*;
use railgun_types::ClusterUid;

fn apply(catalog: &mut Catalog, ts: i64, command: CatalogCommand) -> CatalogOutcome {
    let names_and_replicas = |catalog: &Catalog| (catalog.names.clone(), catalog.replicas.clone());
    let (before, as_it_is) = (names_and_replicas(catalog), catalog.as_it_is(&command));
    let is_asked_again = matches!(
        command,
        CatalogCommand::Reserve { .. }
            | CatalogCommand::Activate { .. }
            | CatalogCommand::Delete { .. }
            | CatalogCommand::Free { .. }
            | CatalogCommand::Reincarnate { .. }
    );
    let of_token = matches!(command, CatalogCommand::UseToken { .. });
    let founded = catalog.settings.is_some();
    let outcome =
        catalog.apply(&Command { ts: Timestamp(ts), body: CommandBody::Catalog(command) });
    if of_token {
        // The time of the entry may be later.
        let lets_in = |outcome: &CatalogOutcome| matches!(outcome, CatalogOutcome::Token(verdict) if verdict.lets_in());
        assert!(as_it_is.is_none_or(|as_it_is| !lets_in(&as_it_is) && !lets_in(&outcome)));
        return outcome;
    }
    let half_done = catalog.names.iter().filter(|(_, entry)| entry.phase != Phase::Active);
    assert!(catalog.half_done().eq(half_done));
    let changes_nothing = names_and_replicas(catalog) == before && is_asked_again && founded;
    assert_eq!(as_it_is, changes_nothing.then(|| outcome.clone()));
    outcome
}

fn settings(cluster: u8) -> ClusterSettings {
    let cluster = ClusterUid([cluster; 16]);
    ClusterSettings { cluster, shards: 2, hot_bytes_max: 100, replicas: 3 }
}

/// A cluster of one node.
fn found(settings: ClusterSettings) -> CatalogCommand {
    let node = NodeInfo {
        uid: NodeUid([1; 16]),
        peer_address: String::new(),
        client_address: String::new(),
        feature_level: 1,
    };
    CatalogCommand::Found { settings, nodes: vec![(NodeId(1), node)] }
}

#[test]
fn a_name_goes_from_reserved_to_active_to_free() {
    let name = StreamName::new("a").expect("valid");
    let (one, two) = (StreamUid([1; 16]), StreamUid([2; 16]));
    let mut catalog = Catalog::default();
    let reserve = |stream| CatalogCommand::Reserve {
        name: StreamName::new("a").expect("valid"),
        stream,
        patch: SpecPatch::default(),
        request: None,
    };
    assert_eq!(apply(&mut catalog, 1, reserve(one)), CatalogOutcome::Refused, "not founded");
    apply(&mut catalog, 2, found(settings(1)));
    assert_eq!(
        apply(&mut catalog, 3, found(settings(2))),
        CatalogOutcome::Founded(settings(1)),
        "the first one counts"
    );
    let phase = |outcome: CatalogOutcome| match outcome {
        CatalogOutcome::Entry(entry) => entry.map(|e| (e.stream, e.phase)),
        other => panic!("{other:?}"),
    };
    let creating = Phase::Creating { patch: SpecPatch::default(), request: None };
    assert_eq!(phase(apply(&mut catalog, 4, reserve(one))), Some((one, creating.clone())));
    // A second creator is told the first one's stream.
    assert_eq!(phase(apply(&mut catalog, 5, reserve(two))), Some((one, creating)));
    let activate = |stream| CatalogCommand::Activate { name: name.clone(), stream };
    apply(&mut catalog, 6, activate(two));
    assert!(matches!(catalog.get(&name).map(|e| &e.phase), Some(Phase::Creating { .. })));
    assert_eq!(phase(apply(&mut catalog, 7, activate(one))), Some((one, Phase::Active)));
    // A late refusal must not free an active name.
    let free = |stream| CatalogCommand::Free { name: name.clone(), stream };
    assert_eq!(phase(apply(&mut catalog, 8, free(one))), Some((one, Phase::Active)));
    let delete = CatalogCommand::Delete { name: name.clone(), stream: one };
    assert_eq!(phase(apply(&mut catalog, 9, delete)), Some((one, Phase::Deleting)));
    // A late activation must not bring a deleted stream back.
    assert_eq!(phase(apply(&mut catalog, 10, activate(one))), Some((one, Phase::Deleting)));
    assert_eq!(phase(apply(&mut catalog, 11, free(two))), Some((one, Phase::Deleting)));
    assert_eq!(phase(apply(&mut catalog, 12, free(one))), None);
}

#[test]
fn names_are_found_by_what_they_begin_with() {
    let mut catalog = Catalog::default();
    apply(&mut catalog, 1, found(settings(1)));
    let texts = ["shop", "shop-x", "shop.a", "shop.a.b", "shop.b", "shoq", "a", "Z"];
    let names = texts.map(|text| StreamName::new(text).expect("valid"));
    for (at, name) in names.iter().enumerate() {
        let (stream, patch) = (StreamUid([at as u8; 16]), SpecPatch::default());
        let (name, request) = (name.clone(), None);
        apply(&mut catalog, 2, CatalogCommand::Reserve { name, stream, patch, request });
    }
    for prefix in ["", "s", "shop", "shop.", "shop.a", "shop.b", "shop.c", "~", "Z", "\u{20ac}"] {
        for after in names.iter().map(Some).chain([None]) {
            let found: Vec<_> =
                catalog.names_with_prefix(prefix, after).map(|(name, _)| name).collect();
            let all = catalog.names.keys().filter(|name| after.is_none_or(|after| *name > after));
            let wanted: Vec<_> = all.filter(|name| name.as_str().starts_with(prefix)).collect();
            assert_eq!(found, wanted, "'{prefix}' after {after:?}");
        }
    }
}
