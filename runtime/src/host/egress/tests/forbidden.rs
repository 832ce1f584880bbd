//! Where no function gets, however the address is written and whoever answers for the name.

use wasmtime_wasi_http::Error;

use super::{
    super::EgressConfig,
    double::{Behaviour, Bench, Liar, Server, get},
};

/// Hosts of URLs. Those that a URL cannot hold are refused before anything is asked; none may be connected to.
const SPELLINGS: &str = "127.0.0.1 127.1 127.0.1 127.255.255.254 127.0.0.1. 2130706433 0x7f000001 0x7f.1 0x7f.0.0.1 \
    017700000001 0177.0.0.1 0177.1 127.0x0.0.1 0 0.0.0.0 00.0.0.0 localhost LOCALHOST localhost. \
    ip6-localhost [::1] [0:0:0:0:0:0:0:1] [0000::0001] [::] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] \
    [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] \
    [2001:0:7f00:1::] [fe80::1] [fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] 169.254.169.254 2852039166 0xa9fea9fe \
    0251.0376.0251.0376 169.254.43518 100.100.100.200 192.0.0.192 168.63.129.16 10.0.0.1 172.16.0.1 192.168.0.1 \
    100.64.0.1 198.18.0.1 192.0.2.1 203.0.113.1 224.0.0.1 255.255.255.255 240.0.0.1 \
    127.0.0.1%00.example.org a@127.0.0.1 127.0.0.1#@example.org ①②⑦.0.0.1 127。0。0。1";

#[tokio::test]
async fn no_spelling_of_a_forbidden_address_is_connected_to() {
    let canary = Server::start(Behaviour::Reply(super::HELLO)).await;
    let network = Liar::new(canary.address, &[]);
    let bench = Bench::with(EgressConfig { network: network.clone(), ..EgressConfig::default() }, &["*"]);
    let mut asked = 0;
    for host in SPELLINGS.split_whitespace() {
        let url = canary.url(host);
        // What no URI can hold, no guest can send.
        if url.parse::<http::Uri>().is_err() {
            continue;
        }
        let error = get(&mut bench.outbound(), &url, None).await.err();
        let refused = matches!(
            error,
            Some(Error::DestinationIpProhibited | Error::DnsError { .. } | Error::HttpRequestUriInvalid)
        );
        assert!(refused, "{host}: {error:?}");
        asked += 1;
    }
    assert!(asked >= 55, "only {asked} spellings were tried");
    assert_eq!(*network.dialled.lock().unwrap(), []);
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_leads_nowhere_else() {
    let canary = Server::start(Behaviour::Last(super::CUT)).await;
    // Each answer serves one connection; the server ends each, so that the pool asks again.
    let network = Liar::new(
        canary.address,
        &[&["93.184.215.14"], &["127.0.0.1"], &["127.0.0.1", "93.184.215.14"], &["169.254.169.254", "::1"]],
    );
    let bench = Bench::with(EgressConfig { network: network.clone(), ..EgressConfig::default() }, &["*"]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = get(&mut bench.outbound(), &canary.url("api.example.com"), None).await;
        seen.push(matches!(answer, Err(Error::DestinationIpProhibited)));
    }
    assert_eq!(seen, [false, true, false, true]);
    let public = format!("93.184.215.14:{}", canary.address.port()).parse().unwrap();
    assert_eq!(*network.dialled.lock().unwrap(), [public, public]);
}

#[tokio::test]
async fn a_granted_name_is_no_grant_for_a_private_address() {
    let canary = Server::start(Behaviour::Reply(super::HELLO)).await;
    let network = Liar::new(canary.address, &[&["127.0.0.1"], &["10.0.0.7"]]);
    let config = EgressConfig { network: network.clone(), ..EgressConfig::default() };
    let bench = Bench::with(config, &[&canary.origin("api.example.com")]);
    for _ in 0..2 {
        let refused = get(&mut bench.outbound(), &canary.url("api.example.com"), None).await;
        assert!(matches!(refused, Err(Error::DestinationIpProhibited)));
    }
    assert!(bench.logs.remarks()[0].contains("may not reach its address"));
    assert_eq!(*network.dialled.lock().unwrap(), []);
}
