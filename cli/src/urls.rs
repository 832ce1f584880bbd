//! From a route to something that can be typed: the part of it that never varies, and the URL of that part.

use dunlin_api::{HttpTrigger, Settings};

/// What every path of `route` begins with: `/orders/{id}` → `/orders/`.
pub(crate) fn static_prefix(route: &str) -> &str {
    // The braces of a literal brace are doubled; such a route is rare, and its prefix then ends a little early.
    let end = route.find('{').unwrap_or(route.len());
    &route[..end]
}

/// The path that `dunlin invoke NAME` asks for: the prefix of the first route.
pub(crate) fn default_path(settings: &Settings) -> &str {
    settings.http.first().map_or("/", |trigger| static_prefix(&trigger.route))
}

/// Where each route of `settings` is reached on a node whose HTTP front is at `base` (without a trailing slash).
pub(crate) fn urls(base: &str, settings: &Settings) -> Vec<String> {
    settings.http.iter().map(|trigger| format!("{base}{}", static_prefix(&trigger.route))).collect()
}

/// A `curl` line that reaches `trigger`.
pub(crate) fn curl(base: &str, trigger: &HttpTrigger) -> String {
    let method =
        trigger.methods.first().filter(|method| *method != "GET" && !trigger.methods.iter().any(|m| m == "GET"));
    let method = method.map(|method| format!("-X {method} ")).unwrap_or_default();
    let host = trigger.host.as_ref().map(|host| format!("-H 'host: {host}' ")).unwrap_or_default();
    format!("curl {method}{host}{base}{}", static_prefix(&trigger.route))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(route: &str, host: Option<&str>, methods: &[&str]) -> HttpTrigger {
        let methods = methods.iter().map(|&m| m.to_owned()).collect();
        HttpTrigger { route: route.into(), host: host.map(Into::into), methods }
    }

    #[test]
    fn the_static_prefix_ends_where_a_parameter_begins() {
        for (route, prefix) in [
            ("/a/{*path}", "/a/"),
            ("/o/{id}/x", "/o/"),
            ("/plain", "/plain"),
            ("/", "/"),
            ("/{*path}", "/"),
            ("/v{n}", "/v"),
        ] {
            assert_eq!(static_prefix(route), prefix);
        }
    }

    #[test]
    fn a_curl_line_says_what_the_route_asks_for() {
        let base = "http://127.0.0.1:8080";
        assert_eq!(curl(base, &trigger("/a/{*path}", None, &[])), "curl http://127.0.0.1:8080/a/");
        assert_eq!(
            curl(base, &trigger("/a", Some("shop.example.com"), &["POST"])),
            "curl -X POST -H 'host: shop.example.com' http://127.0.0.1:8080/a"
        );
        assert_eq!(curl(base, &trigger("/a", None, &["HEAD", "GET"])), "curl http://127.0.0.1:8080/a");
    }

    #[test]
    fn a_function_without_routes_is_called_at_the_root() {
        assert_eq!(default_path(&Settings::default()), "/");
    }
}
