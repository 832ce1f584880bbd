use super::*;
use dunlin_api::{Deployment, Digest, Revision, RevisionId, Settings, World};
use proptest::prelude::*;

fn trigger(text: &str) -> HttpTrigger {
    let (methods, rest) = text.split_once(' ').unwrap_or(("", text));
    let (host, route) = rest.split_at(rest.find('/').unwrap_or(0));
    HttpTrigger {
        route: route.into(),
        host: (!host.is_empty()).then(|| host.into()),
        methods: methods.split(',').filter(|m| !m.is_empty()).map(Into::into).collect(),
    }
}

fn deployed(name: &str, http: Vec<HttpTrigger>) -> (FunctionName, Arc<Deployed>) {
    let function: FunctionName = name.parse().unwrap();
    let settings = Settings { http, ..Settings::default() };
    let artifact = Digest::of(b"x");
    let id = RevisionId::of(&artifact, &settings);
    let revision = Revision {
        function: function.clone(),
        id: id.clone(),
        artifact,
        size_bytes: 1,
        world: World::Http02,
        settings,
        created_ms: 0,
    };
    let deployment = Deployment { function: function.clone(), serving: vec![(id.clone(), 1)], revisions: vec![id] };
    (function, Arc::new(Deployed { deployment, version: 1, serving: vec![(Arc::new(revision), 1)] }))
}

fn snapshot(routes: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in routes.iter().map(|(name, _)| *name) {
        let http = routes.iter().filter(|(n, _)| *n == name).map(|(_, text)| trigger(text)).collect();
        snapshot.functions.extend([deployed(name, http)]);
    }
    snapshot
}

fn table(routes: &[(&str, &str)]) -> RouteTable {
    let (table, errors) = RouteTable::new(&snapshot(routes));
    assert_eq!(errors, []);
    table
}

fn name<'a>(table: &'a RouteTable, host: &str, path: &str, method: &str) -> Result<&'a str, Miss> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    table.find(Some(host), path, &method).map(|d| d.deployment.function.as_str())
}

#[test]
fn the_most_specific_path_wins() {
    let table = table(&[
        ("all", "/{*rest}"),
        ("param", "/a/{x}"),
        ("text", "/a/b"),
        ("deep", "/a/{x}/c"),
        ("rest", "/a/{*rest}"),
        ("root", "/"),
    ]);
    for (path, function) in [
        ("/", "root"),
        ("/z", "all"),
        ("/a", "rest"),
        ("/a/", "rest"),
        ("/a/b", "text"),
        ("/a/c", "param"),
        ("/a/b/c", "deep"),
        ("/a/b/d", "rest"),
        ("/ab", "all"),
        ("/a/%2e%2e/z", "rest"),
        ("/a%2Fb", "all"),
    ] {
        assert_eq!(name(&table, "h", path, "GET"), Ok(function), "{path}");
    }
}

#[test]
fn a_rest_serves_its_bare_prefix_unless_another_route_names_it() {
    let table = table(&[("hello", "/hello/{*rest}"), ("slash", "/hello/"), ("post", "POST /hello")]);
    assert_eq!(name(&table, "h", "/hello", "GET"), Ok("hello"));
    assert_eq!(name(&table, "h", "/hello", "POST"), Ok("post"));
    assert_eq!(name(&table, "h", "/hello/", "GET"), Ok("slash"));
    assert_eq!(name(&table, "h", "/hello/x", "GET"), Ok("hello"));
    assert_eq!(name(&table, "h", "/hellox", "GET"), Err(Miss::NoRoute));
}

#[test]
fn the_bare_prefix_is_more_specific_than_a_rest_above_it() {
    let table = table(&[("site", "/{*path}"), ("hello", "/hello/{*path}"), ("one", "/{name}")]);
    assert_eq!(name(&table, "h", "/hello", "GET"), Ok("hello"));
    assert_eq!(name(&table, "h", "/other", "GET"), Ok("one"));
    assert_eq!(name(&table, "h", "/", "GET"), Ok("site"));
}

#[test]
fn an_exact_host_wins_and_falls_through_where_it_has_no_path() {
    let table = table(&[
        ("exact", "shop.example.com/cart"),
        ("wild", "*.example.com/{*rest}"),
        ("any", "/cart"),
        ("more", "/more"),
    ]);
    assert_eq!(name(&table, "Shop.Example.com", "/cart", "GET"), Ok("exact"));
    assert_eq!(name(&table, "shop.example.com", "/more", "GET"), Ok("wild"));
    assert_eq!(name(&table, "example.com", "/cart", "GET"), Ok("any"));
    assert_eq!(name(&table, "example.com", "/more", "GET"), Ok("more"));
    assert_eq!(table.find(None, "/cart", &Method::GET).unwrap().deployment.function.as_str(), "any");
}

#[test]
fn methods_share_a_path_and_the_others_are_told_which() {
    let table = table(&[("read", "GET /x"), ("write", "POST,PUT /x")]);
    assert_eq!(name(&table, "h", "/x", "GET"), Ok("read"));
    assert_eq!(name(&table, "h", "/x", "HEAD"), Ok("read"));
    assert_eq!(name(&table, "h", "/x", "PUT"), Ok("write"));
    assert_eq!(name(&table, "h", "/x", "DELETE"), Err(Miss::Method("GET, HEAD, POST, PUT".into())));
}

#[test]
fn a_claimed_route_is_refused_with_both_functions_and_routes() {
    let snapshot = snapshot(&[("old", "GET,POST shop.example.com/x/{id}")]);
    let check = |text: &str| check_routes(&snapshot, &"new".parse().unwrap(), &[trigger(text)]);
    let message = check("POST SHOP.example.com./x/{other}").unwrap_err().to_string();
    for part in ["`new`", "`old`", "/x/{id}", "/x/{other}"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(check("shop.example.com/x/{other}").is_err());
    for free in ["PUT shop.example.com/x/{id}", "/x/{id}", "shop.example.com/x/{*rest}", "shop.example.com/x/y"] {
        assert_eq!(check(free), Ok(()), "{free}");
    }
    assert_eq!(check_routes(&snapshot, &"old".parse().unwrap(), &[trigger("shop.example.com/x/{id}")]), Ok(()));
}

#[test]
fn a_malformed_route_is_refused_with_its_reason() {
    let check = |text: &str| check_routes(&Snapshot::default(), &"f".parse().unwrap(), &[trigger(text)]);
    assert!(check("/a/{b").unwrap_err().to_string().contains("whole segment"));
    assert!(check("a*.example/x").unwrap_err().to_string().contains("*.example.com"));
}

#[test]
fn two_functions_with_one_route_in_a_snapshot_leave_it_with_the_first_name() {
    let (table, errors) = RouteTable::new(&snapshot(&[("b", "/x"), ("a", "/x")]));
    assert_eq!(name(&table, "h", "/x", "GET"), Ok("a"));
    assert!(matches!(&errors[..], [RouteError::Conflict { function, .. }] if function.as_str() == "b"));
}

#[test]
fn ten_thousand_routes_are_all_found() {
    let mut snapshot = Snapshot::default();
    for n in 0..10_000 {
        let name = format!("f{n}");
        snapshot.functions.extend([deployed(&name, vec![trigger(&format!("/{name}/{{*rest}}"))])]);
    }
    let before = std::time::Instant::now();
    let (table, errors) = RouteTable::new(&snapshot);
    println!("10,000 routes built in {:?}", before.elapsed());
    assert_eq!(errors, []);
    for n in [0, 1, 4_999, 9_999] {
        assert_eq!(name(&table, "h", &format!("/f{n}/x"), "GET"), Ok(&*format!("f{n}")));
    }
}

/// What the table must answer, by the plainest means: compare segment by segment.
fn rank(pattern: &str, path: &str) -> Option<Vec<u8>> {
    let (mut rank, mut sent) = (Vec::new(), path.split('/').skip(1));
    for part in pattern.split('/').skip(1) {
        match (part, sent.next()) {
            ("{*r}", first) => {
                rank.push(2);
                // The bare prefix is served as if it were text.
                return first.filter(|s| !s.is_empty() || sent.next().is_some()).map(|_| rank);
            }
            ("{p}", Some(text)) if !text.is_empty() => rank.push(1),
            (plain, Some(text)) if plain == text => rank.push(0),
            _ => return None,
        }
    }
    sent.next().is_none().then_some(rank)
}

proptest! {
    #[test]
    fn agrees_with_comparing_every_pattern(
        patterns in prop::collection::btree_set("(/(a|b|\\{p\\})){1,3}(/\\{\\*r\\})?", 1..8),
        path in "(/(a|b|c)){1,5}",
    ) {
        let names: Vec<_> = (0..patterns.len()).map(|n| format!("f{n}")).collect();
        let routes: Vec<_> = names.iter().map(String::as_str).zip(patterns.iter().map(String::as_str)).collect();
        let expected = routes.iter().filter_map(|(f, pattern)| Some((rank(pattern, &path)?, *f))).min();
        // A bare prefix is text where its pattern is, and behind an explicit route of the same shape.
        let bare = |p: &str| p.strip_suffix("/{*r}").and_then(|prefix| rank(prefix, &path));
        let bare = routes.iter().filter_map(|(f, pattern)| Some((bare(pattern)?, *f))).min();
        let expected = match (expected, bare) {
            (Some(e), Some(b)) => Some(if b.0 < e.0 { b } else { e }),
            (e, b) => e.or(b),
        };
        let table = table(&routes);
        prop_assert_eq!(name(&table, "h", &path, "GET").ok(), expected.map(|(_, f)| f));
    }
}
