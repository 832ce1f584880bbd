//! Which function serves a request: host, path and method against the HTTP triggers of everything deployed.
//!
//! The router builds one [`RouteTable`] per snapshot and asks it on every request; a deploy asks [`check_routes`] first,
//! so that two functions never claim one route. A hit allocates nothing and borrows everything. Bounds: a pattern has at
//! most 1,024 bytes, a host 253; a table is rebuilt whole, in milliseconds for 10,000 routes.
//!
//! The order of rules: an exact host before the longest fitting wildcard before any host, and on to the next of these if
//! no path fits there. Then the most specific path, segment by segment: text, `{param}`, `{*rest}`, whatever the order of
//! deploys. `/x/{*rest}` serves `/x` and `/x/` too, unless a route names exactly that. Then the method: a route that takes
//! GET takes HEAD; if the most specific path takes other methods only, the answer is that list, not a less specific path.

mod host;
mod paths;
mod pattern;

use dunlin_api::{FunctionName, HttpTrigger};
use http::Method;
use std::sync::Arc;

use crate::snapshot::{Deployed, Snapshot};
use host::Hosts;
pub(crate) use host::parse as parse_host;
use paths::{Claim, Claims, Paths, overlap};
use pattern::Pattern;
pub use pattern::has_dot_segment;

/// Why a function cannot have a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The route or its host is not well-formed.
    #[error("route `{route}` of function `{function}` {reason}")]
    Invalid {
        /// The function that wants it.
        function: FunctionName,
        /// As it is written, host first.
        route: String,
        /// What is wrong, as the end of the sentence.
        reason: String,
    },
    /// Another function has it.
    #[error(
        "route `{route}` of function `{function}` takes the same requests as `{other_route}` of function `{other}`: \
         change one of them, or give them different methods"
    )]
    Conflict {
        /// The function that wants it.
        function: FunctionName,
        /// Its route.
        route: String,
        /// The function that has it.
        other: FunctionName,
        /// That function's route.
        other_route: String,
    },
}

/// Why no function takes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No route has this host and path.
    NoRoute,
    /// The most specific route takes these methods only, ready for an `Allow` field.
    Method(String),
}

/// All routes of a snapshot, ready to be asked.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: Hosts<Paths>,
}

impl RouteTable {
    /// Builds the table. Where two functions claim one route in spite of the check (two deploys at once), the first name
    /// in the alphabet keeps it, the same on every node, and the other is reported.
    pub fn new(snapshot: &Snapshot) -> (Self, Vec<RouteError>) {
        let mut table = Self::default();
        let mut errors = Vec::new();
        let mut functions: Vec<_> = snapshot.functions.iter().collect();
        functions.sort_unstable_by_key(|(name, _)| *name);
        for (name, deployed) in functions {
            for trigger in triggers(deployed) {
                match parse(name, trigger) {
                    Err(error) => errors.push(error),
                    Ok(route) => errors.extend(table.claim(route, deployed, trigger)),
                }
            }
        }
        (table, errors)
    }

    fn claim(&mut self, route: Route, function: &Arc<Deployed>, trigger: &HttpTrigger) -> Option<RouteError> {
        let claims = self.hosts.entry(route.host.as_deref()).claims(&route.pattern);
        let name = &function.deployment.function;
        let rivals = claims.iter().map(|claim| &claim.function.deployment.function);
        let taken =
            claims.iter().zip(rivals).find(|(claim, rival)| *rival != name && overlap(&claim.methods, &route.methods));
        if let Some((claim, rival)) = taken {
            let mut theirs = triggers(&claim.function);
            let theirs = theirs.find(|theirs| parse(rival, theirs).is_ok_and(|theirs| theirs.pattern == route.pattern));
            return Some(conflict(name, trigger, rival, theirs.unwrap_or(trigger)));
        }
        claims.push(Claim { function: function.clone(), methods: route.methods });
        None
    }

    /// The function that takes `method` on `path` (without query) at `host` (none = the request names none).
    ///
    /// # Errors
    /// That there is no route, or which methods it takes.
    pub fn find(&self, host: Option<&str>, path: &str, method: &Method) -> Result<&Arc<Deployed>, Miss> {
        choose(self.hosts.ask(host, |paths| paths.find(path)).ok_or(Miss::NoRoute)?, method)
    }
}

fn choose<'a>(claims: Claims<'a>, method: &Method) -> Result<&'a Arc<Deployed>, Miss> {
    let taker = |claims: &'a [Claim]| {
        let with = |method: &Method| claims.iter().find(|claim| claim.takes(method));
        with(method).or_else(|| (*method == Method::HEAD).then(|| with(&Method::GET))?)
    };
    let found = taker(claims.explicit).or_else(|| taker(claims.implicit));
    found.map(|claim| &claim.function).ok_or_else(|| Miss::Method(allowed(claims)))
}

fn allowed(claims: Claims<'_>) -> String {
    let all = claims.explicit.iter().chain(claims.implicit);
    let mut names: Vec<&str> = all.flat_map(|claim| &claim.methods).map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// A trigger in canonical form.
struct Route {
    host: Option<String>,
    pattern: Pattern,
    methods: Vec<Method>,
}

impl Route {
    /// Whether some request would be for both.
    fn collides(&self, other: &Self) -> bool {
        self.host == other.host && self.pattern == other.pattern && overlap(&self.methods, &other.methods)
    }
}

fn parse(function: &FunctionName, trigger: &HttpTrigger) -> Result<Route, RouteError> {
    let invalid = |reason| RouteError::Invalid { function: function.clone(), route: shown(trigger), reason };
    let host = trigger.host.as_deref().map(host::canonical).transpose();
    let host = host.map_err(|reason| invalid(format!("has a host that {reason}")))?;
    let pattern = Pattern::parse(&trigger.route).map_err(invalid)?;
    let method = |m: &String| Method::from_bytes(m.as_bytes()).map_err(|_| invalid(format!("has `{m}` as a method")));
    let methods = trigger.methods.iter().map(method).collect::<Result<_, _>>()?;
    Ok(Route { host, pattern, methods })
}

/// The triggers of every revision that receives traffic: while two revisions share it, the routes of both are served.
fn triggers(deployed: &Deployed) -> impl Iterator<Item = &HttpTrigger> {
    let serving = deployed.serving.iter().filter(|(_, weight)| *weight > 0);
    serving.flat_map(|(revision, _)| &revision.settings.http)
}

fn conflict(name: &FunctionName, mine: &HttpTrigger, other: &FunctionName, theirs: &HttpTrigger) -> RouteError {
    RouteError::Conflict {
        function: name.clone(),
        route: shown(mine),
        other: other.clone(),
        other_route: shown(theirs),
    }
}

fn shown(trigger: &HttpTrigger) -> String {
    let host = trigger.host.as_deref().unwrap_or_default();
    let methods = trigger.methods.join(",");
    let space = if methods.is_empty() { "" } else { " " };
    let text: String = format!("{methods}{space}{host}{}", trigger.route).chars().take(200).collect();
    text.escape_debug().to_string()
}

/// Checks that `name` may have `triggers`: each is well-formed, and no other function of `snapshot` has a route that
/// takes the same requests.
///
/// # Errors
/// The first route that cannot be, with the function that has it already.
pub fn check_routes(snapshot: &Snapshot, name: &FunctionName, triggers: &[HttpTrigger]) -> Result<(), RouteError> {
    let others = snapshot.functions.iter();
    check_against(
        name,
        triggers,
        others.flat_map(|(other, deployed)| self::triggers(deployed).map(move |t| (other, t))),
    )
}

/// Checks that `name` may have `triggers` beside what `other` is about to have.
///
/// # Errors
/// As [`check_routes`].
pub(crate) fn check_claim(
    name: &FunctionName,
    triggers: &[HttpTrigger],
    other: &FunctionName,
    claimed: &[HttpTrigger],
) -> Result<(), RouteError> {
    check_against(name, triggers, claimed.iter().map(|trigger| (other, trigger)))
}

fn check_against<'a>(
    name: &FunctionName,
    triggers: &[HttpTrigger],
    taken: impl Iterator<Item = (&'a FunctionName, &'a HttpTrigger)>,
) -> Result<(), RouteError> {
    let routes = triggers.iter().map(|trigger| Ok((parse(name, trigger)?, trigger))).collect::<Result<Vec<_>, _>>()?;
    for (other, theirs) in taken.filter(|(other, _)| *other != name) {
        let Ok(taken) = parse(other, theirs) else { continue };
        if let Some((_, mine)) = routes.iter().find(|(route, _)| route.collides(&taken)) {
            return Err(conflict(name, mine, other, theirs));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
