//! Connecting to NATS and the check at start: under exact permissions, with every kind of credentials, over TLS, and
//! against servers that will not do. What the errors say is part of it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dunlin_api::{ByteSize, Digest, KeyValue};
use dunlin_fixtures::nats::{NatsCluster, NatsServer, Options};
use dunlin_scheduler::{
    nats::{CheckError, ConnectError, Nats, NatsAuth, NatsConfig, NatsTls, Role},
    store::{ArtifactStore, CatalogStore, Change, nats::NatsStore},
};
use futures::{StreamExt, future::join_all};
use nkeys::KeyPair;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::{
    contract::{self, artifacts::pieces},
    nats_store::config,
};

const ROLES: [(&str, Role); 3] =
    [("GATEWAY_AND_WORKER", Role::Both), ("GATEWAY_ONLY", Role::Gateway), ("WORKER_ONLY", Role::Worker)];

fn server_with(config: String) -> NatsServer {
    NatsServer::with(&Options { config, ..Options::default() })
}

/// The documented permissions for the node `a` of the cluster `test`.
fn documented() -> String {
    let text = include_str!("../../../docs/nats-permissions.conf");
    text.replace("CLUSTER", "test").replace("NODE", "a")
}

fn as_user(url: &str, user: &str) -> NatsConfig {
    NatsConfig { auth: NatsAuth::Password { user: user.into(), password: "x".into() }, ..config(url.into(), "a") }
}

async fn connected(config: NatsConfig) -> Nats {
    Nats::connect(&config).await.unwrap()
}

fn user(name: &str, permissions: &str) -> String {
    format!("{{ user: {name}, password: x, permissions: {permissions} }}\n")
}

/// A node that joins a cluster, and each `dunlin doctor`, once emptied the catalog and the artifacts by a probe.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_changes_nothing_that_is_stored() {
    let server = NatsServer::start();
    let nats = connected(config(server.url(), "a")).await;
    let stores = NatsStore::open(&nats).await.unwrap();
    stores.catalog().put("fn/a", "1".into(), None).await.unwrap();
    stores.artifacts().put(Digest::of(b"a"), pieces(b"a"), ByteSize(100)).await.unwrap();
    stores.keyvalue().set("s", "k", "1".into()).await.unwrap();
    for (_, role) in ROLES {
        nats.check(role).await.unwrap();
    }
    assert!(stores.catalog().get("fn/a").await.unwrap().is_some());
    assert_eq!(stores.artifacts().list().await.unwrap().len(), 1);
    assert!(stores.keyvalue().get("s", "k").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_are_enough_for_each_role() {
    let users: String = ROLES.iter().map(|(name, _)| user(name, &format!("${name}"))).collect();
    let server = server_with(format!("{}\nauthorization {{ users: [\n{users}] }}", documented()));
    let url = server.url();
    for (name, role) in ROLES {
        connected(as_user(&url, name)).await.check(role).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let gateway = NatsStore::open(&connected(as_user(&url, "GATEWAY_ONLY")).await).await.unwrap();
    contract::catalog::holds(gateway.catalog()).await;
    contract::artifacts::holds(gateway.artifacts()).await;
    let worker = NatsStore::open(&connected(as_user(&url, "WORKER_ONLY")).await).await.unwrap();
    contract::keyvalue::holds(worker.keyvalue()).await;
    // What a gateway writes reaches a worker.
    let mut watch = worker.catalog().watch().await.unwrap();
    let digest = Digest::of(b"component");
    gateway.artifacts().put(digest, pieces(b"component"), ByteSize(100)).await.unwrap();
    gateway.catalog().put("fn/shared", "1".into(), None).await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Key("fn/shared".into())));
    assert_eq!(worker.catalog().list("fn/shared/").await.unwrap(), []);
    assert_eq!(dunlin_api::Artifacts::fetch(&*worker.artifacts(), digest).await.unwrap(), "component");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_roles_together_keep_every_contract_under_their_permissions() {
    let users: String = ROLES.iter().map(|(name, _)| user(name, &format!("${name}"))).collect();
    let server = server_with(format!("{}\nauthorization {{ users: [\n{users}] }}", documented()));
    let stores = NatsStore::open(&connected(as_user(&server.url(), "GATEWAY_AND_WORKER")).await).await.unwrap();
    contract::catalog::holds(stores.catalog()).await;
    contract::artifacts::holds(stores.artifacts()).await;
    contract::keyvalue::holds(stores.keyvalue()).await;
    assert!(!server.log().contains("Permissions Violation"), "{}", server.log());
}

/// The block of `role` in the documented permissions.
fn block(role: &str) -> String {
    let text = documented();
    let start = text.find(&format!("\n{role} {{")).unwrap();
    let end = start + text[start..].find("\n}").unwrap();
    text[start..end + 2].trim_start().trim_start_matches(role).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_names_whatever_permission_is_missing() {
    let mut users = String::new();
    let mut cases = Vec::new();
    for (name, role) in ROLES {
        let full = block(name);
        for line in full.lines().filter(|line| line.trim().starts_with('"')) {
            let (list, user_name) = (full.find(line).unwrap(), format!("{name}{}", cases.len()));
            let publish = list < full.find("subscribe").unwrap();
            // The line may be in both lists: only this one goes.
            let occurrence = if publish { full.find(line) } else { full.rfind(line) }.unwrap();
            let without = format!("{}{}", &full[..occurrence], &full[occurrence + line.len()..]);
            users += &user(&user_name, &without);
            cases.push((user_name, role, publish, line.trim().trim_matches('"').to_owned()));
        }
    }
    let server = server_with(format!("authorization {{ users: [\n{users}] }}"));
    let url = server.url();
    let checks = cases.iter().map(|(user, role, ..)| async {
        let nats = connected(as_user(&url, user)).await;
        nats.check(*role).await
    });
    let results = futures::stream::iter(checks).buffered(16).collect::<Vec<_>>().await;
    for ((user, _, publish, subject), result) in cases.iter().zip(results) {
        let Err(CheckError::Denied(named)) = result else { panic!("{user} without {subject}: {result:?}") };
        let words = if *publish { "publish" } else { "subscribe" };
        // Of the inbox both are named: without either nothing comes back.
        let start = start_of(subject).replace("inbox.a", "inbox.");
        let about = |named: &String| named.contains(words) && named.replace("inbox.a", "inbox.").contains(&start);
        assert!(!named.is_empty() && named.iter().all(about), "{user} without {subject}: {named:?}");
    }
}

/// What comes before the first wildcard.
fn start_of(subject: &str) -> String {
    subject.split(['*', '>']).next().unwrap().to_owned()
}

async fn refused(config: NatsConfig) -> ConnectError {
    Nats::connect(&config).await.err().unwrap()
}

#[tokio::test]
async fn users_passwords_and_tokens_are_taken_from_the_settings_or_the_url() {
    let server = server_with("authorization { user: dunlin, password: secret }".into());
    let with = |user: &str| server.url().replace("://", &format!("://{user}@"));
    connected(config(with("dunlin:secret"), "a")).await;
    let password = |password: &str| NatsAuth::Password { user: "dunlin".into(), password: password.into() };
    connected(NatsConfig { auth: password("secret"), ..config(server.url(), "a") }).await;
    for wrong in [
        config(server.url(), "a"),
        config(with("dunlin:topsecret"), "a"),
        NatsConfig { auth: password("topsecret"), ..config(server.url(), "a") },
    ] {
        let shown = format!("{wrong:?}");
        let error = refused(wrong).await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("credentials"), "{error}");
        assert!(!error.to_string().contains("topsecret") && !shown.contains("topsecret"), "{error} {shown}");
    }
    let server = server_with("authorization { token: secret }".into());
    connected(config(server.url().replace("://", "://secret@"), "a")).await;
    connected(NatsConfig { auth: NatsAuth::Token("secret".into()), ..config(server.url(), "a") }).await;
    let error = refused(NatsConfig { auth: NatsAuth::Token("wrong".into()), ..config(server.url(), "a") }).await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn an_nkey_is_read_from_its_seed_file() {
    let (dir, key) = (TempDir::new().unwrap(), KeyPair::new_user());
    let server = server_with(format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key()));
    let seed = |key: &KeyPair| file(&dir, "seed", &format!("{}\n", key.seed().unwrap()));
    let with = |path| NatsConfig { auth: NatsAuth::Nkey(path), ..config(server.url(), "a") };
    connected(with(seed(&key))).await;
    for bad in [seed(&KeyPair::new_user()), file(&dir, "none", "no seed")] {
        let error = refused(with(bad)).await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    }
    let error = refused(with(dir.path().join("absent"))).await;
    assert!(error.to_string().contains("absent"), "{error}");
}

/// A JWT as NATS signs them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: serde_json::Value) -> String {
    let header = serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let (iss, sub) = (issuer.public_key(), subject.public_key());
    let claims = serde_json::json!({ "jti": sub, "iat": 1, "iss": iss, "sub": sub, "name": "test", "nats": nats });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    format!("{text}.{}", encode(&issuer.sign(text.as_bytes()).unwrap()))
}

#[tokio::test]
async fn a_credentials_file_is_enough_for_a_server_with_operators() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let all = serde_json::json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1 });
    let signed = jwt(&operator, &account, serde_json::json!({ "type": "account", "version": 2, "limits": all }));
    let server = NatsServer::with(&Options {
        config: format!(
            "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {signed} }}",
            jwt(&operator, &operator, serde_json::json!({ "type": "operator", "version": 2 })),
            account.public_key()
        ),
        core_only: true,
    });
    let limits = serde_json::json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let user_jwt = jwt(&account, &user, limits);
    let credentials = |key: &KeyPair| {
        let seed = key.seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    let dir = TempDir::new().unwrap();
    let with = |path| NatsConfig { auth: NatsAuth::Credentials(path), ..config(server.url(), "a") };
    connected(with(file(&dir, "good.creds", &credentials(&user)))).await;
    let error = refused(with(file(&dir, "stolen.creds", &credentials(&KeyPair::new_user())))).await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    let error = refused(with(file(&dir, "bad.creds", "nothing"))).await;
    assert!(matches!(error, ConnectError::File { .. }) && error.to_string().contains("bad.creds"), "{error}");
}

/// A certificate authority, and certificates of `localhost` and of a client that it signed, as files.
fn certificates(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_needs_the_authority_and_the_certificate_that_the_server_asks_for() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name);
    let tls = |more: &str| {
        let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        server_with(format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true{more} }}"))
    };
    let server = tls("");
    let with = |server: &NatsServer, ca: bool, client: bool, first: bool| NatsConfig {
        tls: NatsTls {
            ca: ca.then(|| path("ca.pem")),
            client: client.then(|| (path("client.pem"), path("client.key"))),
            first,
        },
        connect_timeout: Duration::from_secs(2),
        ..config(server.url(), "a")
    };
    connected(with(&server, true, true, false)).await.check(Role::Both).await.unwrap();
    for (ca, client) in [(false, true), (true, false)] {
        let error = refused(with(&server, ca, client, false)).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{ca} {client}: {error}");
        assert!(error.to_string().contains("CA file"), "{error}");
    }
    let mut absent = with(&server, true, true, false);
    absent.tls.ca = Some(path("absent.pem"));
    assert!(refused(absent).await.to_string().contains("absent.pem"));
    let first = tls(", handshake_first: true");
    connected(with(&first, true, true, true)).await;
    let error = refused(with(&first, true, true, false)).await;
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let mut server = NatsServer::start();
    server.kill();
    let error = refused(config(server.url(), "a")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.url()) && error.to_string().contains("start nats-server"), "{error}");
    let error = refused(config("nats://exa mple".into(), "a")).await;
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
    // A port that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    let error = refused(NatsConfig { connect_timeout: Duration::from_millis(200), ..config(url, "a") }).await;
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
}

async fn check_of(server: &NatsServer) -> CheckError {
    connected(config(server.url(), "a")).await.check(Role::Both).await.err().unwrap()
}

#[tokio::test]
async fn a_server_without_jetstream_or_with_small_messages_is_refused() {
    let error = check_of(&NatsServer::with(&Options { core_only: true, ..Options::default() })).await;
    assert!(matches!(error, CheckError::NoJetStream) && error.to_string().contains("jetstream {"), "{error}");
    let error = check_of(&server_with("max_payload: 100KB".into())).await;
    assert!(matches!(error, CheckError::Payload { .. }) && error.to_string().contains("max_payload"), "{error}");
}

/// No old server is at hand: this one only greets as one and answers pings.
async fn greet(listener: TcpListener, version: &str) {
    let greeting = format!("INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"max_payload\":1048576}}\r\n");
    let serve = |mut stream: tokio::net::TcpStream| {
        let greeting = greeting.clone();
        async move {
            let (read, mut write) = stream.split();
            write.write_all(greeting.as_bytes()).await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "PING" {
                    write.write_all(b"PONG\r\n").await.unwrap();
                }
            }
        }
    };
    let accepted = futures::stream::unfold(listener, |listener| async {
        let (stream, _) = listener.accept().await.unwrap();
        Some((stream, listener))
    });
    accepted.for_each_concurrent(None, serve).await;
}

#[tokio::test]
async fn an_old_server_is_refused_with_the_version_to_install() {
    for version in ["2.9.10", "2.14.2", "2.14.3-beta.1"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let check = async { connected(config(url, "a")).await.check(Role::Both).await };
        let error = tokio::select! {
            () = greet(listener, version) => unreachable!(),
            checked = check => checked.err().unwrap(),
        };
        assert!(matches!(error, CheckError::Version { .. }), "{error}");
        assert!(error.to_string().contains(version) && error.to_string().contains("2.14.3"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_a_server_in_lame_duck_mode_for_another() {
    let cluster = NatsCluster::start();
    // Only one is named; it tells of the others.
    let nats = connected(config(cluster.servers[0].url(), "a")).await;
    let clients = [nats.control.clone(), nats.bulk.clone(), nats.jetstream.client()];
    assert!(clients.iter().all(|client| client.server_info().server_name == "n1"));
    let mut changes = nats.connection();
    changes.mark_unchanged();
    cluster.servers[0].lame_duck();
    // Within the ten seconds that the server waits before it sends its clients away.
    let left = tokio::time::timeout(Duration::from_secs(9), async {
        while clients.iter().any(|client| client.server_info().server_name == "n1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    left.await.expect("the connections left the server");
    nats.control.flush().await.unwrap();
    assert!(changes.has_changed().unwrap());
    nats.connection().wait_for(|connected| *connected).await.unwrap();
    NatsStore::open(&nats).await.unwrap().keyvalue().set("s", "k", "v".into()).await.unwrap();
    drop(join_all(clients.iter().map(async_nats::Client::flush)).await);
}
