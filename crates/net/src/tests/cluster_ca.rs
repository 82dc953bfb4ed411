//! The cluster's authority, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::{ANY_PORT, within_deadline};
use crate::peer::NodeTls;
use crate::tls::{
    ClusterCa, ClusterCaError, NODE_VALID_FOR, NodeRequest, TlsError, ca_certificate_path,
};
use crate::{ConnectError, ConnectSpec, Endpoint, ListenSpec, Roots, connect};

fn hosts() -> Vec<String> {
    vec!["n1.example.com".to_owned(), "127.0.0.1".to_owned()]
}

#[test]
fn it_is_made_once_and_kept() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/ca");
    let error = ClusterCa::load(&dir).unwrap_err();
    assert!(
        matches!(&error, ClusterCaError::NotFound { missing, .. } if missing.ends_with("ca.pem"))
    );
    let made = ClusterCa::create(&dir).unwrap();
    let mode = |name| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));
    assert_eq!(fs::read_to_string(ca_certificate_path(&dir)).unwrap(), made.pem());
    let loaded = ClusterCa::load(&dir).unwrap();
    assert_eq!((loaded.pem(), loaded.fingerprint()), (made.pem(), made.fingerprint()));
    assert_eq!(made.fingerprint().len(), 64);
    assert!(!format!("{made:?}").contains("PRIVATE"));
    assert!(matches!(ClusterCa::create(&dir), Err(ClusterCaError::Exists { .. })));
    // Not even a half of it is overwritten.
    fs::remove_file(dir.join("ca.pem")).unwrap();
    assert!(matches!(ClusterCa::create(&dir), Err(ClusterCaError::Exists { .. })));
    assert!(dir.join("ca-key.pem").exists());
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for dir in &dirs {
        ClusterCa::create(dir.path()).unwrap();
    }
    let [mixed, other] = dirs.each_ref().map(|dir| dir.path());
    fs::copy(other.join("ca.pem"), mixed.join("ca.pem")).unwrap();
    let error = ClusterCa::load(mixed).unwrap_err();
    assert!(matches!(&error, ClusterCaError::Damaged { path, .. } if path.ends_with("ca.pem")));
    fs::write(other.join("ca-key.pem"), "no key").unwrap();
    let error = ClusterCa::load(other).unwrap_err();
    assert!(matches!(&error, ClusterCaError::Damaged { path, .. } if path.ends_with("ca-key.pem")));
}

/// Clients reach a node by its names, and by no others.
async fn serves(ca: &ClusterCa, chain: &str, key: &str) {
    let tls = NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), ca.pem().as_bytes()).unwrap();
    let endpoint = Endpoint::bind(ListenSpec::new(ANY_PORT, tls.server_tls())).unwrap();
    let spec =
        |name: &str| ConnectSpec::new(endpoint.local_addr(), name, Roots::Pem(ca.pem().into()));
    for name in hosts() {
        connect(spec(&name)).await.unwrap();
    }
    let error = connect(spec("evil.example.com")).await.unwrap_err();
    assert!(matches!(error, ConnectError::UntrustedCertificate { .. }), "{error}");
}

#[tokio::test]
async fn a_node_has_its_key_from_it_or_keeps_its_own() {
    within_deadline(async {
        let ca = ClusterCa::create(tempfile::tempdir().unwrap().path()).unwrap();
        let node = ca.issue_node(&hosts(), NODE_VALID_FOR).unwrap();
        assert!(!format!("{node:?}").contains("PRIVATE"));
        serves(&ca, &node.chain_pem, &node.key_pem).await;

        let request = NodeRequest::new().unwrap();
        assert!(!format!("{request:?}").contains("PRIVATE"));
        let chain = ca.sign_request(&request.csr_pem, &hosts(), NODE_VALID_FOR).unwrap();
        serves(&ca, &chain, &request.key_pem).await;

        // What a request asks for counts for nothing.
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["evil.example.com".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let greedy = params.serialize_request(&key).unwrap().pem().unwrap();
        let chain = ca.sign_request(&greedy, &hosts(), NODE_VALID_FOR).unwrap();
        serves(&ca, &chain, &key.serialize_pem()).await;
    })
    .await;
}

#[test]
fn what_cannot_be_signed_is_told() {
    let ca = ClusterCa::create(tempfile::tempdir().unwrap().path()).unwrap();
    let issue = |hosts: &[&str]| {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        ca.issue_node(&hosts, NODE_VALID_FOR).map(|_| ())
    };
    assert!(matches!(issue(&[]), Err(ClusterCaError::NoHosts)));
    assert!(matches!(issue(&["ä"]), Err(ClusterCaError::Issue { .. })));
    // Longer than a certificate can say.
    ca.issue_node(&hosts(), std::time::Duration::MAX).unwrap();

    let good = NodeRequest::new().unwrap().csr_pem;
    let mut forged = good.clone().into_bytes();
    // A bit of the signature, which is last.
    let at = good.rfind("-----END").unwrap() - 20;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let huge = good.repeat(100);
    for bad in ["", "-----BEGIN CERTIFICATE REQUEST-----", &forged, &huge, ca.pem()] {
        let error = ca.sign_request(bad, &hosts(), NODE_VALID_FOR).unwrap_err();
        assert!(matches!(error, ClusterCaError::Request { .. }), "{error}");
    }
    // Another node's key does not fit.
    let node = ca.issue_node(&hosts(), NODE_VALID_FOR).unwrap();
    let other = ca.issue_node(&hosts(), NODE_VALID_FOR).unwrap();
    let tls =
        NodeTls::from_pem(node.chain_pem.as_bytes(), other.key_pem.as_bytes(), ca.pem().as_bytes());
    assert!(matches!(tls, Err(TlsError::Refused { .. })));
}
